"""Names of prefixes in a report: how many there are, beside the purity of the prefixes, and what that means."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from training.report.contents import Contents


class NameCount(NamedTuple):
    """Prefixes of one depth, how many of them have a name, and their purity."""

    depth: int
    prefixes: int
    shared: int  # prefixes with at least two items: the others need no name
    named: int
    category_lift: float | None  # see training.diagnostics.purity
    together_lift: float | None

    @property
    def share(self) -> float:
        """Share of the prefixes with at least two items that have a name."""
        return self.named / self.shared if self.shared else 0.0


def name_counts(contents: Contents) -> list[NameCount]:
    """Count the named prefixes of trained items at depths 1 to L - 1."""
    purity: list[dict[str, Any]] = contents.evaluation.tokenizer.get("purity", [])
    lifts = {row["depth"]: (row["category_lift"], row["together_lift"]) for row in purity}

    found = []
    for depth in range(1, contents.codes.shape[1]):
        prefixes, items = np.unique(contents.codes[:, :depth], axis=0, return_counts=True)
        shared = prefixes[items > 1]
        named = sum(name is not None for name in contents.names.find(shared))
        found.append(NameCount(depth, len(prefixes), len(shared), named, *lifts.get(depth, (None, None))))
    return found


def names_note(contents: Contents) -> str:
    """Say in words how many prefixes have a name, and what a name means."""
    if not contents.has_texts:
        return "No item has a title, categories or text attributes, so no prefix has a name."

    parts = [
        f"{one.named:,} of {one.shared:,} prefixes of {one.depth} {'code' if one.depth == 1 else 'codes'}"
        for one in name_counts(contents)
    ]
    return (
        f"Of the prefixes with at least two items these have a name: {', '.join(parts)}. A name is what at least half "
        "of the items below a prefix say, at least twice as often as the catalogue; where nothing is, there is no name."
    )
