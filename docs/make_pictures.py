"""Draw the two pictures of the README: ``docs/architecture.svg`` and ``docs/results.svg``.

Run it with ``make docs``. The figures are those of docs/RESEARCH.md and benchmarks/RESULTS.md; the same figures give
the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

FOLDER = Path(__file__).resolve().parent

INK = "#1f2933"
QUIET = "#6b7785"
OFFLINE = "#e3ecf7"
SHARED = "#f6eeda"
ONLINE = "#e2f2e6"
OURS = "#0b6e4f"
PEER = "#b8c1cc"

BEAUTY_NDCG = {  # NDCG@10 of test users, Amazon-2014 Beauty, --preset cpu (docs/RESEARCH.md)
    "TIGER": 0.0285,
    "search alone": 0.0483,
    "neighbours": 0.0558,
    "SASRec": 0.0572,
    "best published": 0.0614,
    "ours, as served": 0.0745,
}
SEARCH_REQ_S = {  # requests a second, batches of 32, make bench-search, the last of six runs
    "Hugging Face generate": 30.1,
    "ours, fp32": 400.1,
    "ours, 8 bits": 685.4,
}


class Box(NamedTuple):
    """A part of the system in the architecture drawing; sizes in drawing units."""

    x: float
    y: float
    width: float
    title: str
    lines: str
    colour: str


BOXES = (
    Box(0.1, 2.1, 2.6, "your data", "interactions, items", "#ffffff"),
    Box(
        3.5,
        2.1,
        4.6,
        "training/",
        "SASRec item embeddings,\nRQ-VAE tokenizer and T5 recommender,\ntrained jointly",
        OFFLINE,
    ),
    Box(9.3, 2.1, 2.9, "model store", "sealed bundles;\none version is live", SHARED),
    Box(
        13.4,
        2.1,
        4.6,
        "service/",
        "dynamic batches, beam search over\nthe trie of the catalogue,\nrules inside the search",
        ONLINE,
    ),
    Box(9.3, 0.1, 2.9, "store (Redis)", "histories, events,\ncatalogue changes", SHARED),
)
BOX_HEIGHT = 1.45
ARROWS = (  # from, to, label, place of the label
    ((2.7, 2.82), (3.5, 2.82), "", (0.0, 0.0)),
    ((8.1, 2.82), (9.3, 2.82), "publish", (8.7, 3.02)),
    ((12.2, 2.82), (13.4, 2.82), "load", (12.8, 3.02)),
    ((14.6, 2.1), (12.2, 1.0), "record events,\nfollow changes", (14.5, 1.2)),
    ((9.3, 0.82), (6.2, 2.1), "retrain by the clock,\npromote only if not worse", (6.5, 0.95)),
    ((18.0, 2.82), (18.9, 2.82), "", (0.0, 0.0)),
)


def main() -> None:
    """Write both pictures."""
    mpl.rcParams.update({"svg.hashsalt": "etegrec", "svg.fonttype": "path", "font.size": 10, "text.color": INK})
    draw_architecture(FOLDER / "architecture.svg")
    draw_results(FOLDER / "results.svg")


def draw_architecture(path: Path) -> None:
    """Draw what runs offline, what runs online, and what both share."""
    figure, axes = plt.subplots(figsize=(15, 3.0))
    for box in BOXES:
        _draw_box(axes, box)
    for start, end, label, place in ARROWS:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": QUIET, "lw": 1.4})
        axes.text(*place, label, ha="center", va="center", fontsize=8, color=QUIET)
    axes.text(19.0, 2.82, "POST\n/recommend", ha="left", va="center", weight="bold")

    axes.set_xlim(0, 21)
    axes.set_ylim(0, 3.7)
    axes.axis("off")
    _save(figure, path)


def draw_results(path: Path) -> None:
    """Draw accuracy beside baselines, and speed beside ``generate``."""
    figure, (accuracy, speed) = plt.subplots(1, 2, figsize=(11.5, 2.6))
    _draw_bars(accuracy, BEAUTY_NDCG, "NDCG@10, Amazon Beauty, full ranking", "{:.4f}", {"ours, as served"})
    _draw_bars(
        speed, SEARCH_REQ_S, "requests a second, two CPU cores, batches of 32", "{:.0f}", {"ours, fp32", "ours, 8 bits"}
    )
    figure.tight_layout(w_pad=4)
    _save(figure, path)


def _draw_box(axes: Axes, box: Box) -> None:
    shape = FancyBboxPatch(
        (box.x, box.y), box.width, BOX_HEIGHT, boxstyle="round,pad=0,rounding_size=0.12", fc=box.colour, ec=QUIET
    )
    axes.add_patch(shape)
    middle = box.x + box.width / 2
    axes.text(middle, box.y + BOX_HEIGHT - 0.28, box.title, ha="center", va="center", weight="bold")
    axes.text(middle, box.y + (BOX_HEIGHT - 0.45) / 2, box.lines, ha="center", va="center", fontsize=8.5, color=INK)


def _draw_bars(axes: Axes, values: dict[str, float], title: str, form: str, ours: set[str]) -> None:
    names = list(values)
    bars = axes.barh(names, list(values.values()), color=[OURS if name in ours else PEER for name in names], height=0.7)
    axes.bar_label(bars, [form.format(value) for value in values.values()], padding=4, fontsize=9)
    axes.set_title(title, loc="left", fontsize=10)
    axes.margins(x=0.15)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    for side in axes.spines.values():
        side.set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, bbox_inches="tight", facecolor="white", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
