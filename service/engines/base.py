"""What the service asks of a search engine: three stages, so that preparing a batch can overlap computing another.

The batcher calls them and never learns what a model is. Engines are used by one batch at a time per stage.
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
from model_store.search.transitions import Transitions
from model_store.semantic_ids.trie import RuleMask

HISTORY_BUCKETS = (8, 16, 24, 32, 50)
"""History lengths that batches are padded to, up to the model's own ``max_history``."""

BEAM_WIDTHS = (20, 50, 100)
"""Beam widths a request can get; few, so that batches can be shared."""

NARROW_WIDTHS = (10, 5)
"""Beam widths for requests whose time budget does not allow the usual ones."""

BOUND_CATALOGUES = 2
"""Catalogues that an engine keeps ready: the current one, and the one that batches under way still search."""

LARGEST_BATCH = 32

WASTE = 0.25
"""Largest part of a request's work in a batch that may be padding to the length of the others."""

T = TypeVar("T")


@dataclass(frozen=True)
class SearchRequest:
    """One user's question to the engine, in catalogue rows.

    Attributes:
        history: Rows, oldest first, at least one.
        k: Answers wanted, at most ``beam_width``.
        beam_width: One of :data:`BEAM_WIDTHS` or :data:`NARROW_WIDTHS`.
        rule: Open nodes; requests with the same rule object share one mask in a batch.
        excluded: Rows that must not be answered (seen, denied).
        catalogue: What the rows and the rule speak of; batches never mix catalogues.
        max_per_prefix: Answers that may share a first code; ``None``: any number.
        fusion: How dense scores enter the answer.
        transitions: Which items follow which, if the fusion uses it.
        fresh_boost: What items that came live get on top, see :func:`model_store.search.fusion.boost_new_items`.
    """

    history: npt.NDArray[np.int64]
    k: int
    beam_width: int
    rule: RuleMask
    excluded: npt.NDArray[np.int64]
    catalogue: Catalogue
    max_per_prefix: int | None = None
    fusion: Fusion = GENERATIVE_ALONE
    transitions: Transitions | None = None
    fresh_boost: float = 0.0


class Shape(NamedTuple):
    """What one request needs of an engine, padding included."""

    length: int  # T, history items
    beam_width: int  # W
    candidates: int  # n, dense candidates beside the beams

    @property
    def work(self) -> int:
        """Places that the network computes: history items, beams and candidates each cost about as much."""
        return self.length + self.beam_width + self.candidates

    def batch_limit(self, max_batch: int) -> int:
        """Requests of this shape that cost what ``max_batch`` of the narrowest usual beam do, so that no batch takes
        much longer than another.
        """
        return _batch_limit(self, max_batch)

    def takes_in(self, other: Shape) -> bool:
        """Whether a batch padded to this shape may hold a request of the other: little of its work is padding."""
        return other.length <= self.length and other.work >= (1 - WASTE) * self.work


class Found(NamedTuple):
    """Answers of one request, best first, at most k; fewer only where fewer items obey the rules."""

    rows: npt.NDArray[np.int64]  # [n]
    score: npt.NDArray[np.float32]  # [n], what the order follows
    log_prob: npt.NDArray[np.float32]  # [n], of the semantic ID, natural logarithm
    log_probs: npt.NDArray[np.float32] | None = None  # [n, L], of each code; they sum up to log_prob

    def only(self, kept: npt.NDArray[np.bool_]) -> Found:
        """Those of the answers that a mask ``[n]`` names."""
        by_code = None if self.log_probs is None else self.log_probs[kept]
        return Found(self.rows[kept], self.score[kept], self.log_prob[kept], by_code)


class Engine(ABC):
    """A loaded model that answers batches of :class:`SearchRequest`. Thread-safe across different stages."""

    name: str
    max_history: int
    searches = 1
    """Batches computed at the same time."""
    largest_batch = LARGEST_BATCH
    """Requests computed together at most, where the settings do not say."""
    usual_batch: int | None = None
    """Requests from which on more of them in a batch gain little and make each other wait, so that a batch only gets
    larger while many wait; none: the more the better."""
    helper_cpu_s = 0.0
    """CPU seconds that its own threads have spent so far, beside those of the threads that call it."""
    checks_goldens = True
    """Whether its answers must be those that the bundle's goldens expect; only an engine without the model says no."""
    reduced_precision = False
    """Whether goldens are compared by overlap instead of by score."""

    def shape(self, request: SearchRequest) -> Shape:
        """What the request needs of the engine. Whichever requests it shares a batch with, its answer is the same,
        up to rounding, which is coarse with 8 bits: activations are then quantised a batch at a time."""
        length = _bucketed(min(len(request.history), self.max_history), self.max_history)
        return Shape(length, request.beam_width, request.fusion.candidates)

    def bind(self, catalogue: Catalogue) -> None:  # noqa: B027  most engines have nothing to do
        """Make ready for a catalogue, so that its first batch need not wait. Slow; callable from any thread."""

    def prepare(self, requests: Sequence[SearchRequest], catalogue: Catalogue) -> SearchInputs:
        """Turn requests of one beam width into arrays. Cheap, no model involved; valid for this catalogue."""
        rules: dict[int, RuleMask] = {id(request.rule): request.rule for request in requests}
        row_of_rule = {key: row for row, key in enumerate(rules)}
        masks, rule_of = list(rules.values()), [row_of_rule[id(request.rule)] for request in requests]
        longest = max(min(len(request.history), self.max_history) for request in requests)
        width = requests[0].beam_width
        history = encode_histories(
            [request.history for request in requests],
            catalogue.trie.item_leaf,
            self.max_history,
            pad_to=_bucketed(longest, self.max_history),
        )
        return search_inputs(
            history,
            catalogue.trie,
            width,
            masks,
            rule_of,
            excluded_items=[request.excluded for request in requests],
            max_per_prefix=[request.max_per_prefix or width for request in requests],
            candidates=requests[0].fusion.candidates,
        )

    @abstractmethod
    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        """Run the search. Blocks its thread; called from at most :attr:`searches` threads at a time.

        Args:
            inputs: What :meth:`prepare` made with the same catalogue.
            catalogue: Holds the trie to search.
        """

    def compute_freeing(self, inputs: SearchInputs, catalogue: Catalogue, free: Callable[[], None]) -> SearchOutputs:
        """:meth:`compute`, but as soon as the engine could begin another batch it calls ``free``, maybe more than once
        and from another thread. The next call may then overlap with the end of this one."""
        return self.compute(inputs, catalogue)

    def finish(self, outputs: SearchOutputs, requests: Sequence[SearchRequest], catalogue: Catalogue) -> list[Found]:
        """Rank what was found and map it back to catalogue rows, one :class:`Found` a request."""
        answers, histories = [], [request.history for request in requests]
        found = catalogue.trie.leaf_item[outputs.leaves[: len(requests)]].astype(np.int64)  # [B, C]
        # All requests of a batch are of one model.
        scored = requests[0].fusion.dense(outputs.dense[: len(requests)], requests[0].transitions, histories, found)
        for at, request in enumerate(requests):
            log_prob, dense, rows, weight = outputs.log_prob[at], scored[at], found[at], request.fusion.weight
            first_code = None if request.max_per_prefix is None else catalogue.codes[rows, 0]
            raised = boost_new_items(log_prob, rows >= catalogue.trained, request.fresh_boost, weight)
            kept = best(raised, dense, weight, request.k, first_code, request.max_per_prefix)
            score = scores(raised[kept], dense[kept], weight)
            answers.append(Found(rows[kept], score, log_prob[kept], outputs.code_log_prob[at, kept]))
        return answers

    def close(self) -> None:  # noqa: B027  most engines free everything when they are collected
        """Free what the engine holds; it is not used afterwards."""


@lru_cache(maxsize=1024)
def _batch_limit(shape: Shape, max_batch: int) -> int:
    narrow = min(shape.beam_width, BEAM_WIDTHS[0])
    usual = shape._replace(beam_width=narrow, candidates=shape.candidates * narrow // shape.beam_width)
    return max(1, max_batch * usual.work // shape.work)


class BoundCatalogues(Generic[T]):
    """What an engine made of the catalogues that it searched last. Thread-safe.

    Args:
        make: Turns a catalogue into what the engine needs, once; a second caller waits for the first.
    """

    def __init__(self, make: Callable[[Catalogue], T]) -> None:
        self._make = make
        self._making = threading.Lock()
        self._listing = threading.Lock()
        self._bound: list[tuple[Catalogue, T]] = []  # latest use last

    def __bool__(self) -> bool:
        """Whether anything was made yet."""
        return bool(self._bound)

    def of(self, catalogue: Catalogue) -> T:
        """What was made of this catalogue. Making it keeps nobody from those that are ready."""
        found = self._find(catalogue)
        if found is not None:
            return found[1]
        with self._making:
            found = self._find(catalogue) or self._keep((catalogue, self._make(catalogue)))
        return found[1]

    def _find(self, catalogue: Catalogue) -> tuple[Catalogue, T] | None:
        with self._listing:
            found = next((entry for entry in self._bound if entry[0] is catalogue), None)
            if found is not None:
                self._bound = [*(entry for entry in self._bound if entry is not found), found]
            return found

    def _keep(self, entry: tuple[Catalogue, T]) -> tuple[Catalogue, T]:
        with self._listing:
            self._bound = [*self._bound, entry][-BOUND_CATALOGUES:]
        return entry


@lru_cache(maxsize=1024)
def _bucketed(length: int, max_history: int) -> int:
    return min(next((size for size in HISTORY_BUCKETS if size >= length), max_history), max_history)
