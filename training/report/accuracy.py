"""Charts of who is served well: by popularity of the item, by length of the history, and where the beam goes wrong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.report.bins import Share, bin_edges, bin_names, share_of, shares_by_bin
from training.report.contents import Contents
from training.report.style import (
    PALETTE,
    Chart,
    colour_and_marker,
    in_order,
    model_name,
    new_figure,
    percent,
    tidy,
)

K = 10
"""Cut-off of the charts."""


def accuracy_charts(contents: Contents) -> list[Chart]:
    """Recall@10 of test users, history items allowed as answers."""
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
            "interactions of the user before the one to be predicted",
            "Does a longer history help?",
        ),
        beam_fate(contents),
    ]


def hits(contents: Contents, row: str) -> npt.NDArray[np.bool_]:
    """Whether each test user's item is among the first 10 answers, ``[n]``."""
    ranks = contents.ranks.rows[row].all_items
    return np.asarray((ranks >= 0) & (ranks < K))


def _recall_by(contents: Contents, name: str, values: npt.NDArray[np.int64], x: str, question: str) -> Chart:
    edges = bin_edges(values)
    names = bin_names(edges, int(values.max()))
    figure = new_figure(question, 4.0)
    axes = figure.subplots()
    rows = in_order(contents.ranks.rows)
    found = {row: shares_by_bin(values, hits(contents, row), edges) for row in rows}
    for index, row in enumerate(rows):
        colour, marker = colour_and_marker(row)
        at = np.arange(len(edges)) + 0.12 * (index - (len(rows) - 1) / 2)  # side by side: error bars stay readable
        shares, errors = [one.share for one in found[row]], [one.error for one in found[row]]
        axes.errorbar(at, shares, yerr=errors, color=colour, marker=marker, capsize=3, label=model_name(row))
    users = [one.users for one in found[rows[0]]]
    ticks = [f"{label}\n{count:,} users" for label, count in zip(names, users, strict=True)]
    axes.set_xticks(range(len(edges)), ticks, fontsize=8)
    tidy(axes, x, f"recall@{K}, test users")
    percent(axes)
    axes.set_ylim(bottom=0)
    axes.set_xlim(-0.5, len(edges) - 0.5)
    axes.legend(frameon=False, fontsize=9)
    best = max(rows, key=lambda row: contents.evaluation.test[row]["ndcg@10"])
    return Chart(name, question, _ends(model_name(best), names, found[best]), figure)


def _ends(model: str, names: list[str], shares: list[Share]) -> str:
    first, last = shares[0], shares[-1]
    if len(shares) == 1:
        return f"All {first.users:,} test users are in one group: recall@{K} {_percent(first)} with {model}."
    return (
        f"{model} reaches recall@{K} {_percent(first)} at {names[0]} and {_percent(last)} at {names[-1]}. "
        "Bars show one standard error."
    )


def beam_fate(contents: Contents) -> Chart:
    """What became of the target's codes in the beam of the generative row."""
    fates = fate_shares(contents)
    question = "At which code does the beam go wrong?"
    figure = new_figure(question, 1.1 + 0.34 * len(fates))
    axes = figure.subplots()
    colours = [PALETTE[2], PALETTE[4], *[PALETTE[1]] * (len(fates) - 2)]
    shares, errors = [one.share for one in fates.values()], [one.error for one in fates.values()]
    bars = axes.barh(list(fates), shares, xerr=errors, capsize=3, color=colours)
    axes.bar_label(bars, labels=[f" {_percent(one)}" for one in fates.values()], fontsize=9)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    tidy(axes, f"share of {next(iter(fates.values())).users:,} test users", "fate of the target", "x")
    percent(axes, "x")
    return Chart("beam", question, _where_lost(fates), figure)


def _where_lost(fates: dict[str, Share]) -> str:
    lost = {name.removeprefix("lost "): one for name, one in fates.items() if name.startswith("lost ")}
    worst = max(lost, key=lambda name: lost[name].share)
    if not lost[worst].share:
        return "Nowhere: it holds the item of every user to the end."
    return (
        f"Most often {worst}, where it loses the items of {_percent(lost[worst])} of users. An item is lost at the "
        f"first code that the beam no longer holds; it is ranked too low if {K} others that are held score higher."
    )


def fate_shares(contents: Contents) -> dict[str, Share]:
    """Share of sampled users by fate, best first: answered in time, ranked too low, lost at code L … 1."""
    ranks, levels = contents.ranks, contents.codes.shape[1]
    in_time = hits(contents, "generative")[ranks.beam_users]
    held = ranks.beam_kept == levels
    fates = {f"in the first {K}": in_time, "ranked too low": held & ~in_time}
    fates |= {f"lost at code {level}": ranks.beam_kept == level - 1 for level in range(levels, 0, -1)}
    return {name: share_of(users) for name, users in fates.items()}


def _percent(one: Share) -> str:
    return f"{one.share:.1%} ± {one.error:.1%}"
