"""Rules of an answer, which requests, placements and variants of experiments give."""

from typing import Literal, Required, TypedDict

from etegrec_client.types.fields import EventType, Id


class ViewedCategories(TypedDict):
    """Stands for the categories of the viewed item."""

    viewed: Literal[True]


class ViewedNumber(TypedDict, total=False):
    """Stands for a number of the viewed item, times a factor."""

    viewed: Required[str]
    times: float


class AttributeRange(TypedDict, total=False):
    """Restricts a numeric attribute by at least one bound."""

    field: Required[str]
    gte: float | ViewedNumber | None
    gt: float | ViewedNumber | None
    lte: float | ViewedNumber | None
    lt: float | ViewedNumber | None


class NotConditions(TypedDict, total=False):
    """Parts of which an item must not match all together."""

    categories: list[str] | ViewedCategories | None
    categories_all: list[str] | ViewedCategories | None
    attributes: list[AttributeRange] | None
    allow: list[Id] | None


_Not = TypedDict("_Not", {"not": NotConditions | None}, total=False)


class Filter(_Not, total=False):
    """Restricts what may be answered; the parts apply together."""

    categories: list[str] | ViewedCategories | None
    categories_all: list[str] | ViewedCategories | None
    attributes: list[AttributeRange] | None
    allow: list[Id] | None
    deny: list[Id] | None


class ExcludeShown(TypedDict, total=False):
    """Leaves out what the user, or the session, was shown of late."""

    answers: int | None
    hours: float | None


class BoostRange(TypedDict, total=False):
    """Chooses items by a numeric attribute, by at least one bound."""

    field: Required[str]
    gte: float | None
    gt: float | None
    lte: float | None
    lt: float | None


Boost = TypedDict(
    "Boost",
    {
        "nats": Required[float],
        "categories": list[str] | None,
        "attributes": list[BoostRange] | None,
        "items": list[Id] | None,
        "prefix": list[int] | None,
        "from": int | str | None,
        "until": int | str | None,
    },
    total=False,
)
"""Raises the score of some items, or lowers it; has exactly one of categories, attributes, items and prefix."""


class Pin(TypedDict):
    """Puts an item at a place of the answer, from 1."""

    position: int
    item: Id


class Exploration(TypedDict, total=False):
    """Leaves the last places of an answer to chance; has exactly one of share and slots."""

    temperature: float
    share: float | None
    slots: int | None


class RuleFields(TypedDict, total=False):
    """Rules of an answer."""

    k: int
    exclude_seen: bool | list[EventType]
    exclude_shown: ExcludeShown | None
    filter: Filter | None
    max_per_prefix: int | dict[str, int] | None
    boosts: list[Boost] | None
    pins: list[Pin] | None
    steer: dict[str, float] | None
    exploration: Exploration | None
