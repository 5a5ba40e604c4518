"""Report as one HTML page: images are inside, there are no links, and all text is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

from training.evaluation.metrics import SEEN_EXCLUDED
from training.report.answers import best_model, tokenizer_state
from training.report.contents import Contents
from training.report.html_parts import bullets, html_page, table
from training.report.names import name_counts, names_note
from training.report.notes import INTERVAL, coverage_note, ranker_note, search_note, show_interval, warnings
from training.report.style import Chart, model_name, shortened, sort_rows
from training.report.tree import Branch, top_branches
from training.run_evaluation import Intervals

NO_RANKER = "There is none: it would gain nothing beyond chance, or dense scores do not count."

TITLE_LENGTH = 120
"""Most characters of a title that stand in the page."""

TOOLTIP_LENGTH = 500
"""Most characters of a title that a tooltip shows."""

PROTOCOLS = {"": "items of the history may be answers", SEEN_EXCLUDED: "items of the history are excluded"}


def render_page(contents: Contents, charts: Sequence[tuple[Chart, bytes]]) -> bytes:
    """Render the whole page, with each chart's PNG inside."""
    title = f"ETEGRec on {contents.data}"
    evaluation = contents.evaluation
    splits = {"test": "Test users (last interaction)", "valid": "Validation users (last but one)"}
    metrics = {"test": evaluation.test, "valid": evaluation.valid}
    counts = ", ".join(f"{count:,} {kind}" for kind, count in contents.counts.items())

    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(counts)}. One held-out interaction per user, ranked among all items.</p>",
        *(f'<p class="warning">{escape(line)}</p>' for line in warnings(evaluation)),
        "<h2>Which model recommends best?</h2>",
        f"<p>{escape(best_model(contents))}</p>",
        *(
            metrics_table(metrics[split], evaluation.intervals[split], f"{users}; {protocol}", suffix)
            for split, users in splits.items()
            for suffix, protocol in PROTOCOLS.items()
        ),
        "<h2>What does the search add?</h2>",
        f"<p>{escape(search_note(evaluation) or 'It was not measured.')}</p>",
        "<h2>What does the ranker add?</h2>",
        f"<p>{escape(ranker_note(evaluation) or NO_RANKER)}</p>",
        "<h2>How much of the catalogue is recommended?</h2>",
        f"<p>{escape(coverage_note(evaluation) or 'It was not measured.')}</p>",
        "<h2>What do five users get?</h2>",
        examples_table(contents),
        "<h2>What was left out of the data?</h2>",
        bullets(contents.data_notes or ["Nothing is recorded about it."]),
        "<h2>Is the tokenizer healthy?</h2>",
        f"<p>{escape(tokenizer_state(contents))}</p>",
        health_table(contents),
        policies_table(contents),
        *(section(chart, image) for chart, image in charts),
        "<h2>What do the prefixes stand for?</h2>",
        f"<p>{escape(names_note(contents))}</p>",
        names_table(contents),
        "<h2>The code tree as text</h2>",
        tree_list(contents, top_branches(contents.codes, contents.item_popularity)),
    ]

    return html_page(title, body)


def section(chart: Chart, image: bytes) -> str:
    """Render a question, its answer in words, and the chart."""
    data = base64.b64encode(image).decode()
    words = escape(f"{chart.question} {chart.answer}")
    return (
        f'<h2 id="{escape(chart.name)}">{escape(chart.question)}</h2>\n<p>{escape(chart.answer)}</p>\n'
        f'<figure><img alt="{words}" src="data:image/png;base64,{data}"></figure>'
    )


def title_text(title: str) -> str:
    """Render an item's title; a long one is shortened, and a tooltip shows more of it."""
    short = shortened(title, TITLE_LENGTH)
    tooltip = shortened(title, TOOLTIP_LENGTH)
    return escape(short) if short == tooltip else f'<span title="{escape(tooltip)}">{escape(short)}</span>'


def tree_list(contents: Contents, branches: Sequence[Branch]) -> str:
    """Render branches as a nested list with the titles of items."""
    lines = []
    for branch in branches:
        examples = "".join(f"<li>{title_text(contents.labels[row])}</li>" for row in branch.examples)
        below = f"<ul>{examples}</ul>" if examples else tree_list(contents, branch.below)
        name = contents.names.name(branch.prefix)
        label = branch.label if name is None else f"{branch.label}: {name}"
        lines.append(f"<li>{escape(label)}\n{below}</li>")
    return "<ul>\n" + "\n".join(lines) + "\n</ul>"


def examples_table(contents: Contents) -> str:
    """Render some test users: history, next choice and recommendations by title; a choice that was found is bold."""

    def name(row: int) -> str:
        return title_text(contents.labels[row])

    lines = []
    for number, one in enumerate(contents.examples, start=1):
        earlier = [f"{one.earlier:,} earlier ones"] if one.earlier else []
        answers = [f'<span class="best">{name(row)}</span>' if row == one.chosen else name(row) for row in one.answers]
        columns = ([*earlier, *map(name, one.history)], [name(one.chosen)], answers)
        lines.append([str(number), *("".join(f"<div>{each}</div>" for each in column) for column in columns)])
    heads = ["user", "history, newest last", "chose next", "is recommended, best first"]
    return table("Test users, drawn at random", heads, lines, "words")


def metrics_table(rows: dict[str, dict[str, float]], intervals: dict[str, Intervals], caption: str, suffix: str) -> str:
    """Render the metrics of one protocol, one line per model, with the best of each column in bold.

    The last column has the intervals of NDCG@10.
    """
    names = [name for name in next(iter(rows.values())) if name.endswith(SEEN_EXCLUDED) == bool(suffix)]
    best = {name: max(row[name] for row in rows.values()) for name in names}
    lines = [
        [
            escape(model_name(row)),
            *(_figure(rows[row][name], rows[row][name] == best[name]) for name in names),
            show_interval(intervals[row], suffix),
        ]
        for row in sort_rows(rows)
    ]
    return table(caption, ["model", *(name.removesuffix(suffix) for name in names), INTERVAL], lines)


def health_table(contents: Contents) -> str:
    """Render two tables: code use per level, and figures of the whole tokenizer."""
    health = contents.evaluation.tokenizer
    levels = range(1, len(health["codes_used"]) + 1)
    lines = [
        ["codes used", *map(str, health["codes_used"])],
        ["perplexity", *(f"{value:.1f}" for value in health["perplexity"])],
    ]
    by_level = table(f"Of {contents.codebook_size} codes per level", ["", *(f"level {n}" for n in levels)], lines)

    whole = [
        ["items whose nearest code tuple is shared", f"{health['collision_rate']:.2%}"],
        ["items that share the most crowded tuple", f"{health['largest_group']:,}"],
        ["items with other codes than their nearest tuple", f"{health['moved']:,}"],
        ["reconstruction error (1: no better than the mean)", f"{health['reconstruction_error']:.4f}"],
    ]
    return by_level + "\n" + table("Of all items", ["", "value"], whole)


def policies_table(contents: Contents) -> str:
    """Render a comparison of both collision policies on the same tokenizer; empty if they were not measured."""
    policies: dict[str, dict[str, Any] | None] = contents.evaluation.tokenizer.get("policies", {})
    if not policies:
        return ""
    lines = [
        [escape(name), str(one["code_length"]), f"{one['moved']:,}", f"{one['extra_distance']:.4f}"]
        if one
        else [escape(name), "no room for all items", "", ""]
        for name, one in policies.items()
    ]
    heads = ["policy", "codes per item", "items with other codes than their nearest", "mean extra squared distance"]
    caption = "Result of each collision policy (the nearest codes are found level by level; others may be nearer still)"
    return table(caption, heads, lines)


def names_table(contents: Contents) -> str:
    """Render the named prefixes of each depth beside their purity; empty if items say nothing."""
    if not contents.has_texts:
        return ""
    lines = [
        [
            str(one.depth),
            f"{one.prefixes:,}",
            f"{one.shared:,}",
            f"{one.named:,} ({one.share:.0%})",
            _lift(one.category_lift),
            _lift(one.together_lift),
        ]
        for one in name_counts(contents)
    ]
    heads = [
        "codes",
        "prefixes",
        "with two items",
        "named",
        "lift of a common category",
        "lift of following each other",
    ]
    return table("Named prefixes, and their purity", heads, lines)


def _lift(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _figure(value: float, is_best: bool) -> str:
    return f'<span class="best">{value:.4f}</span>' if is_best else f"{value:.4f}"
