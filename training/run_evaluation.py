"""Evaluation of a run: all models on validation and test users, under both protocols."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from model_store.search.fusion import GENERATIVE_ALONE, Fusion, scores_all_items
from model_store.search.item_words import ItemWords
from model_store.search.neighbours import Neighbours
from model_store.search.ranker import FEATURES, CandidateFeatures, Ranker
from training.blending.ranker import RankerFit, RankerFitter
from training.config import TrainingConfig
from training.content.item_words import fit_item_words
from training.data.dataset import Dataset, Split
from training.diagnostics.beam_survival import sampled_codes_kept
from training.diagnostics.tokenizer_health import tokenizer_health
from training.embedding.sasrec import Sasrec, evaluate_sasrec
from training.evaluation.answers import Answers
from training.evaluation.bootstrap import mean_interval
from training.evaluation.coverage import K, measure_coverage, sample_users
from training.evaluation.dense_ranking import DenseHead
from training.evaluation.full_ranking import SearchedModel, SearchResults, generative_ranks, search_split
from training.evaluation.metrics import SEEN_EXCLUDED, Ranks, gains, ndcg_difference, popularity_ranks
from training.joint.learner import Learner
from training.loop.progress import Bar, Progress
from training.neighbours.ranks import neighbour_ranks
from training.user_ranks import UserRanks

Intervals = dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics by model under both protocols.

    The models, ``rows``, are: ``popularity``; ``neighbours``, their scores alone; ``sasrec``; ``tiger``, if it was
    trained; ``dense``, all items by the dense scores that the answers use; ``generative``, the search alone;
    ``fused_without_search``, what would be answered if the search's scores were left out; ``fused``, what is answered.
    Both of these have rankers of their own, if those gain anything; validation users are ranked by rankers that others
    taught.
    """

    test: dict[str, dict[str, float]]
    valid: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, Intervals]]
    """Bootstrap intervals of NDCG@10 by split (``test``, ``valid``) and row: ``interval``, [low, high], and the same of
    the second protocol."""
    tokenizer: dict[str, Any]
    fusion: dict[str, Any]  # fields of model_store.search.fusion.Fusion, fitted on validation users
    above_popularity: dict[str, float | None] = field(default_factory=dict)
    """NDCG@10 of the fused answers of test users minus that of popularity, ``mean`` and standard ``error``."""
    search_adds: dict[str, Any] = field(default_factory=dict)
    """NDCG@10 of test users with the search minus that without it: ``mean``, and its bootstrap ``interval``."""
    ranker_adds: dict[str, Any] = field(default_factory=dict)
    """NDCG@10 of test users with the ranker minus that without it, as ``search_adds``; empty without a ranker."""
    ranker_reads: list[str] = field(default_factory=list)
    """Features that rankers of the release read (:data:`model_store.search.ranker.FEATURES`)."""
    coverage: dict[str, float] = field(default_factory=dict)
    """Fields of :class:`training.evaluation.coverage.Coverage`, of the fused answers without items of the history."""

    seconds: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as ``etegrec-train run --json`` prints them: each row with its intervals."""
        plain = asdict(self)
        intervals = plain.pop("intervals")
        for split, rows in intervals.items():
            for row, found in rows.items():
                plain[split][row] |= found
        return plain


def is_of_this_release(evaluation: Mapping[str, Any]) -> bool:
    """Tell whether a stored evaluation is current: rankers of an earlier release may have read other features."""
    return evaluation.get("ranker_reads") == list(FEATURES)


@dataclass(frozen=True)
class _Fused:
    """Searches of a split as they are ranked for the answer, and as they would be without the search's scores."""

    answered: SearchResults
    without_search: SearchResults


@dataclass(frozen=True)
class TrainedModels:
    """The models of a finished run."""

    sasrec: Sasrec
    tiger: Learner | None
    neighbours: Neighbours
    learner: Learner


class Evaluated(NamedTuple):
    """What an evaluation found."""

    figures: dict[str, Any]
    """Fields of an :class:`Evaluation` but the seconds."""
    ranks: UserRanks
    """Ranks of all test users."""
    ranker: Ranker | None
    answers: Answers
    """Fused answers to the test users; items are known of :func:`sample_users` of them."""


class RunEvaluator:
    """Evaluation of the models of one run.

    Args:
        config: Configuration of the run.
        data: Its data.
        models: What it trained.
        served_items: Number of items that the bundle will serve.
        progress: Display of the progress.
    """

    def __init__(
        self, config: TrainingConfig, data: Dataset, models: TrainedModels, served_items: int, progress: Progress
    ) -> None:
        self._config = config
        self._data = data
        self._models = models
        self._scores_all = scores_all_items(served_items)
        self._progress = progress
        learner = models.learner
        codes = learner.assignment.codes
        self._dense = DenseHead(learner.recommender, codes, learner.vectors, models.neighbours)
        popularity = np.log1p(data.popularity()).astype(np.float32)
        content_dim = learner.model.recommender.content_dim
        words = fit_item_words(data) if content_dim else ItemWords.nothing(data.n_items)
        self._features = CandidateFeatures(popularity, content_dim, words)

    def evaluate(self) -> Evaluated:
        """Rank the targets of validation and test users by all models, and fit the fusion and the ranker on the way."""
        valid = self._data.validation()
        test = self._data.test()
        rows = 6 + (self._models.tiger is not None)
        with self._progress.track("Evaluating", 2 * rows) as bar:
            weight = self._dense.fit_weight(valid, self._config.seed)
            searched = self._search(valid, weight)
            fusion = searched.fit()
            served, other = self._fit_rankers(searched, fusion)
            fused = _Fused(searched.corrected(served.corrections), searched.corrected(other.corrections))
            del searched
            on_valid = self._rows(valid, weight, fusion, fused, bar)

            searched = self._search(test, weight, sample_users(len(test.targets), self._config.seed))
            fused = _Fused(_ranked_by(served.ranker, searched), _ranked_by(other.ranker, searched))
            on_test = self._rows(test, weight, fusion, fused, bar)

        learner = self._models.learner
        lead = ndcg_difference(on_test["fused"].all_items, on_test["popularity"].all_items, K)
        answers = Answers.of(fused.answered, fusion)
        figures = {
            "test": {row: ranks.summary() for row, ranks in on_test.items()},
            "valid": {row: ranks.summary() for row, ranks in on_valid.items()},
            "intervals": {"test": self._intervals(on_test), "valid": self._intervals(on_valid)},
            "tokenizer": tokenizer_health(learner, self._data).as_dict(),
            "fusion": fusion.model_dump(mode="json"),
            "above_popularity": lead._asdict(),
            "search_adds": self._adds(on_test["fused"], on_test["fused_without_search"]),
            "ranker_adds": self._adds(on_test["fused"], searched.ranks(fusion)) if served.ranker else {},
            "ranker_reads": list(FEATURES),
            "coverage": measure_coverage(answers.items, self._data.n_items).as_dict(),
        }
        ranks = UserRanks(on_test, *sampled_codes_kept(learner, test, self._config.seed))
        return Evaluated(figures, ranks, served.ranker, answers)

    def _search(self, split: Split, weight: float, listed: Any = None) -> SearchResults:
        """Search for all users of a split; neighbours count with this weight in the dense scores."""
        learner = self._models.learner
        width = self._config.model.beam_width
        model = SearchedModel(
            learner.recommender,
            learner.assignment.codes,
            width,
            learner.vectors,
            candidates=width,
            neighbours=self._models.neighbours,
            neighbours_weight=weight,
            scores_all=self._scores_all,
        )
        return search_split(model, split, listed=listed, features=self._features)

    def _fit_rankers(self, searched: SearchResults, fusion: Fusion) -> tuple[RankerFit, RankerFit]:
        """Fit the ranker of the answers, and the one of the answers without the search's scores: both or neither."""
        nothing = RankerFit.nothing(searched)
        if not fusion.weight:
            return nothing, nothing
        fitters = [
            RankerFitter(searched, fusion, self._features, self._config.seed, reads_search)
            for reads_search in (True, False)
        ]
        served = fitters[0].fit()
        return served, fitters[1].fit(must_gain=False) if served.ranker else nothing

    def _rows(self, split: Split, weight: float, fusion: Fusion, fused: _Fused, bar: Bar) -> dict[str, Ranks]:
        """Return the ranks of a split's targets by row of the evaluation."""
        rows: dict[str, Ranks] = {}
        for name, ranks in self._ranked(split, weight):
            rows[name] = ranks
            bar.advance(1)

        rows["generative"] = fused.answered.ranks(GENERATIVE_ALONE)
        rows["fused_without_search"] = fused.without_search.ranks_without_search()
        rows["fused"] = fused.answered.ranks(fusion)
        bar.advance(2)
        return rows

    def _ranked(self, split: Split, weight: float) -> Iterator[tuple[str, Ranks]]:
        """Rank the targets by all models that need no search of ours, one after the other."""
        models = self._models
        width = self._config.model.beam_width
        yield "popularity", popularity_ranks(self._data.popularity(), split)
        yield (
            "neighbours",
            neighbour_ranks(models.neighbours, split, self._config.model.recommender.max_history),
        )
        yield "sasrec", evaluate_sasrec(models.sasrec, split)
        if models.tiger is not None:
            tiger = models.tiger
            yield "tiger", generative_ranks(tiger.recommender, tiger.assignment.codes, split, width)
        yield "dense", self._dense.ranks(split, weight)

    def _intervals(self, rows: dict[str, Ranks]) -> dict[str, Intervals]:
        """Return the intervals of every row's NDCG@10 under both protocols."""
        return {
            row: {
                f"interval{suffix}": list(mean_interval(gains(of_protocol, K), self._config.seed))
                for suffix, of_protocol in zip(("", SEEN_EXCLUDED), ranks, strict=True)
            }
            for row, ranks in rows.items()
        }

    def _adds(self, ranks: Ranks, without: Ranks) -> dict[str, Any]:
        """Return by how much NDCG@10 of these ranks exceeds that of others, and the interval of the difference."""
        difference = gains(ranks.all_items, K) - gains(without.all_items, K)
        return {"mean": float(np.mean(difference)), "interval": list(mean_interval(difference, self._config.seed))}


def _ranked_by(ranker: Ranker | None, searched: SearchResults) -> SearchResults:
    """Return results with the ranker's corrections, if there is a ranker."""
    return searched if ranker is None else searched.corrected(searched.corrections_by(ranker))
