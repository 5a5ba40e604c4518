"""Answer of ``GET /attribution``: what answers led to, by day, model version and placement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from model_store.attribution.counters import PLACEMENT, VERSION, Row, rows_of
from service.schemas.types import Query
from service.settings import MAX_COUNTERS_DAYS


class AttributionQuery(Query):
    """Query string of `GET /attribution`."""

    days: int = Field(7, ge=1, le=MAX_COUNTERS_DAYS, description="newest days to show, today included")


class AttributionRow(TypedDict):
    """What the answers of one model version, or of one placement, led to."""

    name: Annotated[str, Field(description="version or placement; its hash if no replica knows the name any more")]
    answers: int
    impressions: Annotated[
        int, Field(description="items shown: those answered, or those of `impression` events, by setting")
    ]
    clicks: int
    events: Annotated[dict[str, int], Field(description="events by type, clicks among them")]
    values: Annotated[
        dict[str, dict[str, float]], Field(description="sums of `value` by type and currency; `-`: without a currency")
    ]
    click_through: Annotated[float | None, Field(description="clicks for each impression; null if there is none")]


class AttributionDay(TypedDict):
    """What the answers of one day led to, however late the events came."""

    day: Annotated[str, Field(description="day of the answers in UTC, such as 2026-01-05")]
    versions: list[AttributionRow]
    placements: list[AttributionRow]


class AttributionResponse(TypedDict):
    """Answer of `GET /attribution`."""

    days: Annotated[list[AttributionDay], Field(description="oldest first")]


class CodeAttributionRow(TypedDict):
    """What answers showed of the items with one first code, and how the interest in them moved."""

    code: int
    name: Annotated[str | None, Field(description="name of the prefix; null if it has none")]
    shown: Annotated[int, Field(description="items shown, as `impressions` counts them")]
    shown_share: Annotated[float | None, Field(description="of all items shown; null if none was")]
    clicks: int
    click_through: Annotated[float | None, Field(description="clicks for each item shown; null if none was")]
    trained_share: Annotated[
        float,
        Field(
            description="of the interactions in the version's data, those that its filters kept from training included:"
            " recent events are not filtered either"
        ),
    ]
    recent_share: Annotated[float | None, Field(description="of recent events; null if there are too few")]
    drift: Annotated[
        float | None,
        Field(
            description="part of `stability` with a sign: above 0 if the share grew, below if it fell; null likewise"
        ),
    ]


class CodeAttributionResponse(TypedDict):
    """Answer of `GET /attribution/codes`."""

    model_version: Annotated[str, Field(description="the live version: codes mean nothing in another one")]
    days: Annotated[int, Field(description="newest days that are added up, today included")]
    shown: int
    clicks: int
    unplaced_clicks: Annotated[
        int,
        Field(
            description="clicks that are in no row: recorded by `etegrec-ingest`, or where the version was not loaded"
        ),
    ]
    recent_events: Annotated[
        float, Field(description="events behind `recent_share`, each counting half after every half-life")
    ]
    stability: Annotated[
        float | None,
        Field(description="population stability index of recent events against training; null if there are too few"),
    ]
    codes: Annotated[list[CodeAttributionRow], Field(description="first codes that items have, ascending")]


def build_attribution_response(
    days: Sequence[str], counters: Sequence[Mapping[str, float]], names: Mapping[str, str]
) -> AttributionResponse:
    """Return what the counters of days say.

    Args:
        days: The days, oldest first.
        counters: Counters of each.
        names: Names by their hash.
    """
    return {"days": [_build_day(day, rows_of(amounts), names) for day, amounts in zip(days, counters, strict=True)]}


def _build_day(day: str, rows: Sequence[Row], names: Mapping[str, str]) -> AttributionDay:
    return {
        "day": day,
        "versions": [_build_row(row, names) for row in rows if row.kind == VERSION],
        "placements": [_build_row(row, names) for row in rows if row.kind == PLACEMENT],
    }


def _build_row(row: Row, names: Mapping[str, str]) -> AttributionRow:
    return {
        "name": names.get(row.label, row.label),
        "answers": row.answers,
        "impressions": row.shown,
        "clicks": row.clicks,
        "events": row.events,
        "values": row.values,
        "click_through": row.click_through,
    }
