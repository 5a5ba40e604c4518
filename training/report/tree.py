"""Chart of the code tree: the first codes with most interactions, their names, and the items below them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from model_store.catalogue.code_names import CodeNames
from training.report.contents import Contents
from training.report.style import PALETTE, Chart, drawable, new_figure

BRANCHES = 6
"""First codes in the chart."""

TWIGS = 3
"""Second codes below each first code."""

TITLES = 2
"""Items below each second code."""

TITLE_LENGTH = 40  # characters
NAME_LENGTH = 27


class Branch(NamedTuple):
    """Prefix of the code tree, and the parts that are shown below it."""

    prefix: tuple[int, ...]
    items: int
    interactions: int
    below: list[Branch]
    examples: list[int]  # rows of the most popular items; only the deepest prefixes that are shown have some

    @property
    def label(self) -> str:
        """Codes and number of items, ``12-200 (3 items)``."""
        return f"{'-'.join(map(str, self.prefix))} ({self.items} {'item' if self.items == 1 else 'items'})"


def top_branches(
    codes: npt.NDArray[np.integer], popularity: npt.NDArray[np.integer], widths: Sequence[int] = (BRANCHES, TWIGS)
) -> list[Branch]:
    """Return the branches with most interactions, level by level.

    Args:
        codes: Semantic IDs, ``[N, L]``.
        popularity: Interactions of each item, ``[N]``.
        widths: Number of branches to keep at each depth; depths beyond L are ignored.
    """
    return _branches(codes, popularity, np.arange(len(codes)), (), list(widths)[: codes.shape[1]])


def _branches(
    codes: npt.NDArray[np.integer],
    popularity: npt.NDArray[np.integer],
    rows: npt.NDArray[np.int64],
    prefix: tuple[int, ...],
    widths: list[int],
) -> list[Branch]:
    if not widths:
        return []

    here = codes[rows, len(prefix)]
    weight = np.bincount(here, weights=popularity[rows])
    size = np.bincount(here)
    order = sorted(np.flatnonzero(size).tolist(), key=lambda code: (-weight[code], -size[code], code))

    found = []
    for code in order[: widths[0]]:
        inside = rows[here == code]
        longer = (*prefix, code)
        best = inside[np.argsort(-popularity[inside], kind="stable")][:TITLES].tolist()
        below = _branches(codes, popularity, inside, longer, widths[1:])
        found.append(Branch(longer, len(inside), int(weight[code]), below, [] if below else best))
    return found


def code_tree(contents: Contents) -> Chart:
    """Return the chart of the branches with most interactions and the titles, or ids, of their most popular items."""
    branches = top_branches(contents.codes, contents.item_popularity)
    lines = sum(max(TITLES, len(leaf.examples)) for branch in branches for leaf in (branch.below or [branch]))
    question = "What do the codes mean?"
    figure = new_figure(question, 0.8 + 0.21 * lines)
    axes = figure.subplots()
    axes.set_axis_off()

    line = 0
    middles = []
    for index, branch in enumerate(branches):
        colour = PALETTE[index % (len(PALETTE) - 1)]
        middle, line = _draw_branch(axes, branch, contents, line, colour)
        middles.append(middle)
        axes.plot([0.03, 0.03, 0.06], [np.nan, middle, middle], color=colour, linewidth=1.5)
    axes.plot([0.03, 0.03], [min(middles), max(middles)], color="black", linewidth=1.5)
    axes.set_xlim(0, 1)
    axes.set_ylim(line - 0.4, -0.6)

    share = sum(branch.interactions for branch in branches) / max(1, int(contents.item_popularity.sum()))
    answer = (
        f"The chart shows the {len(branches)} of {len(np.unique(contents.codes[:, 0]))} first codes with most training "
        f"interactions, {share:.0%} of all, the names of those that have one, and their most popular items. "
        "Items of one branch should belong together."
    )
    return Chart("code_tree", question, answer, figure)


def _draw_branch(axes: Axes, branch: Branch, contents: Contents, line: int, colour: str) -> tuple[float, int]:
    """Draw a first code and its items from a line on. Return the height of the code and the next free line."""
    twigs = branch.below or [branch]
    heights = []

    for twig in twigs:
        first = line
        for row in twig.examples:
            title = drawable(contents.labels[row], TITLE_LENGTH)
            axes.text(0.56, line, title, fontsize=8, va="center", parse_math=False)
            line += 1
        line = max(line, first + TITLES)  # a label has two lines
        heights.append((first + line - 1) / 2)
        axes.plot([0.535, 0.545], [heights[-1]] * 2, color=colour, linewidth=0.8)
        axes.plot([0.545] * 2, [first - 0.25, line - 0.75], color=colour, linewidth=0.8)

    middle = (heights[0] + heights[-1]) / 2
    _write_label(axes, 0.065, middle, branch, contents.names, "bold")
    for twig, height in zip(branch.below, heights, strict=False):
        axes.plot([0.285, 0.3, 0.315], [middle, height, height], color=colour, linewidth=1)
        _write_label(axes, 0.32, height, twig, contents.names, "normal")
    return middle, line


def _write_label(axes: Axes, x: float, height: float, branch: Branch, names: CodeNames, weight: str) -> None:
    """Write the codes of a branch, and its name below them if it has one."""
    name = names.name(branch.prefix)
    lines = branch.label if name is None else f"{branch.label}\n{drawable(name, NAME_LENGTH)}"
    axes.text(x, height, lines, fontsize=8, va="center", fontweight=weight, parse_math=False)
