"""Requests and answers as typed dictionaries: the JSON of the API, field by field.

`GET /docs` of a running service says what each field means. The project's tests compare all of these with it.
"""

from typing import Any, Literal, NotRequired, Required, TypedDict

Id = str | int
"""An id of a user, item or event. An integer counts as its decimal text."""

Attributes = dict[str, Any] | str
"""Attributes of an item: values by key, or text."""

EventType = Literal["view", "click", "cart", "purchase", "rating"]
"""Types that speak for an item."""


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


class _Rules(TypedDict, total=False):
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


class Placement(_Rules, total=False):
    """Rules that hold where a request gives none."""

    description: str
    experiment: str | None


class Rules(_Rules, total=False):
    """Rules of a variant."""


class TrafficBody(TypedDict, total=False):
    """Part of a layer's traffic."""

    layer: Required[str]
    start: float
    end: float


class Variant(TypedDict, total=False):
    """One way to answer."""

    name: Required[str]
    share: Required[float]
    rules: Rules


class Experiment(TypedDict, total=False):
    """Variants of rules that users and sessions get by chance; the first is the control."""

    description: str
    traffic: TrafficBody | None
    variants: Required[list[Variant]]
    goal: str
    starts: int | str | None
    ends: int | str | None


class RecommendRequest(_Rules, total=False):
    """Request for recommendations: a user's stored history, or one of your own."""

    user_id: Id | None
    session_id: Id | None
    history: list[Id] | None
    viewed_item: Id | None
    placement: str | None
    budget_ms: float | None
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


class Event(TypedDict, total=False):
    """One interaction of a user with an item. The client makes the `event_id`, so that it can safely repeat itself."""

    event_id: Id
    user_id: Required[Id]
    item_id: Required[Id]
    type: str
    timestamp: int | str
    attribution: str | None
    value: float | None
    currency: str | None
    session_id: Id | None


class Item(TypedDict, total=False):
    """Content of an item; fields that are left out become empty."""

    title: str
    categories: list[str]
    attributes: Attributes
    embedding: list[float] | None


class BulkItem(Item):
    """One item of a bulk upload."""

    item_id: Required[Id]


class ItemPatch(TypedDict, total=False):
    """Changes of an item: given fields change, None empties one, absent fields stay."""

    title: str | None
    categories: list[str] | None
    attributes: Attributes | None
    embedding: list[float] | None
    hidden: bool


class ShownItem(TypedDict):
    """An item with its title."""

    item_id: str
    title: NotRequired[str | None]


class CodedItem(ShownItem):
    """An item with its title and semantic ID."""

    codes: list[int]


class NearItem(TypedDict):
    """An item near a given one."""

    item_id: str
    title: str | None
    codes: list[int]


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


class Explanation(TypedDict):
    """Reasons for one recommended item."""

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


class PlacementResponse(TypedDict):
    """A placement as it is stored."""

    name: str
    revision: int
    description: str
    rules: dict[str, Any]


class PlacementsResponse(TypedDict):
    """All placements."""

    revision: int
    placements: list[PlacementResponse]


class DeletedPlacementResponse(TypedDict):
    """Result of deleting a placement."""

    name: str
    revision: int


class AnswersPreview(TypedDict):
    """Answers to the sample of a preview under one set of rules."""

    k: int
    items: int
    different_items: int
    short: int


class CodeExposure(TypedDict):
    """Places of answers that items of one first code had."""

    code: int
    name: str | None
    example: ShownItem
    before: int
    after: int


class ItemExposure(CodedItem):
    """Answers that held an item."""

    before: int
    after: int


class PlacementPreviewResponse(TypedDict):
    """What rules would change."""

    model_version: str
    histories: int
    users: int
    changed: int
    ignored_rules: list[str]
    before: AnswersPreview
    after: AnswersPreview
    codes: list[CodeExposure]
    gained: list[ItemExposure]
    lost: list[ItemExposure]


class ExperimentResponse(TypedDict):
    """An experiment as it is stored."""

    name: str
    revision: int
    status: Literal["planned", "running", "ended"]
    experiment: dict[str, Any]


class ExperimentsResponse(TypedDict):
    """All experiments."""

    revision: int
    experiments: list[ExperimentResponse]


class DeletedExperimentResponse(TypedDict):
    """Result of deleting an experiment."""

    name: str
    revision: int


class ValueSum(TypedDict):
    """Value of goals in one currency."""

    payers: int
    total: float


class VariantReport(TypedDict):
    """What the answers of one variant led to, on all days."""

    name: str
    share: float
    subjects: int
    answers: int
    empty_answers: int
    errors: int
    clicks: int
    goals: int
    clickers: int
    achievers: int
    values: dict[str, ValueSum]
    latency_p99_ms: float | None


class VariantDayReport(TypedDict):
    """What the answers of one variant and day led to."""

    name: str
    answers: int
    clicks: int
    goals: int
    values: dict[str, float]


class DayReport(TypedDict):
    """One day of an experiment."""

    day: str
    variants: list[VariantDayReport]


class DifferenceReport(TypedDict):
    """A difference with the ends of its interval."""

    difference: float
    low: float
    high: float


class ComparisonReport(TypedDict):
    """One outcome of a variant beside that of the control."""

    variant: str
    outcome: str
    control_mean: float | None
    mean: float | None
    difference: DifferenceReport | None
    verdict: Literal["higher", "lower", "open", "too few"]


class SampleRatioReport(TypedDict):
    """Whether variants have the sizes that their shares give them."""

    p_value: float
    is_as_designed: bool


class GuardrailReport(TypedDict):
    """One figure of a variant's health beside that of the control."""

    variant: str
    figure: Literal["latency_p99_ms", "error_share", "empty_share"]
    control: float | None
    value: float | None
    holds: bool | None


class ExperimentReportResponse(TypedDict):
    """What each variant of an experiment led to, and whether they differ."""

    name: str
    hash: str
    status: Literal["planned", "running", "ended"]
    goal: str
    control: str
    verdict: str
    verdict_kind: Literal["broken", "guardrail", "found", "open"]
    variants: list[VariantReport]
    days: list[DayReport]
    comparisons: list[ComparisonReport]
    sample_ratio: SampleRatioReport
    guardrails: list[GuardrailReport]


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


class EventsResponse(TypedDict):
    """Result of recording events."""

    accepted: int
    duplicates: int
    event_ids: NotRequired[list[str]]
    timestamps: NotRequired[list[int]]


class PutResponse(TypedDict):
    """Result of putting an item."""

    item_id: str
    model_version: str
    revision: int
    codes: list[int]
    is_new: bool
    nearest: list[NearItem]
    recommendable_after_ms: float


class DisplacedItem(CodedItem):
    """An item that would leave answers."""

    answers: int


class ItemPreviewResponse(TypedDict):
    """Where a new item would stand."""

    model_version: str
    codes: list[int]
    names: list[str | None]
    nearest: list[NearItem]
    histories: int
    users: int
    ranks: list[int]
    displaced: list[DisplacedItem]


class ItemResponse(TypedDict):
    """One item as the service knows it."""

    item_id: str
    model_version: str
    revision: int
    title: str | None
    categories: list[str]
    attributes: dict[str, Any]
    codes: list[int]
    hidden: bool
    is_new: bool


class DeleteResponse(TypedDict):
    """Result of hiding an item."""

    item_id: str
    revision: int
    hidden: bool


class BulkResponse(TypedDict):
    """Result of a bulk upload."""

    items: int
    new: int
    revision: int
    recommendable_after_ms: float


class StoredInteraction(TypedDict):
    """One interaction of a user's stored history."""

    item_id: str
    type: str | None
    timestamp: int | None


class RecentAnswer(TypedDict):
    """One answer that was noted as shown to a user."""

    timestamp: int
    items: list[str]


class UserResponse(TypedDict):
    """Stored history of a user."""

    user_id: str
    count: int
    history: list[str]
    interactions: list[StoredInteraction]
    newest_event_at: int | None
    recent_answers: list[RecentAnswer]


class ForgottenResponse(TypedDict):
    """Amount of data that was erased of a user."""

    history: int
    events: int


class SimilarItem(CodedItem):
    """An item like another one."""

    similarity: NotRequired[float | None]
    shared_codes: int


class SimilarResponse(TypedDict):
    """Items like a given one, most similar first."""

    model_version: str
    items: list[SimilarItem]


class NextCode(TypedDict):
    """A code that may follow a prefix."""

    code: int
    name: NotRequired[str | None]
    items: int
    popularity: int
    category: str | None


class SharedTrait(TypedDict):
    """A value that is more frequent below a prefix than in the catalogue."""

    field: str
    value: str
    share: float
    catalogue_share: float
    lift: float


class CodesResponse(TypedDict):
    """Items below a code prefix, and what they have in common."""

    model_version: str
    prefix: list[int]
    name: NotRequired[str | None]
    total: int
    items: list[CodedItem]
    next_codes: list[NextCode]
    common: list[SharedTrait]
    measured_items: int


class FoundItem(CodedItem):
    """An item that was found by its title."""

    categories: list[str]
    popularity: int
    hidden: bool
    is_new: bool


class ItemsResponse(TypedDict):
    """Items found by their titles, best first."""

    model_version: str
    total: int
    items: list[FoundItem]


class CountedItem(CodedItem):
    """An item, with its events and its popularity."""

    events: float
    popularity: int


class PopularResponse(TypedDict):
    """Popular or trending items."""

    model_version: str
    items: list[CountedItem]


class AttributionRow(TypedDict):
    """What the answers of one model version, or of one placement, led to."""

    name: str
    answers: int
    impressions: int
    clicks: int
    events: dict[str, int]
    values: dict[str, dict[str, float]]
    click_through: float | None


class AttributionDay(TypedDict):
    """What the answers of one day led to."""

    day: str
    versions: list[AttributionRow]
    placements: list[AttributionRow]


class AttributionResponse(TypedDict):
    """What answers led to, by day."""

    days: list[AttributionDay]


class FieldProblem(TypedDict):
    """A wrong field of a request, and what it takes."""

    field: str
    message: str
    expected: NotRequired[str | None]
    limit: NotRequired[float | None]


class LiveModelReport(TypedDict):
    """The live model of a replica; ``problem`` says why the newest version does not serve."""

    version: str | None
    problem: str


class AliasReport(TypedDict):
    """The model of an alias on a replica."""

    version: str
    share: float
    since: str
    state: str
    problem: str
    memory_mb: int


class HealthReport(TypedDict):
    """How requests went."""

    answers: int
    empty_answers: int
    errors: int
    latency_p99_ms: float | None


class CanaryFigures(TypedDict):
    """Requests of the users and sessions of a canary, by the model that they get."""

    live: HealthReport
    candidate: HealthReport
    guardrails: list[GuardrailReport]


class CanaryReport(TypedDict):
    """The canary that runs."""

    version: str
    share: float
    here: CanaryFigures
    all_replicas: CanaryFigures | None
    clicks: ComparisonReport | None


class ShadowReport(TypedDict):
    """Requests that the shadow searched again."""

    dropped: int
    overlap: float | None
    score_shift: float | None
    live: HealthReport
    shadow: HealthReport


class CanaryEndReport(TypedDict):
    """A canary that was rolled back, and why."""

    version: str
    share: float
    figure: str
    reason: str
    at: int


class ModelsResponse(TypedDict):
    """The live model, those of aliases, and how a canary goes."""

    live: LiveModelReport
    candidate: AliasReport | None
    shadow: AliasReport | None
    canary: CanaryReport | None
    comparison: ShadowReport | None
    rolled_back: list[CanaryEndReport]
