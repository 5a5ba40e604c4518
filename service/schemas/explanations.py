"""Explanations of recommended items: what each code and each item of the history contributed."""

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


class Explanation(TypedDict):
    """Reasons for one recommended item."""

    codes: list[CodeReason]
    history: Annotated[
        list[HistoryReason],
        Field(description="newest items of the history, oldest first; none for popular items"),
    ]
