"""Style of the charts: sizes, colours for colour-blind readers, names of models and losses, PNG."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

DOTS_PER_INCH = 110
COLOURS = 128
"""Colours of a PNG: enough for the palette, greys, and the shades between them at the edges of letters."""

WIDTH = 8.0
"""Width of all charts, in inches."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of lines and bars: Okabe and Ito, Color Universal Design, 2008."""

MODEL_COLOURS = (*PALETTE, "#999999")
MARKERS = "osD^vPX*"
FAINT = "#d9d9d9"

MODELS = {
    "popularity": "Popularity",
    "neighbours": "Neighbours",
    "sasrec": "SASRec",
    "tiger": "TIGER",
    "dense": "ETEGRec dense",
    "generative": "ETEGRec",
    "fused_without_search": "ETEGRec without search",
    "fused": "ETEGRec fused",
}
"""Names of the rows of an evaluation, in the order of tables."""

LOSSES = {
    "rec": "L_REC: next code (nats)",
    "sq": "L_SQ: quantisation (squared distance)",
    "sia": "L_SIA: sequence-item alignment (nats)",
    "psa": "L_PSA: preference-semantic alignment (nats)",
    "loss": "cross-entropy over all items (nats)",
}


@dataclass(frozen=True)
class Chart:
    """Plot that answers a question.

    Attributes:
        name: File name without ``.png``.
        question: Question as a title.
        answer: Answer in a sentence or two, also for readers who cannot see the plot.
        figure: The plot.
    """

    name: str
    question: str
    answer: str
    figure: Figure


def model_name(row: str) -> str:
    """Return the display name of a row of the evaluation."""
    return MODELS.get(row, row)


def colour_and_marker(row: str) -> tuple[str, str]:
    """Return the colour and marker of a model, which are the same in every chart."""
    best_last = list(MODELS)
    index = len(MODELS) - 1 - best_last.index(row) if row in MODELS else len(MODELS)
    return MODEL_COLOURS[index % len(MODEL_COLOURS)], MARKERS[index % len(MARKERS)]


def sort_rows(rows: Iterable[str]) -> list[str]:
    """Sort rows in the order of :data:`MODELS`, unknown ones last."""
    rank = {row: index for index, row in enumerate(MODELS)}
    return sorted(rows, key=lambda row: rank.get(row, len(rank)))


def new_figure(question: str, height: float) -> Figure:
    """Return an empty figure of the common width with a title; ``height`` is in inches."""
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS_PER_INCH, layout="constrained")
    figure.suptitle(question, x=0.01, horizontalalignment="left", fontsize=11, fontweight="bold")
    return figure


def tidy(axes: Axes, x: str, y: str, grid: str = "y") -> None:
    """Label both axes, draw the grid, and remove lines that show no data."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(axis="both" if grid == "both" else "x" if grid == "x" else "y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def show_whole_numbers(axes: Axes) -> None:
    """Show only whole numbers on the x axis, for epochs."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def show_percent(axes: Axes, axis: str = "y") -> None:
    """Show the shares on an axis as percentages."""
    (axes.yaxis if axis == "y" else axes.xaxis).set_major_formatter(PercentFormatter(1.0))


def draw_png(figure: Figure) -> bytes:
    """Draw a figure with few colours, which saves two thirds of the size. The same figure gives the same bytes."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    sink = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(COLOURS).save(sink, "png", optimize=True)
    return sink.getvalue()


def drawable(text: str, most: int) -> str:
    """Return text as one line of at most ``most`` characters; those that the charts' font lacks become a box."""
    known = _characters()
    return "".join(letter if ord(letter) in known else "□" for letter in shortened(text, most))


def shortened(text: str, most: int) -> str:
    """Return text as one line of at most ``most`` characters, with an ellipsis where some are missing."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


@lru_cache(maxsize=1)
def _characters() -> frozenset[int]:
    return frozenset(FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap())
