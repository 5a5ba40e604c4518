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
