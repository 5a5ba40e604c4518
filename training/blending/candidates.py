"""Candidates of a blend: the items that may come first for each validation user, and the parts of their scores.

Only the first ranks decide how good a blend is, so the items that no part of it scores high are left out. What remains
is small enough to try hundreds of blends.

Shapes: n users, N items, C pairs of user and candidate, c width of content vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_store.network.content_profile import ContentProfile
from model_store.search.history_encoding import encode_histories
from model_store.search.neighbours import Neighbours, NeighbourScores
from training.data.dataset import Split
from training.embedding.sasrec import EVALUATION_USERS, Sasrec, pad_rows, score_histories, users_at_once

BEST = 100
"""Items of each user that are candidates because of their cosine, and as many because of what they say."""

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
Histories = list[npt.NDArray[np.int32]]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates of n users, sorted by user and item, and the parts of their dense scores that do not change.

    Attributes:
        owner: ``[C]``, number of the user.
        item: ``[C]``, item row.
        is_target: ``[C]``; every user has exactly one target.
        learned: ``[C]``, cosine and repeat bias of SASRec.
        said: ``[C]``, content cosine; 0 without content.
        occurrences: ``[C]``, times that the item is in the part of the history that SASRec reads.
        histories: Those parts, n.
        items: N.
    """

    owner: Int64Array
    item: Int64Array
    is_target: npt.NDArray[np.bool_]
    learned: Float32Array
    said: Float32Array
    occurrences: Float32Array
    histories: Histories
    items: int

    def neighbour_scores(self, memory: Neighbours) -> Float32Array:
        """Return the neighbour scores of all candidates by a memory, ``[C]``."""
        key = self.owner * self.items + self.item
        values = np.zeros(len(key), dtype=np.float32)
        for start in range(0, len(self.histories), EVALUATION_USERS):
            found = _score_neighbours(memory, self.histories[start : start + EVALUATION_USERS])
            wanted = (found.owner + start) * self.items + found.row
            place = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
            is_candidate = key[place] == wanted
            values[place[is_candidate]] = found.value[is_candidate]
        return values

    def ranks(self, scores: Float32Array) -> Int64Array:
        """Return the rank of each target among the candidates ``[n]`` by scores ``[C]``; ties count against it."""
        own = scores[self.is_target][self.owner]
        ahead = (scores >= own) & ~self.is_target
        return np.bincount(self.owner[ahead], minlength=len(self.histories)).astype(np.int64)


def find_candidates(model: Sasrec, content: Tensor | None, memory: Neighbours, split: Split) -> Candidates:
    """Find the candidates of a split's users: their targets, all neighbours, and the :data:`BEST` of the other parts.

    Args:
        model: Trained SASRec, in evaluation mode.
        content: Content vectors of all items, ``[N, c]``; ``None`` if they say nothing.
        memory: The neighbours of all items.
        split: At least one user.
    """
    items = model.item_embedding.num_embeddings
    histories = [history[-model.config.max_history :] for history in split.histories]
    parts = []

    size = users_at_once(items)
    vectors = model.vectors.detach()
    for start in range(0, len(histories), size):
        some = histories[start : start + size]
        users = np.arange(len(some))
        learned = score_histories(model, some, vectors) * np.float32(model.config.temperature)
        said = np.zeros_like(learned) if content is None else _content_scores(content, some)
        occurrences = np.zeros_like(learned)
        np.add.at(occurrences, (users.repeat([len(history) for history in some]), np.concatenate(some)), 1)

        targets = split.targets[start : start + size]
        is_candidate = np.zeros(learned.shape, dtype=np.bool_)
        is_candidate[users, targets] = True
        found = _score_neighbours(memory, some)
        is_candidate[found.owner, found.row] = True
        for scores in (learned,) if content is None else (learned, said):
            best = np.argpartition(-scores, min(BEST, items - 1), axis=1)[:, :BEST]
            np.put_along_axis(is_candidate, best, True, axis=1)

        owner, item = np.nonzero(is_candidate)
        place = (owner, item)
        parts.append((owner + start, item, item == targets[owner], learned[place], said[place], occurrences[place]))

    owner, item, is_target, learned, said, occurrences = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Candidates(owner, item, is_target, learned, said, occurrences, histories, items)


def _score_neighbours(memory: Neighbours, histories: Histories) -> NeighbourScores:
    """Return the neighbour scores after each history."""
    encoded = encode_histories(histories, np.arange(memory.items), max(map(len, histories)))
    return memory.scores(encoded.leaves, encoded.lengths)


@torch.no_grad()
def _content_scores(content: Tensor, histories: Histories) -> Float32Array:
    """Return the content cosines of all items, ``[B, N]``."""
    lengths = torch.tensor([len(history) for history in histories], device=content.device)
    rows = pad_rows(histories).to(content.device)
    users = ContentProfile().to(content.device)(content[rows], lengths[:, None])[:, 0]
    scores: Float32Array = (users @ content.T).cpu().numpy()
    return scores
