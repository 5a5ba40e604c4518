"""Explanations of recommended items: what the score is made of, what codes and items of the history contributed."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from service.schemas.items import ShownItem
from service.schemas.types import Nullable


class CodeReason(TypedDict):
    """One code of a recommended item."""

    code: int
    name: NotRequired[Annotated[Nullable[str], Field(description="of the prefix that ends here; null if it has none")]]
    log_prob: NotRequired[
        Annotated[Nullable[float], Field(description="of this code after those before it; null for popular items")]
    ]
    items: Annotated[int, Field(description="items below the prefix that ends here")]
    examples: Annotated[list[ShownItem], Field(description="popular ones among them")]


class HistoryReason(ShownItem):
    """Contribution of one item of the history."""

    contribution: NotRequired[
        Annotated[
            Nullable[float],
            Field(description="what the score loses without this item; null if the history is this item alone"),
        ]
    ]


class ScoreParts(TypedDict):
    """Parts of one item's score, in its units. Their sum is the score, but for the rounding of 32-bit numbers."""

    codes: Annotated[float, Field(description="`log_prob`")]
    cosine: Annotated[
        float, Field(description="of the user's vector and the item's, with content and repeats of the history")
    ]
    neighbours: Annotated[
        float, Field(description="from how close the item stood to the newest items of the history in others'")
    ]
    ranker: Annotated[float, Field(description="correction by the ranker; 0 if the version has none")]
    fresh_boost: Annotated[float, Field(description="of items that came after training, by the service's setting")]
    steer: Annotated[float, Field(description="from the request's steered prefixes")]
    boosts: Annotated[float, Field(description="from the request's boosts")]


class Explanation(TypedDict):
    """Reasons for one recommended item."""

    parts: NotRequired[
        Annotated[
            Nullable[ScoreParts],
            Field(description="what the score is made of; null for popular items"),
        ]
    ]
    codes: list[CodeReason]
    history: Annotated[
        list[HistoryReason],
        Field(description="newest items of the history, oldest first; none for popular items"),
    ]
