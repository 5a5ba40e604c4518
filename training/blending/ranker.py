"""Fit of the ranker on validation users: cross-entropy of their targets among the candidates of their searches.

    logits(item) = scale * base(item) + network(features(item)),  base(item) = log_prob(item) / weight + dense(item)

``base`` is the fused score in units of dense scores, or ``dense`` for the ranking that does without the search. Network
and scale are trained together, from the scale that is best for the scores alone. Divided by the scale, the network's
answer is the correction of dense scores (:mod:`model_store.search.ranker`). Users whose target no beam and no dense
candidate found teach nothing.

What the ranker gains is measured by users that did not teach it: they are split into :data:`FOLDS`, and each fold is
ranked by a network of the others. A ranker that does not gain more than chance is not used.

Shapes: n users, C candidates of each, F features.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.search.fusion import Fusion
from model_store.search.ranker import FEATURES, LARGEST, CandidateFeatures, Ranker
from training.evaluation.full_ranking import FIT_CUTOFF, SearchResults
from training.evaluation.metrics import Difference, ndcg_difference

HIDDEN = 32
"""Width of both hidden layers."""

FOLDS = 4
EPOCHS = 20
BATCH_USERS = 64
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-3
DROPOUT = 0.1

LEAST_USERS = 20 * FOLDS
"""Users with their target among the candidates, below which nothing is fitted."""

SCALES = np.geomspace(0.05, 500, 60)
"""Scales of the scores alone that are tried. In units of dense scores a scale of about 14 is that of training."""

CERTAINTY = 2.0
"""Standard errors by which a ranker must raise NDCG@10 of users that did not teach it."""

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


class RankerFit(NamedTuple):
    """A fitted ranker, and what it does for validation users that did not teach it."""

    ranker: Ranker | None
    """Fitted on all users; ``None`` if it gains nothing beyond chance, or there are too few users to tell."""
    corrections: Float32Array
    """``[2, n, C]``, of each user by the network of the other folds; 0 without a ranker."""
    gain: Difference
    """By how much those corrections raise NDCG@10."""

    @classmethod
    def nothing(cls, searched: SearchResults, gain: Difference | None = None) -> RankerFit:
        """Return the fit of no ranker."""
        return cls(None, np.zeros_like(searched.dense), gain or Difference(0.0, None))


class _Network(nn.Module):
    """The perceptron, and the scale of the scores that it corrects."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        widths = (len(FEATURES), HIDDEN, HIDDEN)
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.last = nn.Linear(HIDDEN, 1)
        self.log_scale = nn.Parameter(torch.tensor(np.log(scale), dtype=torch.float32))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor, base: Tensor) -> Tensor:
        """Return the logits of candidates ``[B, C]`` with standardised features ``[B, C, F]`` and scores ``[B, C]``."""
        x = features
        for layer in self.hidden:
            x = functional.dropout(torch.relu(layer(x)), DROPOUT, self.training)
        return self.last(x)[..., 0] + self.log_scale.exp() * base


class RankerFitter:
    """Fits rankers to the searches of validation users.

    Args:
        searched: Results with features, of n users.
        fusion: The fitted fusion, of a weight above 0.
        features: What computed the features.
        seed: Seed of the folds, of initial weights and of batches.
        reads_search: Whether the ranker may read what the beam search knows. If not, it corrects a ranking by dense
            scores alone, the one that shows what the search adds.
    """

    def __init__(
        self, searched: SearchResults, fusion: Fusion, features: CandidateFeatures, seed: int, reads_search: bool = True
    ) -> None:
        self._searched = searched
        self._fusion = fusion
        self._features = features
        self._seed = seed
        self._reads_search = reads_search

        self._is_candidate = np.isfinite(searched.log_prob[0])
        known = searched.log_prob[0] / np.float32(fusion.weight) if reads_search else np.float32(0)
        self._base = np.where(self._is_candidate, known + searched.dense[0], 0)
        self._target = np.where(searched.is_target[0].any(axis=1), searched.is_target[0].argmax(axis=1), -1)

    def fit(self, must_gain: bool = True) -> RankerFit:
        """Return the ranker of all users.

        Args:
            must_gain: Whether a ranker that gains nothing beyond chance is left out.
        """
        searched = self._searched
        if np.count_nonzero(self._target >= 0) < LEAST_USERS:
            return RankerFit.nothing(searched)

        fold = np.random.default_rng(self._seed).integers(0, FOLDS, len(self._target))
        corrections = np.empty_like(searched.dense)
        for held_out in range(FOLDS):
            ranker = self._train(fold != held_out)
            corrections[:, fold == held_out] = searched.corrections_by(ranker, np.flatnonzero(fold == held_out))

        gain = ndcg_difference(self._ranks(corrections), self._ranks(np.zeros_like(corrections)), FIT_CUTOFF)
        if must_gain and (gain.error is None or gain.mean <= CERTAINTY * gain.error):
            return RankerFit.nothing(searched, gain)
        return RankerFit(self._train(np.ones(len(fold), dtype=np.bool_)), corrections, gain)

    @cached_property
    def _moments(self) -> tuple[Float32Array, Float32Array]:
        """Mean and standard deviation of the features of all candidates, ``[F]`` each; of a constant feature 1."""
        found = self._searched.features[0][self._is_candidate]
        mean = found.mean(axis=0, dtype=np.float64).astype(np.float32)
        deviation = found.std(axis=0, dtype=np.float64).astype(np.float32)
        return mean, np.where(deviation > 1e-6 * np.abs(mean), deviation, np.float32(1))

    def _ranks(self, corrections: Float32Array) -> Int64Array:
        corrected = self._searched.corrected(corrections)
        ranks = corrected.ranks(self._fusion) if self._reads_search else corrected.ranks_without_search()
        return ranks.all_items

    def _train(self, teaches: npt.NDArray[np.bool_]) -> Ranker:
        """Return the ranker that some users ``[n]`` teach."""
        users = np.flatnonzero(teaches & (self._target >= 0))
        draw = np.random.default_rng(self._seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            network = _Network(self._best_scale(users))
            optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
            batches = -(-len(users) // BATCH_USERS)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS * batches)
            for _ in range(EPOCHS):
                for some in np.array_split(draw.permutation(users), batches):
                    logits = network(self._standardised(some), torch.from_numpy(self._base[some]))
                    logits = logits.masked_fill(torch.from_numpy(~self._is_candidate[some]), -torch.inf)
                    loss = functional.cross_entropy(logits, torch.from_numpy(self._target[some]))
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    schedule.step()
        return self._ranker(network)

    def _best_scale(self, users: Int64Array) -> float:
        """Return the scale by which the scores alone tell the targets of users best."""
        base = np.where(self._is_candidate[users], self._base[users], -np.inf).astype(np.float64)
        behind = base - base[np.arange(len(users)), self._target[users], None]  # of the target: 0
        with np.errstate(over="ignore"):  # a scale that is far too large costs infinitely much
            losses = [np.log(np.exp(scale * behind).sum(axis=1)).mean() for scale in SCALES]
        return float(SCALES[int(np.argmin(losses))])

    def _standardised(self, users: Int64Array) -> Tensor:
        """Return the features of users as the network reads them, ``[B, C, F]``."""
        mean, deviation = self._moments
        found = (self._searched.features[0, users] - mean) / deviation
        found = np.clip(found, -LARGEST, LARGEST)
        if not self._reads_search:
            found[..., FEATURES.index("log_prob")] = 0
        return torch.from_numpy(found)

    def _ranker(self, network: _Network) -> Ranker:
        layers = [*network.hidden, network.last]
        weights = [layer.weight.detach().numpy().copy() for layer in layers]
        biases = [layer.bias.detach().numpy().copy() for layer in layers]
        if not self._reads_search:
            weights[0][:, FEATURES.index("log_prob")] = 0
        scale = np.float32(network.log_scale.exp().item())
        weights[-1] /= scale
        biases[-1] /= scale
        ranker = Ranker(self._features, *self._moments, tuple(weights), tuple(biases), untrained=0.0)
        return replace(ranker, untrained=self._mean_correction(ranker, scale))

    def _mean_correction(self, ranker: Ranker, scale: np.float32) -> float:
        """Return the mean correction of what users choose among their candidates, as the ranker sees it."""
        corrections = self._searched.corrections_by(ranker)[0]
        has_any = self._is_candidate.any(axis=1)
        logits = np.where(self._is_candidate, scale * (self._base + corrections), -np.inf)[has_any]
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        return float((share / share.sum(axis=1, keepdims=True) * corrections[has_any]).sum(axis=1).mean())
