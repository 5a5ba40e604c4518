"""Charts of the semantic IDs: code tree, purity of prefixes, and use of the codebooks."""

from __future__ import annotations

from typing import Any

import numpy as np

from training.diagnostics.tokenizer_health import code_use
from training.report.contents import Contents
from training.report.style import PALETTE, Chart, new_figure, tidy
from training.report.tree import code_tree


def code_charts(contents: Contents) -> list[Chart]:
    """Return the charts for which there are data."""
    charts = (code_tree(contents), purity(contents), codebook_use(contents))
    return [chart for chart in charts if chart]


def codebook_use(contents: Contents) -> Chart:
    """Return the chart of the items per code, most used codes first, for each level."""
    health = contents.evaluation.tokenizer
    size = contents.codebook_size
    question = "Are all codes used, and evenly?"

    figure = new_figure(question, 3.4)
    axes = figure.subplots()
    for level, counts in enumerate(code_use(contents.codes[:, : contents.levels], size)):
        label = f"level {level + 1}: {health['codes_used'][level]} used, perplexity {health['perplexity'][level]:.1f}"
        ranked = np.sort(counts)[::-1]
        colour = PALETTE[level % len(PALETTE)]
        axes.plot(np.arange(1, size + 1), ranked, color=colour, label=label, drawstyle="steps-mid")
    even = len(contents.codes) / size
    axes.axhline(even, color="black", linestyle=":", linewidth=1, label=f"even use: {even:.1f} items per code")
    tidy(axes, "codes, most used first", "items that have the code")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)

    parts = [
        f"level {level + 1} uses {used} of {size} codes, as diverse as {perplexity:.1f} evenly used codes"
        for level, (used, perplexity) in enumerate(zip(health["codes_used"], health["perplexity"], strict=True))
    ]
    answer = "; ".join(parts).capitalize() + "."
    return Chart("codebook_use", question, answer, figure)


def purity(contents: Contents) -> Chart | None:
    """Return the chart of both lifts, category and neighbours in a history, for items that share a prefix."""
    rows: list[dict[str, Any]] = contents.evaluation.tokenizer.get("purity", [])
    kinds = {"category_lift": "share a category", "together_lift": "follow each other in a user's history"}
    kinds = {name: text for name, text in kinds.items() if any(row[name] is not None for row in rows)}
    if not kinds:
        return None

    question = "Do items that share a prefix belong together?"
    figure = new_figure(question, 3.2)
    axes = figure.subplots()
    parts = []
    for index, (name, text) in enumerate(kinds.items()):
        known = [row for row in rows if row[name] is not None]
        depths = [row["depth"] for row in known]
        lifts = [row[name] for row in known]
        at = np.array(depths) + 0.18 * (index - (len(kinds) - 1) / 2)
        bars = axes.bar(at, lifts, width=0.16, color=PALETTE[index], hatch="//" if index else "", label=text)
        axes.bar_label(bars, labels=[f"{lift:.1f}×" for lift in lifts], fontsize=9)
        parts.append(f"items that share {_codes(depths[-1])} {text} {lifts[-1]:.1f} times as often as by chance")

    axes.axhline(1, color="black", linestyle=":", linewidth=1, label="chance")
    axes.set_xticks([row["depth"] for row in rows], [f"{row['depth']}\n{row['prefixes']:,} prefixes" for row in rows])
    tidy(axes, "leading codes that two items share", "times as likely as by chance")
    axes.margins(y=0.15)
    axes.legend(frameon=False, fontsize=9)

    answer = "; ".join(parts).capitalize() + "."
    return Chart("purity", question, answer, figure)


def _codes(depth: int) -> str:
    return "the first code" if depth == 1 else f"the first {depth} codes"
