"""The share of content in dense scores, fitted on validation users beside SASRec's cosines.

    dense(item) = (1 - share) * (cosine + repeat bias) + share * content cosine - penalty * occurrences in the history

What a user had resembles itself most, also in content, so a penalty per occurrence is fitted with the share, and where
items say nothing it is fitted alone. It is added to the repeat bias.

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
from training.embedding.sasrec import EVALUATION_USERS, Sasrec, score_histories
from training.evaluation.full_ranking import sample_split
from training.evaluation.metrics import ndcg, rank_of_target

SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7)
PENALTIES = (0.0, 0.05, 0.1, 0.2, 0.4)
"""Penalties that are tried with each share. A cosine lies in -1 … 1."""

USERS = 4_000
"""Validation users, drawn by seed, that choose both."""


class ContentShare(NamedTuple):
    """How much content counts in dense scores."""

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
        seed: Seed of the draw of :data:`USERS` of them.
    """
    split = sample_split(valid, USERS, seed)
    choices = list(product((0.0,) if content is None else SHARES, PENALTIES))
    ranks = np.empty((len(choices), len(split.targets)), dtype=np.int64)

    for start in range(0, len(split.targets), EVALUATION_USERS):
        users = slice(start, start + EVALUATION_USERS)
        learned = score_histories(model, split.histories[users]) * np.float32(model.config.temperature)
        said = np.float32(0) if content is None else _content_scores(content, split.histories[users])
        occurrences = _occurrences(split.histories[users], learned.shape[1])
        for choice, (share, penalty) in enumerate(choices):
            scores = np.float32(1 - share) * learned + np.float32(share) * said - np.float32(penalty) * occurrences
            ranks[choice, users] = rank_of_target(scores, split.targets[users])

    values = [ndcg(each, 10) for each in ranks]
    best = int(np.argmax(values))  # argmax returns the first of equal values: the smallest share and penalty
    by_share: dict[str, float] = {}
    for (share, _), value in zip(choices, values, strict=True):
        by_share[str(share)] = max(value, by_share.get(str(share), 0.0))
    return ContentShare(*choices[best], by_share)


@torch.no_grad()
def _content_scores(content: Tensor, histories: list[npt.NDArray[np.int32]]) -> npt.NDArray[np.float32]:
    """Return the content cosines of all items, ``[B, N]``."""
    profile = ContentProfile().to(content.device)
    users = torch.cat([profile(content[torch.from_numpy(each).long()][None], _length(each))[0] for each in histories])
    scores: npt.NDArray[np.float32] = (users @ content.T).cpu().numpy()
    return scores


def _occurrences(histories: list[npt.NDArray[np.int32]], items: int) -> npt.NDArray[np.float32]:
    """Return how often each item is in each history, ``[B, N]``."""
    counts = [np.bincount(history, minlength=items) for history in histories]
    return np.stack(counts).astype(np.float32)


def _length(history: npt.NDArray[np.int32]) -> Tensor:
    return torch.tensor([[len(history)]])
