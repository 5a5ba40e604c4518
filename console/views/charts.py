"""Charts as options of ECharts. They repeat what a table beside them says, for those who cannot see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Options = dict[str, Any]

PALETTE = ("#0b5fa5", "#9a4a00", "#1b7340", "#7a3e9d", "#a3264d", "#006d77", "#7b5b00")
"""Colours on which white text has a contrast of at least 4.5."""

_OTHER = "#4d5a68"

_FAINT = "#8894a1"
"""Colour of lines that is visible on light and on dark ground."""


def line_chart(
    times: Sequence[str], series: Mapping[str, Sequence[float | None]], *, with_points: bool = False
) -> Options:
    """Return lines over time, by name with its unit; ``None`` is a gap. Points show where lines are short."""
    return {
        "animation": False,
        "color": ["#2f86d1", "#d07a1c", "#2f9e5f"],  # lines, which need a contrast of 3 to both grounds
        "grid": {"left": 52, "right": 12, "top": 36, "bottom": 28},
        "legend": {"top": 0, "left": 0, "icon": "roundRect"},
        "tooltip": {"trigger": "axis", "renderMode": "richText"},
        "xAxis": {"type": "category", "data": list(times), "axisLine": {"lineStyle": {"color": _FAINT}}},
        "yAxis": {
            "type": "value",
            "min": 0,
            "splitLine": {"lineStyle": {"color": _FAINT, "opacity": 0.3}},
        },
        "series": [
            {"type": "line", "name": name, "data": list(values), "showSymbol": with_points, "lineStyle": {"width": 2}}
            for name, values in series.items()
        ],
    }


def paired_bars(names: Sequence[str], series: Mapping[str, Sequence[float]], unit: str) -> Options:
    """Return horizontal bars, one of each series beside each other by name, the first name on top."""
    return {
        "animation": False,
        "color": ["#8894a1", "#2f86d1"],
        "grid": {"left": 8, "right": 24, "top": 36, "bottom": 28, "containLabel": True},
        "legend": {"top": 0, "left": 0, "icon": "roundRect"},
        "tooltip": {"trigger": "axis", "renderMode": "richText", "confine": True},
        "xAxis": {
            "type": "value",
            "name": unit,
            "nameLocation": "middle",
            "nameGap": 24,
            "minInterval": 1,
            "splitLine": {"lineStyle": {"color": _FAINT, "opacity": 0.3}},
        },
        "yAxis": _names_axis(names),
        "series": [{"type": "bar", "name": name, "data": list(values)} for name, values in series.items()],
    }


@dataclass(frozen=True)
class Interval:
    """A difference with the ends of its interval."""

    name: str
    low: float
    middle: float
    high: float


def interval_chart(intervals: Sequence[Interval], unit: str) -> Options:
    """Return intervals as whiskers with a mark at the difference, one below the other, around a line at 0."""
    ends = [abs(end) for each in intervals for end in (each.low, each.high)]
    reach = max(ends, default=0) * 1.1 or 1
    return {
        "animation": False,
        "grid": {"left": 8, "right": 24, "top": 12, "bottom": 28, "containLabel": True},
        "tooltip": {"show": False},  # the table beside it says the same, in words
        "xAxis": {
            "type": "value",
            "min": -reach,
            "max": reach,
            "name": unit,
            "nameLocation": "middle",
            "nameGap": 24,
            "axisLabel": {"hideOverlap": True, "showMinLabel": False, "showMaxLabel": False},
            "splitLine": {"lineStyle": {"color": _FAINT, "opacity": 0.3}},
        },
        "yAxis": _names_axis([each.name for each in intervals]),
        "series": [
            {
                "type": "boxplot",
                "boxWidth": [10, 14],
                "itemStyle": {"borderColor": "#2f86d1", "borderWidth": 2, "color": "#2f86d1"},
                "data": [[each.low, each.middle, each.middle, each.middle, each.high] for each in intervals],
                "markLine": {
                    "silent": True,
                    "symbol": "none",
                    "label": {"show": False},
                    "lineStyle": {"color": _FAINT, "type": "solid", "width": 1.5},
                    "data": [{"xAxis": 0}],
                },
            }
        ],
    }


def _names_axis(names: Sequence[str]) -> Options:
    return {
        "type": "category",
        "inverse": True,
        "data": [plain(name) for name in names],
        "axisLabel": {"width": 150, "overflow": "truncate"},
        "axisLine": {"lineStyle": {"color": _FAINT}},
    }


@dataclass(frozen=True)
class Box:
    """One box of a treemap."""

    key: str  # what a click on it names
    label: str
    size: float
    colour: str
    detail: str


def treemap(boxes: Sequence[Box], name: str) -> Options:
    """Return boxes whose areas are their sizes. Labels and details are drawn as text, never as HTML."""
    return {
        "animation": False,
        "tooltip": {"renderMode": "richText", "confine": True},
        "series": [
            {
                "type": "treemap",
                "name": name,
                "roam": False,
                "nodeClick": False,
                "breadcrumb": {"show": False},
                "left": 0,
                "right": 0,
                "top": 0,
                "bottom": 0,
                "label": {"color": "#ffffff", "fontSize": 13, "overflow": "truncate"},
                "itemStyle": {"borderColor": "#ffffff", "borderWidth": 1, "gapWidth": 1},
                "data": [
                    {
                        "name": box.label,
                        "value": box.size,
                        "id": box.key,
                        "itemStyle": {"color": box.colour},
                        "tooltip": {"formatter": plain(box.detail)},
                    }
                    for box in boxes
                ],
            }
        ],
    }


def plain(text: str) -> str:
    """Return text that the chart shows as it is: braces would name values of the chart, bars their styles."""
    return text.replace("{", "(").replace("}", ")").replace("|", "/")


def colours_of(values: Sequence[str | None]) -> dict[str | None, str]:
    """Return a colour for each of the most frequent values; the others, and ``None``, share a grey one."""
    known = [value for value in values if value is not None]
    frequent = sorted(set(known), key=lambda value: (-known.count(value), value))
    colours: dict[str | None, str] = {None: _OTHER}
    for place, value in enumerate(frequent):
        colours[value] = PALETTE[place] if place < len(PALETTE) else _OTHER
    return colours


def two_way_shade(part: float) -> str:
    """Return a colour between two: blue the nearer to 1, brown the nearer to -1, grey at 0; white text is readable."""
    return shade(part) if part >= 0 else _blend((92, 107, 122), (122, 62, 0), -part)


def shade(part: float) -> str:
    """Return a blue that is the darker the larger the part of 1; white text is readable on all of them."""
    return _blend((92, 107, 122), (7, 62, 112), part)


def _blend(light: tuple[int, int, int], dark: tuple[int, int, int], part: float) -> str:
    """Return the colour that lies a part of the way from one to another."""
    part = min(1.0, max(0.0, part))
    red, green, blue = (round(low + (high - low) * part) for low, high in zip(light, dark, strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}"
