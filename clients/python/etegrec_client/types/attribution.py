"""What answers led to."""

from typing import TypedDict


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


class CodeAttributionRow(TypedDict):
    """What answers showed of the items with one first code."""

    code: int
    name: str | None
    shown: int
    shown_share: float | None
    clicks: int
    click_through: float | None
    trained_share: float
    recent_share: float | None
    drift: float | None


class CodeAttributionResponse(TypedDict):
    """What answers showed and what was clicked, by first code."""

    model_version: str
    days: int
    shown: int
    clicks: int
    unplaced_clicks: int
    recent_events: float
    stability: float | None
    codes: list[CodeAttributionRow]
