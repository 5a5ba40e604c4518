"""The share of content in dense scores, fitted on validation users beside SASRec's cosines.

    dense(item) = (1 - share) * (cosine + repeat bias) + share * content cosine - penalty * occurrences in the history

What a user had resembles itself most, also in content, so a penalty per occurrence is fitted with the share, and where
items say nothing it is fitted alone. It is added to the repeat bias. As in the search, only the newest
``sasrec.max_history`` items of a history count.

Shapes: n users, N items, c width of content vectors.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_store.network.content_profile import ContentProfile
from training.data.dataset import Split
from training.embedding.sasrec import EVALUATION_USERS, Sasrec, pad_rows, score_histories
from training.evaluation.full_ranking import sample_split
from training.evaluation.metrics import ndcg, rank_of_target

SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7)
PENALTIES = (0.0, 0.05, 0.1, 0.2, 0.4)
"""Penalties that are tried with each share. A cosine lies in -1 … 1."""

MOST_USERS = 4_000
"""Validation users, drawn by seed, that choose both, at most."""

MOST_SCORES = 200_000_000
"""Scores of one choice, at most: with many items fewer users choose, but never fewer than are scored at once."""

Float32Array = npt.NDArray[np.float32]
Histories = list[npt.NDArray[np.int32]]


class ContentShare(NamedTuple):
    """Share of content in dense scores, and the penalty of repeats that comes with it."""

    share: float  # 0 … 1
    repeat_penalty: float  # subtracted from the score of an item for each occurrence in the history
    ndcg: dict[str, float]  # NDCG@10 on validation users by share, each with its best penalty


NO_CONTENT = ContentShare(0.0, 0.0, {})
"""The share of a model without content."""


def fit_content_share(model: Sasrec, content: Tensor | None, valid: Split, seed: int) -> ContentShare:
    """Return the share and penalty with the best NDCG@10; items of the history may be answers.

    Args:
        model: Trained SASRec, in evaluation mode.
        content: Content vectors of all items, ``[N, c]``; ``None`` if they say nothing.
        valid: Validation users.
        seed: Seed of the draw of at most :data:`MOST_USERS` of them.
    """
    most = max(EVALUATION_USERS, MOST_SCORES // model.item_embedding.num_embeddings)
    split = sample_split(valid, min(MOST_USERS, most), seed)
    choices = list(product((0.0,) if content is None else SHARES, PENALTIES))
    ranks = np.empty((len(choices), len(split.targets)), dtype=np.int64)

    for start in range(0, len(split.targets), EVALUATION_USERS):
        users = slice(start, start + EVALUATION_USERS)
        histories = [history[-model.config.max_history :] for history in split.histories[users]]
        learned = score_histories(model, histories) * np.float32(model.config.temperature)
        said = np.zeros_like(learned) if content is None else _content_scores(content, histories)
        for choice, (share, penalty) in enumerate(choices):
            scores = mixed_scores(learned, said, histories, share, penalty)
            ranks[choice, users] = rank_of_target(scores, split.targets[users])

    values = [ndcg(each, 10) for each in ranks]
    best = int(np.argmax(values))  # argmax returns the first of equal values: the smallest share and penalty
    by_share: dict[str, float] = {}
    for (share, _), value in zip(choices, values, strict=True):
        by_share[str(share)] = max(value, by_share.get(str(share), 0.0))
    return ContentShare(*choices[best], by_share)


def mixed_scores(
    learned: Float32Array, said: Float32Array, histories: Histories, share: float, penalty: float
) -> Float32Array:
    """Return dense scores ``[B, N]`` of learned and content cosines ``[B, N]``, less a penalty for each occurrence."""
    scores = np.float32(1 - share) * learned + np.float32(share) * said
    owner = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    np.subtract.at(scores, (owner, np.concatenate(histories)), np.float32(penalty))
    return scores


@torch.no_grad()
def _content_scores(content: Tensor, histories: Histories) -> Float32Array:
    """Return the content cosines of all items, ``[B, N]``."""
    lengths = torch.tensor([len(history) for history in histories], device=content.device)
    rows = pad_rows(histories).to(content.device)
    users = ContentProfile().to(content.device)(content[rows], lengths[:, None])[:, 0]
    scores: Float32Array = (users @ content.T).cpu().numpy()
    return scores
