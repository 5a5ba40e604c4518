"""Study of new items: recommendations of items that came after training, measured as they are served.

Some items are removed from the data with all their interactions, and a model is trained on the rest and published. Then
the items are added to its catalogue by title, categories and attributes alone, exactly as the service adds them: item
encoder, placement, changed catalogue. The gain is measured on users whose next item is a new one, the cost on all other
users.
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
from model_store.bundle.signature import EVERYONE
from model_store.catalogue.catalogue import Catalogue, ItemPut
from model_store.errors import DataError
from model_store.network.bound_search import BoundSearch
from model_store.network.search import BeamSearch
from model_store.new_items.item_encoder import ItemEncoder
from model_store.search.fusion import boost_new_items, ranking
from model_store.search.history_encoding import encode_histories
from model_store.search.interface import search_inputs
from model_store.search.ranker import corrected
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
from training.studies.held_out_items import HeldOut, held_out_targets, hold_out
from training.studies.new_items_report import CUTOFF, BoostRow, NewItemsReport

BOOSTS = (-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
"""Values of ``fresh_boost`` that are compared, see :func:`model_store.search.fusion.boost_new_items`."""

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class Answers(NamedTuple):
    """Candidates of n users, C each, with their scores without boost."""

    rows: Int64Array  # [n, C], catalogue rows
    log_prob: npt.NDArray[np.float32]  # [n, C]
    dense: npt.NDArray[np.float32]  # [n, C]

    def top(self, weight: float, boost: BoolArray, by: float) -> Int64Array:
        """Return the catalogue rows of the first :data:`CUTOFF` answers, -1 where there are fewer.

        Args:
            weight: Weight of the dense scores.
            boost: Mask of the catalogue rows that are boosted.
            by: Amount of the boost.
        """
        raised = boost_new_items(self.log_prob, boost[self.rows], by, weight)
        order = ranking(raised, self.dense, weight)[:, :CUTOFF]
        rows = np.take_along_axis(self.rows, order, axis=1)
        is_answer = np.isfinite(np.take_along_axis(self.log_prob, order, axis=1))
        return np.where(is_answer, rows, -1)


class NewItems:
    """One study in one folder; results that exist are reused."""

    def __init__(self, out: Path, config: TrainingConfig, source: str, share: float, progress: Progress) -> None:
        """Plan the study; nothing is read or trained yet.

        Args:
            out: Folder of the study.
            config: Configuration of the training; its seed also draws the items.
            source: Data, as for ``etegrec-train run``.
            share: Share of the items to hold out.
            progress: Display of the progress of stages.
        """
        self.out = out.resolve()
        self.config = config
        self.source = source
        self.share = share
        self.progress = progress

    def run(self) -> NewItemsReport:
        """Hold items out, train, publish, add the items to the catalogue, and search for all users.

        Raises:
            CheckpointError: The folder holds another study.
            DataError: No item says anything by which a new one could be placed.
        """
        self._refuse_without_content()
        _ = self.pipeline.dataset  # opened even if the run is finished: changed data must be refused
        users = held_out_targets(self.whole_data, self.held_out)
        other_users = self.pipeline.dataset.test()
        catalogue = self.catalogue

        with self.progress.track("Asking users", 4) as bar:
            answers = self._search(catalogue, users)
            bar.advance(1)
            among_new = self._search(catalogue, users, self._is_new)
            bar.advance(1)
            other_answers = self._search(catalogue, other_users)
            bar.advance(1)
            before = self._search(self.bundle.catalogue(), other_users)
            bar.advance(1)

        genres = self._genre_ranks(users)
        new = len(self.held_out.items)
        seen = np.array([len(np.unique(history)) for history in users.histories])
        seen_new = np.array([len(np.unique(history[self._is_new[history]])) for history in users.histories])

        return NewItemsReport(
            data=self.whole_data.name,
            items=len(catalogue),
            new_items=new,
            users=len(users.targets),
            other_users=len(other_users.targets),
            demand=float(np.isin(self.whole_data.items, self.held_out.items).mean()),
            recall={
                "model": recall(self._ranks(answers, users), CUTOFF),
                "genre_popularity": recall(genres[0], CUTOFF),
                "random": float(np.minimum(1, CUTOFF / (len(catalogue) - seen)).mean()),
            },
            recall_among_new={
                "model": recall(self._ranks(among_new, users), CUTOFF),
                "genre_popularity": recall(genres[1], CUTOFF),
                "random": float(np.minimum(1, CUTOFF / (new - seen_new)).mean()),
            },
            other_ndcg=ndcg(self._ranks(before, other_users), CUTOFF),
            boosts=[self._boost_row(boost, answers, users, other_answers, other_users) for boost in BOOSTS],
        )

    @cached_property
    def whole_data(self) -> Dataset:
        """The data set with all items."""
        return open_or_prepare(self.source, self.out / "data", self.config.data, self.progress.say)

    @cached_property
    def held_out(self) -> HeldOut:
        """The data set without the new items."""
        return hold_out(self.whole_data, self.share, self.config.seed)

    @cached_property
    def pipeline(self) -> Pipeline:
        """The run on the data without the new items."""
        folder = self.out / "trained-data"
        if not is_prepared(folder) or load_dataset(folder).fingerprint != self.held_out.dataset.fingerprint:
            save_dataset(self.held_out.dataset, folder)
        run = RunFolder.create_or_resume(self.out / "run", self.config, str(folder))
        return Pipeline(run, self.progress)

    @cached_property
    def bundle(self) -> Bundle:
        """The published model, which was trained without the new items."""
        store = ModelStore(self.out / "models", trust=EVERYONE, namespace="")  # its own, for this study alone
        record = "published.json"
        version = self.pipeline.run.read_json(record)["version"] if self.pipeline.run.has(record) else None
        if version is None or version not in store.versions():
            version = publish_run(self.pipeline, store)
            self.pipeline.run.write_json(record, {"version": version})
        return store.bundle(version)

    @cached_property
    def catalogue(self) -> Catalogue:
        """The published catalogue with the new items added in the order of their rows."""
        encoder = ItemEncoder.open(self.bundle)
        published = self.bundle.catalogue()
        data = self.whole_data

        places = encoder.placement(published)
        puts = []
        for row in self.held_out.items.tolist():
            content = (data.titles[row], data.categories[row], data.attributes[row])
            encoded = encoder.encode(*content)
            codes = places.place(encoded.latent)
            puts.append(ItemPut(data.item_ids[row], *content, codes, encoded.vector, encoded.resemblance))
        return published.with_changes(puts)

    @cached_property
    def _is_new(self) -> BoolArray:
        """Mask of the new items by row of :attr:`catalogue`."""
        return np.arange(len(self.catalogue)) >= self.catalogue.trained

    def _refuse_without_content(self) -> None:
        """Refuse data of which new items could not be placed, before anything is trained."""
        if not self.held_out.dataset.has_content:
            raise DataError(
                f"{self.whole_data.name}: no item says anything in title, categories or attributes, by which new items "
                "are placed",
                "name a table with them: --items FILE, and --title, --categories or --attributes if its columns have "
                "unusual names; vectors alone (--vector) are not enough, as new items come without",
            )

    def _search(self, catalogue: Catalogue, split: Split, is_open: BoolArray | None = None) -> Answers:
        """Return candidates for every user. Items of the history are excluded, but never the target."""
        fusion = self.bundle.manifest.fusion
        width = self.config.model.beam_width
        neighbours = self.bundle.neighbours()
        ranker = self.bundle.ranker()
        trie = catalogue.trie
        recommender = self.pipeline.learner.recommender.eval()
        search = BoundSearch(BeamSearch(recommender), trie, catalogue.vectors)
        rules = [trie.everything if is_open is None else trie.mask(is_open)]

        shape = (len(split.targets), width + fusion.candidates)
        found = Answers(np.empty(shape, np.int64), np.empty(shape, np.float32), np.empty(shape, np.float32))
        order = np.argsort([len(history) for history in split.histories], kind="stable")
        for start in range(0, len(order), USERS_AT_ONCE):
            users = order[start : start + USERS_AT_ONCE]
            histories = [split.histories[user] for user in users]
            targets = split.targets[users]
            encoded = encode_histories(histories, trie.item_leaf, recommender.shape.max_history)
            seen = [np.unique(history[history != target]) for history, target in zip(histories, targets, strict=True)]

            added = fusion.additions(neighbours, encoded, trie, catalogue.resemblances)
            inputs = search_inputs(encoded, trie, width, rules, (), seen, candidates=fusion.candidates, additions=added)
            outputs = corrected(ranker, inputs, search(inputs), trie, catalogue.vectors, catalogue.resemblances)
            found.rows[users] = trie.leaf_item[outputs.leaves]
            found.log_prob[users] = outputs.log_prob
            found.dense[users] = outputs.dense

        return found

    def _ranks(self, answers: Answers, split: Split, boost: float = 0.0) -> Int64Array:
        hit = self._top(answers, boost) == split.targets[:, None]
        return np.where(hit.any(axis=1), hit.argmax(axis=1), -1).astype(np.int64)

    def _top(self, answers: Answers, boost: float) -> Int64Array:
        return answers.top(self.bundle.manifest.fusion.weight, self._is_new, boost)

    def _boost_row(
        self, boost: float, answers: Answers, users: Split, other_answers: Answers, other_users: Split
    ) -> BoostRow:
        return BoostRow(
            boost,
            recall(self._ranks(answers, users, boost), CUTOFF),
            self._exposure(self._top(answers, boost)),
            self._exposure(self._top(other_answers, boost)),
            ndcg(self._ranks(other_answers, other_users, boost), CUTOFF),
        )

    def _exposure(self, top: Int64Array) -> float:
        return float(self._is_new[top[top >= 0]].mean())

    def _genre_ranks(self, split: Split) -> tuple[Int64Array, Int64Array]:
        """Return the ranks by popularity within genre, among all items and among new ones."""
        categories = list(self.catalogue.categories)
        scores = genre_scores(categories, self.pipeline.dataset.popularity(), split.histories)
        seen = np.zeros(scores.shape, dtype=np.bool_)
        for user, history in enumerate(split.histories):
            seen[user, history] = True
        is_trained = np.arange(scores.shape[1]) < self.catalogue.trained
        return rank_of_target(scores, split.targets, seen), rank_of_target(scores, split.targets, seen | is_trained)


def genre_scores(
    categories: Sequence[Sequence[str]],
    popularity: npt.NDArray[np.integer],
    histories: Sequence[npt.NDArray[np.integer]],
) -> npt.NDArray[np.float64]:
    """Return the scores of the baseline: popularity times the share of the item's categories in the user's history.

    New items have no popularity of their own; they get the average of the trained items of their categories.

    Args:
        categories: Categories of all items, trained items first, ``[items]``.
        popularity: Interactions of the trained items, ``[trained]``.
        histories: Item rows of n users.

    Returns:
        ``[n, items]``.
    """
    names = {name: column for column, name in enumerate(sorted({name for each in categories for name in each}))}
    membership = np.zeros((len(categories), len(names)))
    for row, each in enumerate(categories):
        membership[row, [names[name] for name in each]] = 1 / max(len(each), 1)

    is_member = membership[: len(popularity)] > 0
    average = popularity @ is_member / np.maximum(is_member.sum(axis=0), 1)
    expected = membership @ average
    expected[: len(popularity)] = popularity

    taste = np.stack([membership[history].mean(axis=0) for history in histories])
    return np.asarray((taste @ membership.T) * expected)
