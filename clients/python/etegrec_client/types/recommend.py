"""Requests for recommendations, their answers, and why an item is not in one."""

from typing import Literal, NotRequired, Required, TypedDict

from etegrec_client.types.fields import EventType, Id
from etegrec_client.types.items import CodedItem, ShownItem
from etegrec_client.types.rules import Filter, RuleFields


class RecommendRequest(RuleFields, total=False):
    """Request for recommendations: a user's stored history, or one of your own."""

    user_id: Id | None
    session_id: Id | None
    history: list[Id] | None
    viewed_item: Id | None
    placement: str | None
    budget_ms: float | None
    model: Literal["live", "candidate", "shadow"] | None
    explain: bool


class WhyNotRequest(TypedDict, total=False):
    """Request for recommendations, and the item that is asked about."""

    item_id: Required[Id]
    user_id: Id | None
    history: list[Id] | None
    k: int
    exclude_seen: bool | list[EventType]
    filter: Filter | None
    max_per_prefix: int | None


class CodeReason(TypedDict):
    """Contribution of one code of a recommended item."""

    code: int
    name: NotRequired[str | None]
    log_prob: NotRequired[float | None]
    items: int
    examples: list[ShownItem]


class HistoryReason(ShownItem):
    """Contribution of one item of the history."""

    contribution: NotRequired[float | None]


class ScoreParts(TypedDict):
    """Parts of one item's score; their sum is the score."""

    codes: float
    cosine: float
    neighbours: float
    ranker: float
    fresh_boost: float
    steer: float
    boosts: float


class Explanation(TypedDict):
    """Reasons for one recommended item."""

    parts: NotRequired[ScoreParts | None]
    codes: list[CodeReason]
    history: list[HistoryReason]


class RecommendedItem(TypedDict):
    """One recommended item. Scores are comparable inside one answer only."""

    item_id: str
    score: float
    log_prob: float
    codes: list[int]
    title: NotRequired[str | None]
    explanation: NotRequired[Explanation | None]
    propensity: NotRequired[float | None]


class RuleCost(TypedDict):
    """What one rule cost an answer: nats of the model's own scores, and items that would be shown without it."""

    rule: str
    applied: bool
    nats: float
    displaced: list[str]


class SkippedPin(TypedDict):
    """A pin that was not put into the answer."""

    position: int
    item: str
    reason: Literal["unknown", "hidden", "filtered", "excluded", "beyond_k"]


class UsedPlacement(TypedDict):
    """The placement whose rules held for an answer."""

    name: str
    revision: int


class UsedExperiment(TypedDict):
    """The experiment that the asker takes part in."""

    name: str
    variant: str


class RecommendResponse(TypedDict):
    """Recommendations for one request, best first."""

    request_id: str
    model_version: str
    served_by: Literal["model", "cache", "popular"]
    degraded: bool
    took_ms: float
    attribution: str | None
    placement: UsedPlacement | None
    experiment: UsedExperiment | None
    ignored_rules: list[str]
    unknown_items: list[str]
    items: list[RecommendedItem]
    rules: NotRequired[list[RuleCost] | None]
    skipped_pins: NotRequired[list[SkippedPin] | None]


class SiblingCode(TypedDict):
    """The strongest other code after the same codes."""

    code: int
    name: str | None
    log_prob: float | None
    example: ShownItem


class CodeStanding(TypedDict):
    """One code of an item, and the code that won at its place."""

    code: int
    name: str | None
    log_prob: float | None
    survived: bool
    sibling: SiblingCode | None


class LastAnswered(ShownItem):
    """The last item of an answer."""

    score: float
    log_prob: float


class WhyNotResponse(CodedItem):
    """Why an item is not in an answer."""

    model_version: str
    verdict: Literal[
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
    closed_by: str | None
    rank: int | None
    score: float | None
    log_prob: float | None
    lacks: float | None
    last: LastAnswered | None
    levels: list[CodeStanding]
