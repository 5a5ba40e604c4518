"""A run with hostile titles, and its report taken apart."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from matplotlib.patches import Rectangle

from model_store.console import run
from tests.support.tiny import ITEMS
from training.cli import app
from training.report.style import Chart

NASTY = '<script>alert("$x^{2$")</script> 映画 & co'

CHARTS = {
    "recall_by_popularity",
    "recall_by_history",
    "beam",
    "validation",
    "losses",
    "code_changes",
    "seconds",
    "code_tree",
    "purity",
    "codebook_use",
}


def etegrec_train(*arguments: object) -> int:
    return run(app, "etegrec-train", [str(argument) for argument in arguments])


def write_items(path: Path) -> Path:
    """Titles, some of them hostile, and categories for the items of the cycle."""
    lines = ["item,title,categories"]
    for item in range(ITEMS):
        title = NASTY.replace('"', '""') if item % 3 == 0 else f"Title {item}"
        lines.append(f'i{item},"{title}",{"low" if item < ITEMS // 2 else "high"}')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Reader(HTMLParser):
    """Texts, table rows and attributes of a page, and whether its tags close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in {"meta", "img"}:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def rectangles(chart: Chart) -> list[Rectangle]:
    """Return the bars or bands of the first axes."""
    return [patch for patch in chart.figure.axes[0].patches if isinstance(patch, Rectangle)]
