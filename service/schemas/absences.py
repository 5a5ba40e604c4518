"""Request and answer of ``POST /recommend/why-not``: why an item is not in an answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from model_store.events.event import EVENT_TYPES, EventType
from service.schemas.ids import ShortId, ShortIds
from service.schemas.items import CodedItem, ShownItem
from service.schemas.recommend import RecommendRequest
from service.schemas.rules import Filter
from service.schemas.types import Body, Listed

Verdict = Literal[
    "answered",
    "hidden",
    "filtered",
    "denied",
    "disliked",
    "seen",
    "same_prefix",
    "outscored",
    "not_searched",
    "popular",
]
"""Why an item is not in an answer: ``outscored`` is by score, ``not_searched`` means that its score would have been
enough, but the search had left its path; ``popular``: the history has no known item, so the model did not answer."""


class WhyNotRequest(Body):
    """Body of `POST /recommend/why-not`: a request for recommendations, and the item that is asked about.

    It takes the rules that close items, not those that change the order of an answer.
    """

    item_id: ShortId = Field(description="the item that is asked about")
    user_id: ShortId | None = Field(None, description="whose stored history to use, if `history` is absent")
    history: ShortIds | None = Field(
        None, description="item ids, oldest first; wins over the stored history of `user_id`"
    )
    k: int = Field(10, ge=1, description="answers wanted")
    exclude_seen: bool | Annotated[Listed[EventType], Field(max_length=len(EVENT_TYPES))] = Field(
        True, description="as in `POST /recommend`"
    )
    filter: Filter | None = Field(None, description="as in `POST /recommend`; values of a viewed item restrict nothing")
    max_per_prefix: int | None = Field(
        None, ge=1, le=1000, description="at most so many answers that share their first code"
    )

    @property
    def recommendation(self) -> RecommendRequest:
        """The request for recommendations that it speaks of."""
        return RecommendRequest(
            user_id=self.user_id,
            history=self.history,
            k=self.k,
            exclude_seen=self.exclude_seen,
            filter=self.filter,
            max_per_prefix=self.max_per_prefix,
        )


ONE_WHY_NOT: TypeAdapter[WhyNotRequest] = TypeAdapter(WhyNotRequest)
"""Body of `POST /recommend/why-not`."""


class SiblingCode(TypedDict):
    """The strongest other code after the same codes."""

    code: int
    name: str | None
    log_prob: Annotated[float | None, Field(description="of this code after those before it")]
    example: Annotated[ShownItem, Field(description="an item below it that obeys the rules")]


class CodeStanding(TypedDict):
    """One code of the item, and the code that won at its place."""

    code: int
    name: Annotated[str | None, Field(description="of the prefix that ends here; null if it has none")]
    log_prob: Annotated[float | None, Field(description="of this code after those before it")]
    survived: Annotated[bool, Field(description="whether an item below this prefix came out of the search")]
    sibling: Annotated[SiblingCode | None, Field(description="null if no other code is open")]


class LastAnswered(ShownItem):
    """The last item of the answer, which the item would have to beat."""

    score: float
    log_prob: float


class WhyNotResponse(CodedItem):
    """Answer of `POST /recommend/why-not`."""

    model_version: str
    verdict: Annotated[
        Verdict,
        Field(
            description="`answered`: it is in the answer. Closed by a rule: `hidden`, `filtered`, `denied` or `seen`. "
            "`disliked`: the user spoke against it. `same_prefix`: `max_per_prefix` left it out. `outscored`: the "
            "others score higher. `not_searched`: its score would do, but the search had left its path. `popular`: "
            "popular items answered, not the model"
        ),
    ]
    closed_by: Annotated[str | None, Field(description="field of the request that closes it; null if none does")]
    rank: Annotated[int | None, Field(description="its rank in the answer, from 1; null if it is not there")]
    score: Annotated[float | None, Field(description="its score, whether or not a rule closes it")]
    log_prob: Annotated[float | None, Field(description="its log-probability")]
    lacks: Annotated[
        float | None, Field(description="nats of score that it lacks to beat `last`; negative: it would beat it")
    ]
    last: Annotated[LastAnswered | None, Field(description="the last item of the answer; null if it is empty")]
    levels: Annotated[list[CodeStanding], Field(description="its codes in order; empty for popular answers")]
