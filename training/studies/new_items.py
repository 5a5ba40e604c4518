"""How well a model recommends items that came after it was trained, measured as it is served.

Some items leave the data with all their interactions, a model is trained on the rest and published, and the items come
back live, by title, categories and attributes alone, on the very path that the service takes: item encoder, placement,
changed catalogue. Then users are asked whose next item is one of them, and, for the price, all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.bundle.bundle import Bundle
from model_store.bundle.registry import ModelStore
from model_store.catalogue.catalogue import Catalogue, ItemPut
from model_store.network.bound_search import BoundSearch
from model_store.network.search import BeamSearch
from model_store.new_items.item_encoder import ItemEncoder
from model_store.search.fusion import boost_new_items, ranking
from model_store.search.history_encoding import encode_histories
from model_store.search.interface import search_inputs
from training.config import TrainingConfig
from training.data.dataset import Dataset, Split
from training.data.prepare import open_or_prepare
from training.data.storage import is_prepared, load_dataset, save_dataset
from training.evaluation.full_ranking import USERS_AT_ONCE
from training.evaluation.metrics import ndcg, rank_of_target, recall
from training.export.bundle import publish_run
from training.loop.progress import Progress
from training.pipeline import Pipeline
from training.run_folder import RunFolder
from training.studies.held_out_items import HeldOut, hold_out, next_held_out
from training.studies.new_items_report import CUTOFF, BoostRow, NewItemsReport

BOOSTS = (-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
"""Values of ``fresh_boost`` that are compared, see :func:`model_store.search.fusion.boost_new_items`."""

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class Answers(NamedTuple):
    """Candidates of n users, C each, and how they rank without boost."""

    rows: Int64Array  # [n, C], catalogue rows
    log_prob: npt.NDArray[np.float32]  # [n, C]
    dense: npt.NDArray[np.float32]  # [n, C]

    def top(self, weight: float, boost: BoolArray, by: float) -> Int64Array:
        """Catalogue rows of the first :data:`CUTOFF` answers, -1 where there are fewer.

        Args:
            weight: Of dense scores.
            boost: Which catalogue rows get more.
            by: How much.
        """
        raised = boost_new_items(self.log_prob, boost[self.rows], by, weight)
        order = ranking(raised, self.dense, weight)[:, :CUTOFF]
        rows = np.take_along_axis(self.rows, order, axis=1)
        is_answer = np.isfinite(np.take_along_axis(self.log_prob, order, axis=1))
        return np.where(is_answer, rows, -1)


class NewItems:
    """One measurement in one folder; what is there already is reused."""

    def __init__(self, out: Path, config: TrainingConfig, source: str, share: float, progress: Progress) -> None:
        """Plan it; nothing is read or trained yet.

        Args:
            out: Folder of the measurement.
            config: How to train; its seed also draws the items.
            source: Data, as for ``etegrec-train run``.
            share: Of the items, to be held out.
            progress: Where stages show how far they are.
        """
        self.out, self.config, self.source = out.resolve(), config, source
        self.share, self.progress = share, progress

    def run(self) -> NewItemsReport:
        """Hold items out, train, publish, add them live, and ask.

        Raises:
            CheckpointError: The folder holds another measurement.
            ItemRefused: Nothing but ids is known of the items.
        """
        _ = self.pipeline.dataset  # opened even if the run is finished: changed data must be refused
        asked, others = next_held_out(self.everyone, self.held), self.pipeline.dataset.test()
        live = self.live
        with self.progress.track("Asking users", 4) as bar:
            found = self._search(live, asked)
            bar.advance(1)
            among_new = self._search(live, asked, self._is_new)
            bar.advance(1)
            found_others = self._search(live, others)
            bar.advance(1)
            before = self._search(self.bundle.catalogue(), others)
            bar.advance(1)
        genres = self._genre_ranks(asked)
        new = len(self.held.items)
        seen = np.array([len(np.unique(history)) for history in asked.histories])
        seen_new = np.array([len(np.unique(history[self._is_new[history]])) for history in asked.histories])
        return NewItemsReport(
            data=self.everyone.name,
            items=len(live),
            new_items=new,
            users=len(asked.targets),
            other_users=len(others.targets),
            demand=float(np.isin(self.everyone.items, self.held.items).mean()),
            recall={
                "model": recall(self._ranks(found, asked), CUTOFF),
                "genre_popularity": recall(genres[0], CUTOFF),
                "random": float(np.minimum(1, CUTOFF / (len(live) - seen)).mean()),
            },
            recall_among_new={
                "model": recall(self._ranks(among_new, asked), CUTOFF),
                "genre_popularity": recall(genres[1], CUTOFF),
                "random": float(np.minimum(1, CUTOFF / (new - seen_new)).mean()),
            },
            other_ndcg=ndcg(self._ranks(before, others), CUTOFF),
            boosts=[self._boost_row(boost, found, asked, found_others, others) for boost in BOOSTS],
        )

    @cached_property
    def everyone(self) -> Dataset:
        """The whole data set."""
        return open_or_prepare(self.source, self.out / "data", self.config.data, self.progress.say)

    @cached_property
    def held(self) -> HeldOut:
        """The data set without the new items."""
        return hold_out(self.everyone, self.share, self.config.seed)

    @cached_property
    def pipeline(self) -> Pipeline:
        """The run on what is left of the data."""
        folder = self.out / "trained-data"
        if not is_prepared(folder) or load_dataset(folder).fingerprint != self.held.dataset.fingerprint:
            save_dataset(self.held.dataset, folder)
        run = RunFolder.create_or_resume(self.out / "run", self.config, str(folder))
        return Pipeline(run, self.progress)

    @cached_property
    def bundle(self) -> Bundle:
        """The published model, which knows nothing of the new items."""
        store, record = ModelStore(self.out / "models"), "published.json"
        known = self.pipeline.run.read_json(record)["version"] if self.pipeline.run.has(record) else None
        if known is None or known not in store.versions():
            known = publish_run(self.pipeline, store)
            self.pipeline.run.write_json(record, {"version": known})
        return store.bundle(known)

    @cached_property
    def live(self) -> Catalogue:
        """The published catalogue after the new items came, in the order of their rows."""
        encoder, catalogue, data = ItemEncoder.open(self.bundle), self.bundle.catalogue(), self.everyone
        places, puts = encoder.placement(catalogue), []
        for row in self.held.items.tolist():
            title, categories, attributes = data.titles[row], data.categories[row], data.attributes[row]
            encoded = encoder.encode(title, categories, attributes)
            codes = places.place(encoded.latent)
            puts.append(ItemPut(data.item_ids[row], title, categories, attributes, codes, encoded.vector))
        return catalogue.with_changes(puts)

    @cached_property
    def _is_new(self) -> BoolArray:
        """By row of the live catalogue."""
        return np.arange(len(self.live)) >= self.live.trained

    def _search(self, catalogue: Catalogue, split: Split, is_open: BoolArray | None = None) -> Answers:
        """Candidates for every user, those of the history excluded, the target never."""
        fusion, width, memory = self.bundle.manifest.fusion, self.config.model.beam_width, self.bundle.transitions()
        trie, recommender = catalogue.trie, self.pipeline.learner.recommender.eval()
        search = BoundSearch(BeamSearch(recommender), trie, catalogue.vectors)
        rules = [trie.everything if is_open is None else trie.mask(is_open)]
        shape = (len(split.targets), width + fusion.candidates)
        found = Answers(np.empty(shape, np.int64), np.empty(shape, np.float32), np.empty(shape, np.float32))
        order = np.argsort([len(history) for history in split.histories], kind="stable")
        for start in range(0, len(order), USERS_AT_ONCE):
            users = order[start : start + USERS_AT_ONCE]
            histories, targets = [split.histories[user] for user in users], split.targets[users]
            encoded = encode_histories(histories, trie.item_leaf, recommender.shape.max_history)
            seen = [np.unique(history[history != target]) for history, target in zip(histories, targets, strict=True)]
            inputs = search_inputs(encoded, trie, width, rules, (), seen, candidates=fusion.candidates)
            outputs = search(inputs)
            found.rows[users] = trie.leaf_item[outputs.leaves]
            found.log_prob[users] = outputs.log_prob
            found.dense[users] = fusion.dense(outputs.dense, memory, histories, found.rows[users])
        return found

    def _ranks(self, found: Answers, split: Split, boost: float = 0.0) -> Int64Array:
        hit = self._top(found, boost) == split.targets[:, None]
        return np.where(hit.any(axis=1), hit.argmax(axis=1), -1).astype(np.int64)

    def _top(self, found: Answers, boost: float) -> Int64Array:
        return found.top(self.bundle.manifest.fusion.weight, self._is_new, boost)

    def _boost_row(self, boost: float, found: Answers, asked: Split, others: Answers, rest: Split) -> BoostRow:
        return BoostRow(
            boost,
            recall(self._ranks(found, asked, boost), CUTOFF),
            self._exposure(self._top(found, boost)),
            self._exposure(self._top(others, boost)),
            ndcg(self._ranks(others, rest, boost), CUTOFF),
        )

    def _exposure(self, top: Int64Array) -> float:
        return float(self._is_new[top[top >= 0]].mean())

    def _genre_ranks(self, split: Split) -> tuple[Int64Array, Int64Array]:
        """Ranks by popularity within genre, among all items and among new ones."""
        categories, trained = list(self.live.categories), self.live.trained
        scores = genre_scores(categories, self.pipeline.dataset.popularity(), split.histories)
        seen = np.zeros(scores.shape, dtype=np.bool_)
        for user, history in enumerate(split.histories):
            seen[user, history] = True
        old = np.arange(scores.shape[1]) < trained
        return rank_of_target(scores, split.targets, seen), rank_of_target(scores, split.targets, seen | old)


def genre_scores(
    categories: Sequence[Sequence[str]],
    popularity: npt.NDArray[np.integer],
    histories: Sequence[npt.NDArray[np.integer]],
) -> npt.NDArray[np.float64]:
    """The baseline: how popular an item is, times how much of the user's history is of its categories.

    New items have no popularity of their own; theirs is the average of trained items, over their categories.

    Args:
        categories: Of all items, trained ones first, ``[items]``.
        popularity: Of trained ones, ``[trained]``.
        histories: Item rows of n users.

    Returns:
        ``[n, items]``.
    """
    names = {name: column for column, name in enumerate(sorted({name for each in categories for name in each}))}
    belongs = np.zeros((len(categories), len(names)))
    for row, each in enumerate(categories):
        belongs[row, [names[name] for name in each]] = 1 / max(len(each), 1)
    has = belongs[: len(popularity)] > 0
    average = popularity @ has / np.maximum(has.sum(axis=0), 1)
    expected = belongs @ average
    expected[: len(popularity)] = popularity
    taste = np.stack([belongs[history].mean(axis=0) for history in histories])
    return np.asarray((taste @ belongs.T) * expected)
