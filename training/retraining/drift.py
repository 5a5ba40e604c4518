"""Drift: whether what came since the live version was trained is unlike what it was trained on.

Three distributions are compared by their population stability (:mod:`training.evaluation.stability`):

- ``codes``: events by the first code of their item;
- ``items``: events by the popularity of their item, in tenths of all items, and those on items not seen before. The
  tenths come from one half of the older events and are compared on the other, because the items that lead a count owe
  part of it to chance;
- ``scores``: the score of the first answer to users' histories, in tenths. Each user counts once before and once since,
  with histories of the same length, because longer ones have surer answers.

What came since are the newest interactions, as many as the data have more than the live version was trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_store.catalogue.code_names import CodeNames
from model_store.search.fusion import scores, scores_all_items
from training.data.dataset import Dataset, Split
from training.data.numbering import Int32Array, Int64Array
from training.evaluation.full_ranking import SearchedModel, search_split
from training.evaluation.stability import Events, Stability, compare_shares
from training.retraining.served_model import ServedModel

FEWEST_INTERACTIONS = 100
"""New interactions below which nothing is measured."""

MOST_USERS = 1_000
"""Users, drawn by seed, whose scores are compared, at most."""

TENTHS = 10

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Shift:
    """One comparison.

    Attributes:
        psi: Population stability index, 0 if nothing moved.
        limit: PSI that chance gives at most, or that does not matter.
        is_found: Whether it is more.
        note: Which share moved most, in words.
    """

    psi: float
    limit: float
    is_found: bool
    note: str


@dataclass(frozen=True)
class Drift:
    """What moved since the live version was trained: the new interactions, and a :class:`Shift` by name."""

    interactions: int
    shifts: dict[str, Shift]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def warning(self, version: str) -> str:
        """Say in a sentence what has shifted; empty if nothing has."""
        found = [
            f"{name} (PSI {shift.psi:.2f}, limit {shift.limit:.2f}: {shift.note})"
            for name, shift in self.shifts.items()
            if shift.is_found
        ]
        if not found:
            return ""
        return (
            f"The {self.interactions:,} interactions since {version} was trained are unlike those before: "
            f"{'; '.join(found)}."
        )


def measure_drift(data: Dataset, model: ServedModel, trained_on: int, names: CodeNames, seed: int) -> Drift | None:
    """Compare what came since a model was trained with what it was trained on.

    Args:
        data: All interactions, old and new.
        model: The live version, with the new items in its catalogue.
        trained_on: Interactions that it was trained on.
        names: Names of its prefixes of codes.
        seed: Seed of all draws.

    Returns:
        ``None`` if there are too few new interactions, or times are unknown.
    """
    count = data.interactions - trained_on
    if not FEWEST_INTERACTIONS <= count < data.interactions or not data.timestamps.any():
        return None

    is_new = np.zeros(data.interactions, dtype=np.bool_)
    is_new[np.argsort(data.timestamps, kind="stable")[-count:]] = True
    measures = _Measures(data, model, is_new, seed)
    found = {
        "codes": (measures.codes(), lambda code: _code_label(code, names)),
        "items": (measures.items(), _item_label),
        "scores": (measures.scores(), _score_label),
    }
    return Drift(count, {name: _shift(one, label) for name, (one, label) in found.items() if one is not None})


class _Measures:
    """The three comparisons of one data set, where ``is_new`` ``[interactions]`` marks what came since."""

    def __init__(self, data: Dataset, model: ServedModel, is_new: BoolArray, seed: int) -> None:
        self._data = data
        self._model = model
        self._is_new = is_new
        self._rng = np.random.default_rng(seed)
        self._owner = np.repeat(np.arange(data.users), data.lengths)
        self._row = model.catalogue.row_of.find(data.item_ids)  # [items], -1 where the model lacks the item

    def codes(self) -> Stability | None:
        """Compare the first codes of events; items without codes are left out."""
        row = self._row[self._data.items]
        code = np.where(row >= 0, self._model.catalogue.codes[row, 0], -1).astype(np.int64)
        return self._compare(code, ~self._is_new & (row >= 0), self._is_new & (row >= 0))

    def items(self) -> Stability | None:
        """Compare the popularity of the items of events."""
        items = self._data.items
        is_counted = ~self._is_new & (self._rng.random(len(items)) < 0.5)
        tenth = popularity_tenths(np.bincount(items[is_counted], minlength=self._data.n_items))
        return self._compare(tenth[items], ~self._is_new & ~is_counted, self._is_new)

    def scores(self) -> Stability | None:
        """Compare the scores of first answers."""
        before, since = self._histories()
        if not before:
            return None
        both = self._first_scores([*before, *since])
        old, new = both[: len(before)], both[len(before) :]
        edges = np.unique(np.quantile(old, np.arange(1, TENTHS) / TENTHS))
        users = np.arange(len(before))
        return compare_shares(
            Events(np.searchsorted(edges, old, side="right"), users),
            Events(np.searchsorted(edges, new, side="right"), users),
        )

    def _compare(self, bins: Int64Array, before: BoolArray, since: BoolArray) -> Stability | None:
        return compare_shares(Events(bins[before], self._owner[before]), Events(bins[since], self._owner[since]))

    def _histories(self) -> tuple[list[Int32Array], list[Int32Array]]:
        """Return the histories of known users before their last old and before their last new interaction, as rows."""
        data = self._data
        new_of_user = np.bincount(self._owner[self._is_new], minlength=data.users)
        old_of_user = data.lengths - new_of_user
        users = np.flatnonzero((new_of_user > 0) & (old_of_user > 1))
        chosen = np.sort(self._rng.permutation(users)[:MOST_USERS])

        before, since = [], []
        for user in chosen.tolist():
            end = int(data.offsets[user + 1])
            middle = end - int(new_of_user[user])
            old = self._known(data.items[data.offsets[user] : middle - 1])
            new = self._known(data.items[data.offsets[user] : end - 1])
            length = min(len(old), self._model.config.recommender.max_history)
            if length:
                before.append(old[-length:])
                since.append(new[-length:])
        return before, since

    def _known(self, items: Int32Array) -> Int32Array:
        rows = self._row[items]
        return rows[rows >= 0].astype(np.int32)

    def _first_scores(self, histories: list[Int32Array]) -> npt.NDArray[np.float32]:
        """Return the score of the first answer to each history."""
        model = self._model
        targets = np.array([history[-1] for history in histories], dtype=np.int32)  # the search needs some
        searched = SearchedModel(
            model.recommender,
            model.catalogue.codes,
            model.config.beam_width,
            model.catalogue.vectors,
            model.fusion.candidates,
            model.neighbours,
            model.fusion.neighbours,
            model.ranker,
            scores_all_items(len(model.catalogue)),
            model.catalogue.resemblances,
        )
        found = search_split(searched, Split(histories, targets, np.arange(len(histories))), seen_excluded=False)
        best: npt.NDArray[np.float32] = scores(found.log_prob[0], found.dense[0], model.fusion.weight).max(axis=1)
        return best


def popularity_tenths(counts: npt.NDArray[np.integer]) -> Int64Array:
    """Return the tenth of each item by its count ``[N]``: 1 for the most popular, 10 for the least, 0 for none."""
    order = np.argsort(-counts, kind="stable")
    seen = int(np.count_nonzero(counts))
    tenth = np.zeros(len(counts), dtype=np.int64)
    tenth[order[:seen]] = np.arange(seen) * TENTHS // max(seen, 1) + 1
    return tenth


def _shift(found: Stability, label: Callable[[int], str]) -> Shift:
    note = f"{label(found.largest)} went from {found.before:.1%} to {found.since:.1%}"
    return Shift(round(found.psi, 4), round(found.limit, 4), found.is_shifted, note)


def _code_label(code: int, names: CodeNames) -> str:
    if code < 0:
        return "rare first codes"
    name = names.name((code,))
    return f"first code {code}" + (f" ({name})" if name else "")


def _item_label(tenth: int) -> str:
    if tenth < 0:
        return "rare tenths of items"
    return f"tenth {tenth} of items by popularity" if tenth else "items not seen before"


def _score_label(tenth: int) -> str:
    return "rare scores" if tenth < 0 else f"tenth {tenth + 1} of scores, lowest first"
