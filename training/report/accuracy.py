"""Charts of accuracy: by popularity of the item, by history length, and by fate of the target."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.report.bins import Share, bin_edges, bin_names, share_of, shares_by_bin
from training.report.contents import Contents
from training.report.style import (
    PALETTE,
    Chart,
    colour_and_marker,
    model_name,
    new_figure,
    show_percent,
    sort_rows,
    tidy,
)

K = 10
"""Cut-off of the charts."""

WITHOUT_SEARCH = "fused_without_search"
"""Row that the charts leave out: it is about as good as ``fused``."""


def accuracy_charts(contents: Contents) -> list[Chart]:
    """Return the charts of recall@10 of test users; items of the history may be answers."""
    return [
        _recall_by(
            contents,
            "recall_by_popularity",
            contents.target_popularity,
            "training interactions of the item that the user chose",
            "Which items are found, popular ones or rare ones?",
        ),
        _recall_by(
            contents,
            "recall_by_history",
            contents.history_length,
            "interactions of the user before the one to predict",
            "Does a longer history help?",
        ),
        beam_fate(contents),
    ]


def hits(contents: Contents, row: str) -> npt.NDArray[np.bool_]:
    """Return for each test user whether the target is among the first 10 answers, ``[n]``."""
    ranks = contents.ranks.rows[row].all_items
    return np.asarray((ranks >= 0) & (ranks < K))


def _recall_by(contents: Contents, name: str, values: npt.NDArray[np.int64], x: str, question: str) -> Chart:
    edges = bin_edges(values)
    names = bin_names(edges, int(values.max()))
    rows = sort_rows(contents.ranks.rows.keys() - {WITHOUT_SEARCH})
    found = {row: shares_by_bin(values, hits(contents, row), edges) for row in rows}

    figure = new_figure(question, 4.0)
    axes = figure.subplots()
    for index, row in enumerate(rows):
        colour, marker = colour_and_marker(row)
        at = np.arange(len(edges)) + 0.12 * (index - (len(rows) - 1) / 2)  # side by side, to keep error bars readable
        shares = [one.share for one in found[row]]
        errors = [one.error for one in found[row]]
        axes.errorbar(at, shares, yerr=errors, color=colour, marker=marker, capsize=3, label=model_name(row))

    users = [one.users for one in found[rows[0]]]
    ticks = [f"{label}\n{count:,} users" for label, count in zip(names, users, strict=True)]
    axes.set_xticks(range(len(edges)), ticks, fontsize=8)
    tidy(axes, x, f"recall@{K}, test users")
    show_percent(axes)
    axes.set_ylim(bottom=0)
    axes.set_xlim(-0.5, len(edges) - 0.5)
    axes.legend(frameon=False, fontsize=9)

    best = max(rows, key=lambda row: contents.evaluation.test[row]["ndcg@10"])
    return Chart(name, question, _ends(model_name(best), names, found[best]), figure)


def _ends(model: str, names: list[str], shares: list[Share]) -> str:
    first = shares[0]
    last = shares[-1]
    if len(shares) == 1:
        return f"All {first.users:,} test users are in one group: recall@{K} {_percent(first)} with {model}."
    return (
        f"{model} reaches recall@{K} {_percent(first)} at {names[0]} and {_percent(last)} at {names[-1]}. "
        "Bars show one standard error."
    )


def beam_fate(contents: Contents) -> Chart:
    """Return the chart of the target's fate in the beam of the generative row."""
    fates = fate_shares(contents)
    question = "At which code does the beam go wrong?"

    figure = new_figure(question, 1.1 + 0.34 * len(fates))
    axes = figure.subplots()
    colours = [PALETTE[2], PALETTE[4], *[PALETTE[1]] * (len(fates) - 2)]
    shares = [one.share for one in fates.values()]
    errors = [one.error for one in fates.values()]
    bars = axes.barh(list(fates), shares, xerr=errors, capsize=3, color=colours)
    axes.bar_label(bars, labels=[f" {_percent(one)}" for one in fates.values()], fontsize=9)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    tidy(axes, f"share of {next(iter(fates.values())).users:,} test users", "fate of the target", "x")
    show_percent(axes, "x")

    return Chart("beam", question, _where_lost(fates), figure)


def _where_lost(fates: dict[str, Share]) -> str:
    lost = {name.removeprefix("lost "): one for name, one in fates.items() if name.startswith("lost ")}
    worst = max(lost, key=lambda name: lost[name].share)
    if not lost[worst].share:
        return "Nowhere: it keeps every user's item until the end."
    return (
        f"Most often {worst}, where it loses the items of {_percent(lost[worst])} of users. An item is lost at the "
        f"first code that is not in the beam. It is ranked too low if it stays in the beam but {K} others score higher."
    )


def fate_shares(contents: Contents) -> dict[str, Share]:
    """Return the share of sampled users by fate, best first: answered, ranked too low, lost at code L … 1."""
    ranks = contents.ranks
    levels = contents.codes.shape[1]
    is_answered = hits(contents, "generative")[ranks.beam_users]
    is_kept = ranks.beam_kept == levels
    fates = {f"in the first {K}": is_answered, "ranked too low": is_kept & ~is_answered}
    fates |= {f"lost at code {level}": ranks.beam_kept == level - 1 for level in range(levels, 0, -1)}
    return {name: share_of(users) for name, users in fates.items()}


def _percent(one: Share) -> str:
    return f"{one.share:.1%} ± {one.error:.1%}"
