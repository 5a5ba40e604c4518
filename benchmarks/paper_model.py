"""Model of the paper's sizes that benchmarks search, with a catalogue tokenised by our own tokenizer.

Weights are trained for a few steps on generated histories, so that distributions are peaked as those of a real model
and answers can be compared. Everything is drawn from a fixed seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from model_store.catalogue.catalogue import Catalogue
from model_store.config import ModelConfig
from model_store.network.recommender import Recommender
from model_store.search.history_encoding import encode_histories
from model_store.search.interface import SearchInputs, search_inputs
from model_store.semantic_ids.trie import Trie
from training.config import TrainingConfig, load_config
from training.joint.learner import new_learner
from training.joint.phase_losses import recommender_losses, weighted_sum
from training.loop.batches import batches, collate, training_rows
from training.loop.optimiser import Optimiser, descend, recommender_optimizer
from training.loop.progress import SilentProgress
from training.tokenizer.codebooks import TokenizerTrainingConfig, pretrain_tokenizer

CLUSTERS = 200
USERS = 2_000
USER_LENGTH = 22


@dataclass(frozen=True)
class ServedModel:
    """A recommender with its catalogue."""

    config: ModelConfig
    recommender: Recommender  # in evaluation mode
    trie: Trie
    sequences: npt.NDArray[np.int64]  # [users, USER_LENGTH], catalogue rows

    @cached_property
    def catalogue(self) -> Catalogue:
        """Items with generated columns."""
        rows = range(self.trie.items)
        return Catalogue(
            codebook_size=self.config.tokenizer.codebook_size,
            item_ids=[f"item-{row:07d}" for row in rows],
            codes=self.trie.codes(),
            titles=[f"Title of item {row}" for row in rows],
            categories=[(f"category-{row % 50}",) for row in rows],
            attributes=[{"year": 1950 + row % 76} for row in rows],
            popularity=np.bincount(self.sequences.ravel(), minlength=self.trie.items).astype(np.int64),
        )

    def batch(self, size: int, history: int, beam_width: int, seed: int = 0) -> SearchInputs:
        """Return requests of different users with ``history`` items each, which may be recommended again."""
        rows = np.random.default_rng(seed).choice(len(self.sequences), size, replace=False)
        histories = [self.sequences[row, :history] for row in rows]
        encoded = encode_histories(histories, self.trie.item_leaf, self.config.recommender.max_history)
        return search_inputs(encoded, self.trie, beam_width)


def paper_config(overrides: Sequence[str] = ()) -> TrainingConfig:
    """Return the ``paper`` preset with three codes an item: our collision policy needs no fourth."""
    return load_config("paper", ["model.collisions=reassign", "tokenizer.epochs=20", *overrides])


def served_model(items: int = 12_000, steps: int = 60, overrides: Sequence[str] = ()) -> ServedModel:
    """Tokenise generated embeddings, and train a recommender on walks among neighbours for a few steps."""
    config = paper_config(overrides)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)

    cluster = rng.integers(0, CLUSTERS, items)
    width = config.model.tokenizer.embedding_dim
    centres = rng.normal(size=(CLUSTERS, width))
    embeddings = torch.from_numpy(centres[cluster] + 0.5 * rng.normal(size=(items, width))).float()

    training = TokenizerTrainingConfig.model_validate(config.tokenizer.model_dump())
    tokenizer = pretrain_tokenizer(embeddings, config.model.tokenizer, training, 0, SilentProgress())
    learner = new_learner(config.model, tokenizer, embeddings, 0)

    sequences = _walks(cluster, rng)
    tree = learner.tree(sequences.ravel())
    rows = training_rows(list(sequences), config.model.recommender.max_history, packed=False)
    adamw = recommender_optimizer(learner.recommender, 1e-3, config.joint.weight_decay)
    optimiser = Optimiser(adamw, lambda step: 1.0, config.joint.clip)
    for chosen in batches(rows, 64, rng)[:steps]:
        losses = recommender_losses(learner, collate(rows, chosen), tree, config.joint, aligned=False)
        descend(weighted_sum(losses, config.joint), optimiser)

    trie = Trie.build(learner.assignment.codes, config.model.tokenizer.codebook_size)
    return ServedModel(config.model, learner.recommender.eval(), trie, sequences)


def _walks(cluster: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw the items of users who mostly stay in one cluster and prefer its popular items, ``[USERS, USER_LENGTH]``."""
    members = [np.flatnonzero(cluster == each) for each in range(CLUSTERS)]
    home = rng.integers(0, CLUSTERS, USERS)
    place = np.where(
        rng.random((USERS, USER_LENGTH)) < 0.8, home[:, None], rng.integers(0, CLUSTERS, (USERS, USER_LENGTH))
    )
    rank = (rng.random((USERS, USER_LENGTH)) ** 2 * np.vectorize(lambda each: len(members[each]))(place)).astype(
        np.int64
    )
    items: npt.NDArray[np.int64] = np.vectorize(lambda each, at: members[each][at])(place, rank)
    return items
