"""What the service asks of a search engine: three stages, so that preparing a batch can overlap computing another.

The batcher calls them and never learns what a model is. Engines are used by one batch at a time per stage.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.catalogue import Catalogue
from model_store.fusion import GENERATIVE_ALONE, Fusion, best, scores
from model_store.history import encode_histories
from model_store.search_interface import SearchInputs, SearchOutputs, search_inputs
from model_store.trie import RuleMask

HISTORY_BUCKETS = (8, 16, 24, 32, 50)
"""History lengths that batches are padded to, up to the model's own ``max_history``."""

BEAM_WIDTHS = (20, 50, 100)
"""Beam widths a request can get; few, so that batches can be shared."""


@dataclass(frozen=True)
class SearchRequest:
    """One user's question to the engine, in catalogue rows.

    Attributes:
        history: Rows, oldest first, at least one.
        k: Answers wanted, at most ``beam_width``.
        beam_width: One of :data:`BEAM_WIDTHS`.
        rule: Open nodes; requests with the same rule object share one mask in a batch.
        excluded: Rows that must not be answered (seen, denied).
        max_per_prefix: Answers that may share a first code; ``None``: any number.
        fusion: How dense scores enter the answer.
    """

    history: npt.NDArray[np.int64]
    k: int
    beam_width: int
    rule: RuleMask
    excluded: npt.NDArray[np.int64]
    max_per_prefix: int | None = None
    fusion: Fusion = GENERATIVE_ALONE


class Found(NamedTuple):
    """Answers of one request, best first, at most k; fewer only where fewer items obey the rules."""

    rows: npt.NDArray[np.int64]  # [n]
    score: npt.NDArray[np.float32]  # [n], what the order follows
    log_prob: npt.NDArray[np.float32]  # [n], of the semantic ID, natural logarithm


class Engine(ABC):
    """A loaded model that answers batches of :class:`SearchRequest`. Thread-safe across different stages."""

    name: str
    max_history: int
    checks_goldens = True
    """Whether its answers must be those that the bundle's goldens expect; only an engine without the model says no."""
    reduced_precision = False
    """Whether goldens are compared by overlap instead of by score."""

    def bucket(self, request: SearchRequest) -> Hashable:
        """Requests with equal buckets may share a batch; whichever they share it with, the answer is the same."""
        length = _bucketed(min(len(request.history), self.max_history), self.max_history)
        return length, request.beam_width, request.fusion.candidates

    def prepare(self, requests: Sequence[SearchRequest], catalogue: Catalogue) -> SearchInputs:
        """Turn requests of one bucket into arrays. Cheap, no model involved; the result is valid for this catalogue."""
        rules: dict[int, RuleMask] = {id(request.rule): request.rule for request in requests}
        row_of_rule = {key: row for row, key in enumerate(rules)}
        longest = max(min(len(request.history), self.max_history) for request in requests)
        width = requests[0].beam_width
        return search_inputs(
            encode_histories(
                [request.history for request in requests],
                catalogue.trie.item_leaf,
                self.max_history,
                pad_to=_bucketed(longest, self.max_history),
            ),
            catalogue.trie,
            width,
            list(rules.values()),
            [row_of_rule[id(request.rule)] for request in requests],
            [request.excluded for request in requests],
            [request.max_per_prefix or width for request in requests],
            requests[0].fusion.candidates,
        )

    @abstractmethod
    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        """Run the search. Blocks its thread; called from one thread at a time.

        Args:
            inputs: What :meth:`prepare` made with the same catalogue.
            catalogue: Holds the trie to search.
        """

    def finish(self, outputs: SearchOutputs, requests: Sequence[SearchRequest], catalogue: Catalogue) -> list[Found]:
        """Rank what was found and map it back to catalogue rows, one :class:`Found` a request."""
        answers = []
        for leaves, log_prob, dense, request in zip(*outputs, requests, strict=True):
            rows = catalogue.trie.leaf_item[leaves].astype(np.int64)
            weight, first_code = request.fusion.weight, catalogue.codes[rows, 0]
            kept = best(log_prob, dense, weight, request.k, first_code, request.max_per_prefix)
            answers.append(Found(rows[kept], scores(log_prob[kept], dense[kept], weight), log_prob[kept]))
        return answers

    def close(self) -> None:  # noqa: B027  most engines free everything when they are collected
        """Free what the engine holds; it is not used afterwards."""


def _bucketed(length: int, max_history: int) -> int:
    return min(next((size for size in HISTORY_BUCKETS if size >= length), max_history), max_history)
