"""Rules of an answer: how many items, which ones, how alike; every kind of question may carry them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from model_store.events.event import EVENT_TYPES, EventType
from service.schemas.ids import ShortIds
from service.schemas.ranking import (
    MAX_BOOSTS,
    MAX_PINS,
    MAX_STEERED,
    Boost,
    Exploration,
    Nats,
    Pin,
    PrefixLimits,
    SteeredPrefix,
    check_pins,
)
from service.schemas.types import Body, Listed
from service.store.shown_answers import SHOWN_S

MAX_RANGES = 64
"""Largest number of attribute ranges in one list. Each is compared with all items."""

SHOWN_ANSWERS = 100
"""Largest number of answers that ``exclude_shown`` looks back."""

SHOWN_HOURS = SHOWN_S // 3600
"""Largest number of hours that ``exclude_shown`` looks back: as long as lists of what was shown are kept."""


class ViewedCategories(Body):
    """Stands for the categories of the viewed item."""

    viewed: Literal[True] = Field(description="true: the categories of `viewed_item`")


class ViewedNumber(Body):
    """Stands for a number of the viewed item, times a factor."""

    viewed: str = Field(min_length=1, max_length=256, description="attribute of `viewed_item`, such as `price`")
    times: float = Field(1.0, allow_inf_nan=False, description="factor")


Bound = Annotated[float, Field(allow_inf_nan=False)] | ViewedNumber | None
"""Bound of a range."""


class AttributeRange(Body):
    """Restricts a numeric attribute by at least one bound; items without a number in the field do not match."""

    field: str = Field(min_length=1, max_length=256, description="name of the attribute, such as `year`")
    gte: Bound = Field(None, description="at least")
    gt: Bound = Field(None, description="more than")
    lte: Bound = Field(None, description="at most")
    lt: Bound = Field(None, description="less than")

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        """Refuse a range without bounds, or one that no number lies in: the client cannot have meant it."""
        if all(bound is None for bound in (self.gte, self.gt, self.lte, self.lt)):
            raise ValueError("must have a bound: gte, gt, lte or lt")

        low = [bound for bound in (self.gte, self.gt) if isinstance(bound, int | float)]
        high = [bound for bound in (self.lte, self.lt) if isinstance(bound, int | float)]
        if low and high:
            least = max(low)
            most = min(high)
            if least > most or (least == most and (self.gt == least or self.lt == most)):
                raise ValueError("no number lies in this range: its lower bound is not below its upper one")
        return self


class Conditions(Body):
    """Parts that an item must match all together."""

    categories: Listed[Annotated[str, Field(max_length=256)]] | ViewedCategories | None = Field(
        None, description="only items of any of these categories"
    )
    categories_all: Listed[Annotated[str, Field(max_length=256)]] | ViewedCategories | None = Field(
        None, description="only items of all of these categories"
    )
    attributes: Listed[AttributeRange] | None = Field(
        None, max_length=MAX_RANGES, description="only items whose numeric attributes lie in all of these ranges"
    )
    allow: ShortIds | None = Field(None, description="only these items; ids that the catalogue lacks allow nothing")


class NotConditions(Conditions):
    """Parts of which an item must not match all together."""

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        """Refuse no parts at all: every item would match them."""
        if all(getattr(self, name) is None for name in Conditions.model_fields):
            raise ValueError(f"must have a part: {', '.join(Conditions.model_fields)}")
        return self


class Filter(Conditions):
    """Restricts what may be answered; the parts apply together."""

    deny: ShortIds | None = Field(None, description="none of these items")
    not_: NotConditions | None = Field(
        None, alias="not", description="no items that match all of these parts, of the same meaning as those beside it"
    )


class ExcludeShown(Body):
    """Leaves out what the user, or the session, was shown of late in answers that had this rule."""

    answers: int | None = Field(None, ge=1, le=SHOWN_ANSWERS, description="items of so many newest answers")
    hours: float | None = Field(None, gt=0, le=SHOWN_HOURS, description="items shown in the last so many hours")

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        """Refuse a rule that says nothing."""
        if self.answers is None and self.hours is None:
            raise ValueError("must have answers, hours or both")
        return self


RANKING_FIELDS = frozenset({"max_per_prefix", "boosts", "pins", "steer"})
"""Fields of :class:`Rules` that change the order of an answer."""


class Rules(Body):
    """What an answer may hold, whoever asks."""

    k: int = Field(10, ge=1, description="answers wanted")
    exclude_seen: bool | Annotated[Listed[EventType], Field(max_length=len(EVENT_TYPES))] = Field(
        True,
        description="leave out items that the user had in events of these types; true: of those that the service is"
        " set to, by default purchases and ratings; false: none. Where the type is not known, as in `history`, the item"
        " is left out by true and by any list that is not empty",
    )
    exclude_shown: ExcludeShown | None = Field(
        None,
        description="leave out items that `user_id`, or else `session_id`, was shown: in the newest `answers`, in the"
        " last `hours`, or in either of both; only answers with this rule count",
    )
    filter: Filter | None = None
    max_per_prefix: PrefixLimits | None = Field(
        None,
        description="at most so many answers that share their first code; or, by number of codes, so many that share"
        ' their first codes: `{"1": 4, "2": 1}`',
    )
    boosts: Listed[Boost] | None = Field(
        None, max_length=MAX_BOOSTS, description="items whose score rises or falls; all that match an item add up"
    )
    pins: Annotated[Listed[Pin], Field(max_length=MAX_PINS), AfterValidator(check_pins)] | None = Field(
        None, description="items that stand at a given place, if they are visible and obey filter and exclusions"
    )
    steer: Annotated[dict[SteeredPrefix, Nats], Field(max_length=MAX_STEERED)] | None = Field(
        None,
        description="nats added inside the search to entering a prefix of codes, such as `3-7`, so that all items"
        " below it rise or fall; the answer's `log_prob` stays the model's own",
    )
    exploration: Exploration | None = Field(
        None,
        description="leaves some of the first 25 places to chance, the last of them that hold no pin: each item comes"
        " there with a probability that the answer's token holds, so that logged answers tell how others would do",
    )
