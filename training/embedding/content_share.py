"""The share of content in dense scores, fitted on validation users beside SASRec's cosines.

    dense(item) = (1 - share) * (cosine + repeat bias) + share * content cosine - penalty * occurrences in the history

What a user had resembles itself most, also in content, so a penalty per occurrence comes with the share; it is added to
the repeat bias.

Shapes: n users, N items, c width of content vectors.
"""

from __future__ import annotations

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
PENALTIES = (0.0, 0.5, 1.0)
"""Penalties that are tried, as multiples of the share."""

USERS = 4_000
"""Validation users, drawn by seed, that choose both."""


class ContentShare(NamedTuple):
    """How much content counts in dense scores."""

    share: float  # 0 … 1
    repeat_penalty: float  # subtracted from the score of an item for each occurrence in the history
    ndcg: dict[str, float]  # NDCG@10 on validation users by share, each with its best penalty


NO_CONTENT = ContentShare(0.0, 0.0, {})
"""The share of a model without content."""


def fit_content_share(model: Sasrec, content: Tensor, valid: Split, seed: int) -> ContentShare:
    """Return the share and penalty with the best NDCG@10; items of the history may be answers.

    Args:
        model: Trained SASRec, in evaluation mode.
        content: Content vectors of all items, ``[N, c]``.
        valid: Validation users.
        seed: Seed of the draw of :data:`USERS` of them.
    """
    split = sample_split(valid, USERS, seed)
    choices = [(share, share * penalty) for share in SHARES for penalty in (PENALTIES if share else (0.0,))]
    ranks = np.empty((len(choices), len(split.targets)), dtype=np.int64)

    for start in range(0, len(split.targets), EVALUATION_USERS):
        users = slice(start, start + EVALUATION_USERS)
        learned = score_histories(model, split.histories[users]) * np.float32(model.config.temperature)
        said, occurrences = _content_scores(content, split.histories[users])
        for choice, (share, penalty) in enumerate(choices):
            scores = np.float32(1 - share) * learned + np.float32(share) * said - np.float32(penalty) * occurrences
            ranks[choice, users] = rank_of_target(scores, split.targets[users])

    values = [ndcg(each, 10) for each in ranks]
    best = int(np.argmax(values))  # argmax returns the first of equal values: the smallest share
    by_share: dict[str, float] = {}
    for (share, _), value in zip(choices, values, strict=True):
        by_share[str(share)] = max(value, by_share.get(str(share), 0.0))
    return ContentShare(*choices[best], by_share)


@torch.no_grad()
def _content_scores(
    content: Tensor, histories: list[npt.NDArray[np.int32]]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the content cosines of all items, and how often each is in the history, ``[B, N]`` each."""
    profile = ContentProfile().to(content.device)
    users = torch.cat([profile(content[torch.from_numpy(each).long()][None], _length(each))[0] for each in histories])
    occurrences = np.zeros((len(histories), len(content)), dtype=np.float32)
    for row, history in zip(occurrences, histories, strict=True):
        np.add.at(row, history, 1.0)
    return (users @ content.T).cpu().numpy(), occurrences


def _length(history: npt.NDArray[np.int32]) -> Tensor:
    return torch.tensor([[len(history)]])
