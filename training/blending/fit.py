"""Fit of the blend: share of content, penalty of repeats and what makes good neighbours, on validation users.

    dense(item) = (1 - share) * (cosine + repeat bias) + share * content cosine - penalty * occurrences in the history
                  + weight * neighbour score

What one part is worth depends on the others: neighbours who are fitted alone repeat what SASRec knows. So all values
are chosen together, by coordinate ascent on NDCG@20 over small grids. What a user had resembles itself most, in content
too, so the penalty is fitted with the share; where items say nothing the share is 0. As in the search, only the newest
``sasrec.max_history`` items of a history count. The weight of neighbours is fitted again when the recommender is
trained (:mod:`training.evaluation.dense_ranking`), because its cosines are others.

Shapes: C pairs of user and candidate (:mod:`training.blending.candidates`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from model_store.search.item_words import ItemWords
from model_store.search.neighbours import Neighbours
from training.blending.candidates import Candidates, find_candidates
from training.data.dataset import Sequences, Split
from training.embedding.sasrec import Sasrec
from training.evaluation.dense_ranking import NEIGHBOURS_WEIGHTS
from training.evaluation.full_ranking import sample_split
from training.evaluation.metrics import ndcg
from training.neighbours.counts import NeighbourCounts, NeighbourSettings, count_neighbours

SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.7)
PENALTIES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Penalties that are tried. A cosine lies in -1 … 1."""

OUT_EXPONENTS = (0.3, 0.5, 0.85)
IN_EXPONENTS = (0.15, 0.3)
DECAYS = (0.6, 0.7, 0.8)
LIKENESSES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8)
"""Values of neighbours that are tried: whether popular items make good neighbours, and for how long an item of the
history tells what comes next, differ from shop to shop (docs/LOG.md)."""

CUTOFF = 20
"""Ranks that count. They reach beyond an answer, as the next ones may still come up: by what the search knows of them,
or by the ranker (:mod:`training.blending.ranker`)."""

MOST_USERS = 16_000
"""Validation users, drawn by seed, that choose the blend, at most. A quarter of them chose other values from one
SASRec to the next on Beauty (docs/LOG.md)."""

MOST_ROUNDS = 4
"""Rounds over all values, at most. A round that changes nothing is the last."""


class Blend(NamedTuple):
    """Shares and weights of the parts of dense scores, and how good they are."""

    share: float = 0.0  # of content in dense scores, 0 … 1
    repeat_penalty: float = 0.0  # subtracted from the score of an item for each occurrence in the history
    neighbours_weight: float = 0.0
    neighbours: NeighbourSettings = NeighbourSettings()
    ndcg: float = 0.0  # NDCG@20 of the users that it was chosen by, where all their items may be answers
    ndcg_without_content: float = 0.0  # the same of the best blend found with share 0

    def as_dict(self) -> dict[str, object]:
        """Return plain values; :meth:`from_dict` takes them back."""
        return {**self._asdict(), "neighbours": self.neighbours._asdict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return the blend of :meth:`as_dict`."""
        return cls(**{**values, "neighbours": NeighbourSettings(**values["neighbours"])})

    def summary(self) -> str:
        """Say in a line what was fitted."""
        dense = f"Dense scores: NDCG@20 {self.ndcg:.4f} on validation users"
        if not self.share:
            return f"{dense}, without content"
        return f"{dense}, {self.ndcg_without_content:.4f} without content (its share is {self.share:g})"


NO_BLEND = Blend()
"""The blend of a model without content, neighbours and penalty."""


def fit_blend(
    model: Sasrec, content: Tensor | None, words: ItemWords | None, sequences: Sequences, valid: Split, seed: int
) -> tuple[Blend, Neighbours]:
    """Return the blend with the best NDCG@20, and its neighbours; items of the history may be answers.

    Args:
        model: Trained SASRec, in evaluation mode.
        content: Content vectors of all items, ``[N, c]``; ``None`` if they say nothing.
        words: Words of all items; ``None`` if they say nothing.
        sequences: Item rows of each user in training, oldest first.
        valid: Validation users, at least one.
        seed: Seed of the draw of at most :data:`MOST_USERS` of them.
    """
    items = model.item_embedding.num_embeddings
    counts = count_neighbours(sequences, items, words)

    sample = sample_split(valid, MOST_USERS, seed)
    of_all_kinds = NO_BLEND.neighbours._replace(likeness=LIKENESSES[-1])
    candidates = find_candidates(model, content, counts.memory(of_all_kinds), sample)
    search = _BlendSearch(candidates, counts)

    without = search.ascend(Blend(neighbours_weight=NEIGHBOURS_WEIGHTS[1]), shares=(0.0,), likenesses=(0.0,))
    likenesses = LIKENESSES if counts.similarity.any() else (0.0,)
    best = without if content is None else search.ascend(without, SHARES, likenesses)
    best = best._replace(ndcg_without_content=without.ndcg)
    return best, counts.memory(best.neighbours)


def dense_scores(blend: Blend, candidates: Candidates, neighbours: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the dense scores of all candidates ``[C]`` from the parts, of which ``neighbours`` ``[C]`` is one."""
    scores = np.float32(1 - blend.share) * candidates.learned
    scores += np.float32(blend.share) * candidates.said
    scores -= np.float32(blend.repeat_penalty) * candidates.occurrences
    scores += np.float32(blend.neighbours_weight) * neighbours
    return scores


class _BlendSearch:
    """Coordinate ascent over the grids; neighbour scores are computed once for every setting that is tried."""

    def __init__(self, candidates: Candidates, counts: NeighbourCounts) -> None:
        self._candidates = candidates
        self._counts = counts
        self._scores: dict[NeighbourSettings, npt.NDArray[np.float32]] = {}
        self._memory: tuple[NeighbourSettings, Neighbours] | None = None

    def ascend(self, start: Blend, shares: Iterable[float], likenesses: Iterable[float]) -> Blend:
        """Return the best blend that is reached from ``start``, with these shares of content and of words."""
        weights = NEIGHBOURS_WEIGHTS
        steps: tuple[Callable[[Blend], Iterable[Blend]], ...] = (
            lambda at: (at._replace(share=s, neighbours_weight=w) for s, w in product(shares, weights)),
            lambda at: (at._replace(repeat_penalty=penalty) for penalty in PENALTIES),
            lambda at: (at._replace(neighbours=s) for s in self._settings(at.neighbours, likenesses)),
        )
        best = self._valued(start)
        for _ in range(MOST_ROUNDS):
            before = best
            for step in steps:
                best = max([best, *(self._valued(one) for one in step(best))], key=lambda one: one.ndcg)
            if best == before:
                break
        return best

    def _settings(self, at: NeighbourSettings, likenesses: Iterable[float]) -> Iterable[NeighbourSettings]:
        """Return the settings that differ from those at hand in one respect: exponents, decay, history, likeness."""
        yield from (at._replace(out_exponent=a, in_exponent=b) for a, b in product(OUT_EXPONENTS, IN_EXPONENTS))
        yield from (at._replace(decay=decay) for decay in DECAYS)
        yield at._replace(skips_history=not at.skips_history)
        yield from (at._replace(likeness=likeness) for likeness in likenesses)

    def _valued(self, blend: Blend) -> Blend:
        """Return a blend with its NDCG@20."""
        if blend.neighbours not in self._scores:
            memory = self._memory_of(blend.neighbours)
            self._scores[blend.neighbours] = self._candidates.neighbour_scores(memory)
        scores = dense_scores(blend, self._candidates, self._scores[blend.neighbours])
        return blend._replace(ndcg=ndcg(self._candidates.ranks(scores), CUTOFF))

    def _memory_of(self, settings: NeighbourSettings) -> Neighbours:
        """Return the memory of settings; the last one is used again if only the way it is read differs."""
        as_kept = settings._replace(decay=NO_BLEND.neighbours.decay, skips_history=NO_BLEND.neighbours.skips_history)
        if self._memory is None or self._memory[0] != as_kept:
            self._memory = as_kept, self._counts.memory(as_kept)
        return replace(self._memory[1], decay=settings.decay, skips_history=settings.skips_history)
