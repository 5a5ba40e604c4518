"""Requests and answers of ``POST /recommend``: the fields, their meaning and their fixed bounds.

:mod:`service.http.limits` checks the bounds that operators choose (``max_k``, ``max_history_ids`` …).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NotRequired

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from model_store.catalogue.catalogue import Catalogue
from service.schemas.experiments import UsedExperiment
from service.schemas.explanations import Explanation
from service.schemas.ids import ShortId, ShortIds
from service.schemas.placements import PlacementName, UsedPlacement
from service.schemas.ranking import CONTAINERS as RANKING_CONTAINERS
from service.schemas.ranking import RuleCost, SkippedPin
from service.schemas.rules import MAX_RANGES, Rules
from service.schemas.types import Listed, Nullable

CONTAINERS = 15 + 2 * MAX_RANGES * 5 + RANKING_CONTAINERS
"""Largest number of JSON objects and lists in one request: itself, history, types, what not to show again, filter with
its five lists, the same without `deny` in `not`, and twice as many ranges as one list holds, each with four bounds of
the viewed item; and the rules that change the order."""


class RecommendRequest(Rules):
    """Body of `POST /recommend`."""

    user_id: ShortId | None = Field(None, description="whose stored history to use, if `history` is absent")
    session_id: ShortId | None = Field(None, description="who asks if there is no `user_id`; it has no stored history")
    history: ShortIds | None = Field(
        None, description="item ids, oldest first; wins over the stored history of `user_id`"
    )
    viewed_item: ShortId | None = Field(
        None, description="item that the user looks at: it is not answered, and filters may take values from it"
    )
    placement: PlacementName | None = Field(
        None, description="name of a placement, whose rules hold where this request gives none"
    )
    budget_ms: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="time budget in milliseconds, at most the service's own"
    )
    model: Literal["live", "candidate", "shadow"] | None = Field(
        None,
        description="the model that answers, to compare versions: the live one, or that of an alias. Needs a key of"
        " scope admin. Such a request counts nowhere, and its answer has no attribution. Left out: the model of"
        " the user, which is the live one but for those of a canary or an experiment",
    )
    explain: bool = Field(False, description="tell why each item was answered; costs about as much as a batch")


ONE_REQUEST: TypeAdapter[RecommendRequest] = TypeAdapter(RecommendRequest)
"""Body of `POST /recommend`."""

REQUESTS: TypeAdapter[list[RecommendRequest]] = TypeAdapter(Listed[RecommendRequest])
"""Body of `POST /recommend/batch`."""


class RecommendedItem(TypedDict):
    """One recommended item."""

    item_id: str
    score: Annotated[float, Field(description="items are ordered by it; comparable inside one answer only")]
    log_prob: Annotated[
        float, Field(description="natural logarithm of the item's probability, by the model or by popularity")
    ]
    codes: Annotated[list[int], Field(description="the item's semantic ID")]
    title: NotRequired[Nullable[str]]
    explanation: NotRequired[Annotated[Nullable[Explanation], Field(description="only if `explain` asked for it")]]
    propensity: NotRequired[
        Annotated[
            Nullable[float],
            Field(
                description="only if `explain` asked for it and the answer explored: probability with which this item"
                " came to this place; 1 where nothing is left to chance, null beyond place 25"
            ),
        ]
    ]


class RecommendResponse(TypedDict):
    """Answer of `POST /recommend`."""

    request_id: str
    model_version: str
    served_by: Literal["model", "cache", "popular"]
    degraded: Annotated[bool, Field(description="true while the store cannot be reached: histories may be missing")]
    took_ms: float
    attribution: Annotated[
        str | None,
        Field(
            description="send it back with the events that this answer leads to; at most 160 characters; null until the"
            " store has been reached once, and where the request names a model"
        ),
    ]
    placement: Annotated[Nullable[UsedPlacement], Field(description="the placement whose rules held; null without")]
    experiment: Annotated[
        Nullable[UsedExperiment], Field(description="the placement's experiment, if the asker takes part; else null")
    ]
    ignored_rules: Annotated[
        Sequence[str],
        Field(
            description="rules that restricted nothing: parts of the filter for which `viewed_item` has no value, and"
            " `exclude_shown` if it is not known who asks"
        ),
    ]
    unknown_items: Annotated[Sequence[str], Field(description="ids of the history that the catalogue lacks")]
    items: Annotated[list[RecommendedItem], Field(description="best first; fewer than k only if fewer obey the rules")]
    rules: NotRequired[
        Annotated[Nullable[list[RuleCost]], Field(description="cost of each rule, only if `explain` asked for it")]
    ]
    skipped_pins: NotRequired[
        Annotated[Nullable[list[SkippedPin]], Field(description="pins left out, only if the request has `pins`")]
    ]


def build_recommended_items(
    catalogue: Catalogue,
    item_ids: Sequence[str],
    rows: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    log_probs: npt.NDArray[np.float32],
) -> list[RecommendedItem]:
    """Return the documents of items, best first.

    Args:
        catalogue: The catalogue that ``rows`` belong to.
        item_ids: The recommended items, ``[n]``.
        rows: Their rows, ``[n]``.
        scores: Their scores, ``[n]``.
        log_probs: Their log-probabilities, ``[n]``.
    """
    codes = catalogue.codes[rows].tolist()
    titles = catalogue.titles_of(rows.tolist())

    return [
        {
            "item_id": item_id,
            "score": score,
            "log_prob": log_prob,
            "codes": code,
            "title": title or None,
        }
        for item_id, title, score, log_prob, code in zip(
            item_ids, titles, scores.tolist(), log_probs.tolist(), codes, strict=True
        )
    ]
