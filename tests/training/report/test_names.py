"""Names of prefixes in a report: where they stand, how many there are, and what is said if there are none."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from model_store.catalogue.code_names import CodeNames
from tests.support.reported_runs import Reader
from training.report.build import all_charts
from training.report.contents import Contents
from training.report.names import name_counts, names_note
from training.report.page import render_page
from training.report.style import drawable
from training.report.tree import NAME_LENGTH, top_branches


def test_prefixes_are_shown_with_their_names_and_purity(contents: Contents) -> None:
    shared = [prefix for one in name_counts(contents) for prefix in shared_prefixes(contents, one.depth)]
    padded = [[*prefix, *[-1] * (contents.codes.shape[1] - 1 - len(prefix))] for prefix in shared]
    texts = {prefix: f"<Name> of {prefix} · γάλα" for prefix in shared[::2]}
    named = replace(contents, names=CodeNames.of(np.array(padded[::2]), list(texts.values())))
    charts = all_charts(named)
    reader = Reader(render_page(named, [(chart, b"") for chart in charts]).decode())
    assert names_note(named) in reader.texts

    counts = name_counts(named)
    assert sum(one.named for one in counts) == len(texts)
    purity = contents.evaluation.tokenizer["purity"]
    for one, row in zip(counts, purity, strict=True):
        assert one.shared == len(shared_prefixes(contents, one.depth))
        cells = [str(one.depth), str(row["prefixes"]), str(one.shared), f"{one.named} ({one.named / one.shared:.0%})"]
        assert [*cells, f"{row['category_lift']:.1f}", f"{row['together_lift']:.1f}"] in reader.rows

    first_branches = top_branches(named.codes, named.item_popularity)
    branches = [branch for first in first_branches for branch in (first, *first.below)]
    assert {branch.prefix in texts for branch in branches} == {True, False}
    listed = [text.strip() for text in reader.texts]
    (tree,) = (chart for chart in charts if chart.name == "code_tree")
    drawn = {text.get_text() for text in tree.figure.axes[0].texts}
    for branch in branches:
        name = texts.get(branch.prefix)
        assert (branch.label if name is None else f"{branch.label}: {name}") in listed
        assert (branch.label if name is None else f"{branch.label}\n{drawable(name, NAME_LENGTH)}") in drawn


def shared_prefixes(contents: Contents, depth: int) -> list[tuple[int, ...]]:
    """Prefixes of so many codes with at least two items."""
    counts = Counter(tuple(each) for each in contents.codes[:, :depth].tolist())
    return [prefix for prefix, items in counts.items() if items > 1]


def test_a_shop_without_titles_is_told_once_that_there_are_no_names(contents: Contents) -> None:
    silent = replace(contents, names=CodeNames.none(), has_texts=False)
    page = render_page(silent, [(chart, b"") for chart in all_charts(silent)]).decode()
    assert page.count("no prefix has a name") == 1
    assert "Named prefixes" not in page
