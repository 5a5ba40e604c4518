"""Engine contract: the three stages of a search engine (prepare, compute, finish).

Because of the stages, one batch can be prepared while another one is computed. The batcher calls them and never learns
what a model is. One stage of an engine serves one batch at a time, unless :attr:`Engine.searches` says otherwise.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from model_store.catalogue.catalogue import Catalogue
from model_store.search.fusion import GENERATIVE_ALONE, Fusion, best, boost_new_items, scores
from model_store.search.history_encoding import encode_histories
from model_store.search.interface import SearchInputs, SearchOutputs, search_inputs
from model_store.search.neighbours import Neighbours
from model_store.search.ranker import Ranker, corrected
from model_store.search.steering import Steer, steering_batch, steering_of
from model_store.semantic_ids.trie import RuleMask, Trie
from service.engines.score_parts import ScoreParts, split_scores

HISTORY_BUCKETS = (8, 16, 24, 32, 50)
"""History lengths that batches are padded to, up to the model's own ``max_history``."""

BEAM_WIDTHS = (20, 50, 100)
"""Beam widths of requests; there are few, so that requests can share batches."""

NARROW_WIDTHS = (10, 5)
"""Beam widths of requests whose time budget does not allow the usual ones."""

BOUND_CATALOGUES = 2
"""Catalogues that an engine keeps ready: the current one, and the one that batches under way still search."""

LARGEST_BATCH = 32

MAX_PADDING = 0.25
"""Largest share of a request's work in a batch that may be padding to the length of the others."""

T = TypeVar("T")


@dataclass(frozen=True)
class SearchRequest:
    """One user's question to the engine, in catalogue rows.

    Attributes:
        history: Rows, oldest first, at least one.
        k: Answers wanted, at most as many as there are beams and dense candidates.
        beam_width: One of :data:`BEAM_WIDTHS` or :data:`NARROW_WIDTHS`.
        rule: Open nodes. Requests with the same rule object share one mask in a batch.
        excluded: Rows that must not be answered (seen, denied).
        catalogue: Catalogue that the rows and the rule belong to. A batch never mixes catalogues.
        max_per_prefix: Answers that may share a first code; ``None``: any number.
        fusion: Weights of the dense scores in the answer.
        neighbours: The neighbours of all items, if the fusion uses them.
        ranker: Corrects the dense scores of candidates, if the model has one.
        fresh_boost: Bonus of new items, see :func:`model_store.search.fusion.boost_new_items`.
        steer: Prefixes with their nats, see :mod:`model_store.search.steering`. Only engines that can steer take any.
        with_parts: Whether the answer tells the parts of its scores.
    """

    history: npt.NDArray[np.int64]
    k: int
    beam_width: int
    rule: RuleMask
    excluded: npt.NDArray[np.int64]
    catalogue: Catalogue
    max_per_prefix: int | None = None
    fusion: Fusion = GENERATIVE_ALONE
    neighbours: Neighbours | None = None
    ranker: Ranker | None = None
    fresh_boost: float = 0.0
    steer: Steer = ()
    with_parts: bool = False


class Shape(NamedTuple):
    """Size of one request for an engine, padding included."""

    length: int  # T, history items
    beam_width: int  # W
    candidates: int  # n, dense candidates beside the beams

    @property
    def work(self) -> int:
        """Places that the network computes. History items, beams and candidates each cost about as much."""
        return self.length + self.beam_width + self.candidates

    def batch_limit(self, max_batch: int) -> int:
        """Return how many requests of this shape cost as much as ``max_batch`` of the narrowest usual beam.

        With this limit no batch takes much longer than another.
        """
        return _batch_limit(self, max_batch)

    def can_hold(self, other: Shape) -> bool:
        """Return whether a batch padded to this shape may hold a request of the other, with little padding."""
        return other.length <= self.length and other.work >= (1 - MAX_PADDING) * self.work


class SearchResult(NamedTuple):
    """Answers to one request, best first: k of them, or fewer if fewer items obey the rules."""

    rows: npt.NDArray[np.int64]  # [n]
    score: npt.NDArray[np.float32]  # [n], the ranking value
    log_prob: npt.NDArray[np.float32]  # [n], of the semantic ID, natural logarithm
    log_probs: npt.NDArray[np.float32] | None = None  # [n, L], of each code; they sum up to log_prob
    parts: ScoreParts | None = None  # of the scores, if the request asked for them

    def select(self, kept: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> SearchResult:
        """Return the answers where a mask ``[n]`` is true, or those at some places, in their order."""
        by_code = None if self.log_probs is None else self.log_probs[kept]
        parts = None if self.parts is None else self.parts.select(kept)
        return SearchResult(self.rows[kept], self.score[kept], self.log_prob[kept], by_code, parts)

    def first(self, count: int) -> SearchResult:
        """Return the best ``count`` answers."""
        return self.select(np.arange(min(count, len(self.rows))))


class Engine(ABC):
    """A loaded model that answers batches of :class:`SearchRequest`. Thread-safe across different stages."""

    name: str
    max_history: int
    searches = 1
    """Batches computed at the same time."""
    largest_batch = LARGEST_BATCH
    """Requests computed together at most, unless the settings say otherwise."""
    usual_batch: int | None = None
    """Batch size from which on more requests gain little and make each other wait. Batches only grow beyond it while
    many requests wait. ``None``: the more the better."""
    helper_cpu_s = 0.0
    """CPU seconds that the engine's own threads have spent so far, beside those of the threads that call it."""
    checks_goldens = True
    """True if its answers must equal the bundle's goldens; false only for an engine without the model."""
    can_steer = True
    """False if the search was published by a release that knew no steering."""
    reduced_precision = False
    """True if goldens are compared by overlap instead of by score."""

    def shape(self, request: SearchRequest) -> Shape:
        """Return the size of a request.

        The answer does not depend on the other requests in its batch, up to rounding. With 8 bits rounding is coarse,
        because activations are then quantised per batch.
        """
        length = _pad_length(min(len(request.history), self.max_history), self.max_history)
        return Shape(length, request.beam_width, request.fusion.candidates)

    def bind(self, catalogue: Catalogue) -> None:  # noqa: B027  most engines have nothing to do
        """Make ready for a catalogue, so that its first batch need not wait. Slow; callable from any thread."""

    def prepare(self, requests: Sequence[SearchRequest], catalogue: Catalogue) -> SearchInputs:
        """Turn requests of one beam width into arrays.

        Cheap, because no model is involved. The result is valid for this catalogue only.
        """
        # Requests share the mask of a rule object that they have in common.
        rules: dict[int, RuleMask] = {id(request.rule): request.rule for request in requests}
        row_of_rule = {key: row for row, key in enumerate(rules)}
        masks = list(rules.values())
        rule_of = [row_of_rule[id(request.rule)] for request in requests]

        longest = max(min(len(request.history), self.max_history) for request in requests)
        width = requests[0].beam_width
        history = encode_histories(
            [request.history for request in requests],
            catalogue.trie.item_leaf,
            self.max_history,
            pad_to=_pad_length(longest, self.max_history),
        )
        # All requests of a batch are of one model, so the first one's fusion and neighbours are everyone's.
        fusion = requests[0].fusion
        return search_inputs(
            history,
            catalogue.trie,
            width,
            masks,
            rule_of,
            excluded_items=[request.excluded for request in requests],
            max_per_prefix=[request.max_per_prefix or width for request in requests],
            candidates=fusion.candidates,
            additions=fusion.additions(requests[0].neighbours, history, catalogue.trie, catalogue.resemblances),
            steering=steering_batch(catalogue.trie, [request.steer for request in requests]),
        )

    @abstractmethod
    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        """Run the search. Blocks its thread; called from at most :attr:`searches` threads at a time.

        Args:
            inputs: Result of :meth:`prepare` for the same catalogue.
            catalogue: Holds the trie to search.
        """

    def compute_overlapped(
        self, inputs: SearchInputs, catalogue: Catalogue, on_free: Callable[[], None]
    ) -> SearchOutputs:
        """Run :meth:`compute`, and call ``on_free`` as soon as the engine could begin another batch.

        The next call may then overlap with the end of this one. ``on_free`` may be called several times, from any
        thread, or not at all.
        """
        return self.compute(inputs, catalogue)

    def finish(
        self,
        outputs: SearchOutputs,
        inputs: SearchInputs,
        requests: Sequence[SearchRequest],
        catalogue: Catalogue,
    ) -> list[SearchResult]:
        """Rank the candidates of each request and map them back to catalogue rows.

        Args:
            outputs: Result of :meth:`compute`; rows beyond those of the requests are padding.
            inputs: What was searched.
            requests: What :meth:`prepare` made the inputs of.
            catalogue: The same.
        """
        searched = outputs.first(len(requests))
        outputs = searched
        if requests[0].fusion.weight:
            outputs = corrected(
                requests[0].ranker,
                inputs,
                searched,
                catalogue.trie,
                catalogue.vectors,
                catalogue.resemblances,
            )
        found = catalogue.trie.leaf_item[outputs.leaves].astype(np.int64)  # [B, C]

        answers = []
        for at, request in enumerate(requests):
            log_prob = outputs.log_prob[at]
            dense = outputs.dense[at]
            rows = found[at]
            weight = request.fusion.weight
            first_code = None if request.max_per_prefix is None else catalogue.codes[rows, 0]

            raised = boost_new_items(log_prob, rows >= catalogue.trained, request.fresh_boost, weight)
            parts = split_scores(inputs, searched, dense, raised, at, weight) if request.with_parts else None
            if request.steer:
                steered = steering_of(catalogue.codes[rows], request.steer)
                raised += steered
                parts = None if parts is None else parts._replace(steer=steered.astype(np.float64))

            kept = best(raised, dense, weight, request.k, first_code, request.max_per_prefix)
            score = scores(raised[kept], dense[kept], weight)
            by_code = outputs.code_log_prob[at, kept]
            kept_parts = None if parts is None else parts.select(kept)
            answers.append(SearchResult(rows[kept], score, log_prob[kept], by_code, kept_parts))
        return answers

    def answer(self, requests: Sequence[SearchRequest], catalogue: Catalogue) -> list[SearchResult]:
        """Run all three stages, one after the other."""
        inputs = self.prepare(requests, catalogue)
        return self.finish(self.compute(inputs, catalogue), inputs, requests, catalogue)

    def close(self) -> None:  # noqa: B027  most engines free everything when they are collected
        """Free what the engine holds; it is not used afterwards."""


@lru_cache(maxsize=1024)
def _batch_limit(shape: Shape, max_batch: int) -> int:
    narrow = min(shape.beam_width, BEAM_WIDTHS[0])
    usual = shape._replace(beam_width=narrow, candidates=shape.candidates * narrow // shape.beam_width)
    return max(1, max_batch * usual.work // shape.work)


class _Bound(NamedTuple, Generic[T]):
    """Data and what it was derived from."""

    trie: Trie
    vectors: npt.NDArray[np.float32] | None
    data: T


class BoundCatalogues(Generic[T]):
    """Data that an engine derived from the catalogues it searched last. Thread-safe.

    Catalogues that differ in content or visibility alone have the trie and the vectors in common, and share the data.

    Args:
        make: Derives the data from the trie and the vectors of a catalogue, once. A second caller waits for the first.
    """

    def __init__(self, make: Callable[[Catalogue], T]) -> None:
        self._make = make
        self._making = threading.Lock()
        self._listing = threading.Lock()
        self._bound: list[_Bound[T]] = []  # latest use last

    def __bool__(self) -> bool:
        """Return whether there is data of any catalogue."""
        return bool(self._bound)

    def get(self, catalogue: Catalogue) -> T:
        """Return the data of a catalogue; derive it if necessary, while other catalogues stay available."""
        found = self._find(catalogue)
        if found is not None:
            return found.data
        with self._making:
            found = self._find(catalogue) or self._keep(
                _Bound(catalogue.trie, catalogue.vectors, self._make(catalogue))
            )
        return found.data

    def _find(self, catalogue: Catalogue) -> _Bound[T] | None:
        with self._listing:
            found = next(
                (entry for entry in self._bound if entry.trie is catalogue.trie and entry.vectors is catalogue.vectors),
                None,
            )
            if found is not None:
                self._bound = [*(entry for entry in self._bound if entry is not found), found]
            return found

    def _keep(self, entry: _Bound[T]) -> _Bound[T]:
        with self._listing:
            self._bound = [*self._bound, entry][-BOUND_CATALOGUES:]
        return entry


@lru_cache(maxsize=1024)
def _pad_length(length: int, max_history: int) -> int:
    """Return the smallest history bucket that holds this length."""
    return min(next((size for size in HISTORY_BUCKETS if size >= length), max_history), max_history)
