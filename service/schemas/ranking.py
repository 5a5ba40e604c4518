"""Rules that change the order of an answer: boosts, pins, limits by prefix and steering, and what they cost."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from model_store.attribution.token import MAX_EXPLORED_RANKS
from service.schemas.browse import CODE_PREFIX
from service.schemas.events import Moment
from service.schemas.ids import ShortId, ShortIds
from service.schemas.types import Body, Listed

MAX_NATS = 20.0
"""Largest boost or steering, up or down. It turns odds by a factor of half a billion, more than any ranking needs."""

MAX_BOOSTS = 64
"""Largest number of boosts in one request."""

MAX_BOOST_RANGES = 8
"""Largest number of attribute ranges in one boost."""

MAX_PINS = 32
"""Largest number of pins in one request."""

MAX_POSITION = 1000
"""Last position that a pin may have."""

MAX_DEPTH = 8
"""Largest number of codes in a prefix that a request may name."""

MAX_STEERED = 64
"""Largest number of prefixes that a request may steer."""

MIN_TEMPERATURE = 0.05
"""Lowest temperature of exploration: below it, hardly anything is left to chance."""

MAX_TEMPERATURE = 1000.0
"""Highest temperature of exploration. Scores of models that weigh dense scores heavily are hundreds of nats apart."""

CONTAINERS = 1 + MAX_BOOSTS * (2 + MAX_BOOST_RANGES) + 1 + MAX_PINS + 3
"""Largest number of JSON objects and lists in these rules: boosts with a list and its ranges each, pins, mappings and
exploration."""

Nats = Annotated[float, Field(ge=-MAX_NATS, le=MAX_NATS, allow_inf_nan=False)]
Code = Annotated[int, Field(ge=0, le=99_999)]
Depth = Annotated[str, Field(pattern=rf"^[1-{MAX_DEPTH}]$")]
Limit = Annotated[int, Field(ge=1, le=1000)]

PrefixLimits = Limit | Annotated[dict[Depth, Limit], Field(max_length=MAX_DEPTH)]
"""How many answers may share their first code, or their first codes by how many: ``{"1": 4, "2": 1}``."""

_CONDITIONS = ("categories", "attributes", "items", "prefix")


class BoostRange(Body):
    """Chooses items by a numeric attribute, by at least one bound; items without a number in the field do not match."""

    field: str = Field(min_length=1, max_length=256, description="name of the attribute, such as `year`")
    gte: float | None = Field(None, allow_inf_nan=False, description="at least")
    gt: float | None = Field(None, allow_inf_nan=False, description="more than")
    lte: float | None = Field(None, allow_inf_nan=False, description="at most")
    lt: float | None = Field(None, allow_inf_nan=False, description="less than")

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        """Refuse a range without bounds: every number would match it."""
        if all(bound is None for bound in (self.gte, self.gt, self.lte, self.lt)):
            raise ValueError("must have a bound: gte, gt, lte or lt")
        return self


class Boost(Body):
    """Raises the score of some items by so many nats, or lowers it; has exactly one condition."""

    model_config = ConfigDict(serialize_by_alias=True)

    nats: Nats = Field(description="added to the `score` of the items; below 0 it holds them back")
    categories: Listed[Annotated[str, Field(max_length=256)]] | None = Field(
        None, description="items of any of these categories"
    )
    attributes: Listed[BoostRange] | None = Field(
        None, max_length=MAX_BOOST_RANGES, description="items whose numeric attributes lie in all of these ranges"
    )
    items: ShortIds | None = Field(None, description="these items")
    prefix: Listed[Code] | None = Field(
        None, min_length=1, max_length=MAX_DEPTH, description="items whose semantic ID begins with these codes"
    )
    from_: Moment | None = Field(None, alias="from", description="when it begins to apply; left out: at once")
    until: Moment | None = Field(None, description="when it ends; left out: never")

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse a boost of nothing, of several conditions, or of no time."""
        given = [name for name in _CONDITIONS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"must have exactly one of {', '.join(_CONDITIONS)}; give several boosts for several")
        if self.from_ is not None and self.until is not None and self.from_ >= self.until:
            raise ValueError("from must be before until")
        return self

    def is_active(self, now: float) -> bool:
        """Return whether it applies at a Unix time, in seconds."""
        return (self.from_ is None or self.from_ <= now) and (self.until is None or now < self.until)


class Pin(Body):
    """Puts an item at a place of the answer."""

    position: int = Field(ge=1, le=MAX_POSITION, description="place in the answer, from 1")
    item: ShortId = Field(description="id of the item; it must be visible, and obey filter and exclusions")


class Exploration(Body):
    """Leaves the last places of an answer to chance, by known probabilities; has exactly one of share and slots."""

    temperature: float = Field(
        1.0,
        ge=MIN_TEMPERATURE,
        le=MAX_TEMPERATURE,
        allow_inf_nan=False,
        description="difference of `score` that makes an item come e times as often; near 0 the best items come",
    )
    share: float | None = Field(
        None, gt=0, le=1, allow_inf_nan=False, description="share of the places that are left to chance; at least one"
    )
    slots: int | None = Field(
        None, ge=1, le=MAX_EXPLORED_RANKS, description="number of the places that are left to chance"
    )

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if (self.share is None) == (self.slots is None):
            raise ValueError("must have exactly one of share and slots")
        return self

    def slots_of(self, places: int) -> int:
        """Return how many places chance fills of as many as it may fill."""
        wanted = self.slots if self.share is None else max(1, round(self.share * places))
        return min(wanted or 0, places)


SkipReason = Literal["unknown", "hidden", "filtered", "excluded", "beyond_k"]


class SkippedPin(TypedDict):
    """A pin that was not put into the answer."""

    position: int
    item: str
    reason: Annotated[
        SkipReason,
        Field(
            description="`unknown`: the catalogue lacks the item; `hidden`: it is hidden; `filtered`: it does not pass"
            " the filter; `excluded`: it was seen, or denied; `beyond_k`: the position is after the last answer"
        ),
    ]


class RuleCost(TypedDict):
    """What one rule cost this answer."""

    rule: Annotated[str, Field(description="its field in the request, such as `boosts.0`")]
    applied: Annotated[bool, Field(description="false for a boost outside of its time, and for a pin that was skipped")]
    nats: Annotated[
        float,
        Field(
            description="sum of the model's own scores, which boosts and steering leave out, over the items shown"
            " without the rule, less that over those shown with it"
        ),
    ]
    displaced: Annotated[list[str], Field(description="ids of items that would be shown without the rule")]


def check_pins(pins: list[Pin]) -> list[Pin]:
    """Return the pins; refuse two for one position, and two of one item.

    Raises:
        ValueError: Names the position, or the places of both pins.
    """
    positions = [pin.position for pin in pins]
    items = [pin.item for pin in pins]
    for place in range(len(pins)):
        if positions[place] in positions[:place]:
            raise ValueError(f"two pins have position {positions[place]}")
        if items[place] in items[:place]:
            raise ValueError(f"pins {items.index(items[place])} and {place} are of one item")
    return pins


SteeredPrefix = Annotated[str, Field(pattern=CODE_PREFIX)]
