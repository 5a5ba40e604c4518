"""The vectors that dense scores compare users with are the reconstructions that PSA was trained on."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from model_store.network.tokenizer import Tokenizer
from tests.search.worlds import small_config
from training.learner import Learner, new_learner
from training.losses import preference_semantic_loss


def random_learner(collisions: str, items: int = 12) -> Learner:
    config = small_config(2, 6, collisions)
    torch.manual_seed(4)
    return new_learner(config, Tokenizer(config.tokenizer).eval(), torch.randn(items, 6), seed=1)


@pytest.mark.parametrize("collisions", ["reassign", "token"])
def test_vectors_are_unit_length_reconstructions_of_the_assigned_codes(collisions: str) -> None:
    learner = random_learner(collisions)
    vectors, codes = learner.vectors, learner.assignment.codes
    assert vectors.shape == (12, 6)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    for row in range(12):
        with torch.no_grad():
            latent = (
                learner.tokenizer.codebooks[0, int(codes[row, 0])] + learner.tokenizer.codebooks[1, int(codes[row, 1])]
            )
            expected = functional.normalize(learner.tokenizer.decode(latent[None]), dim=-1)[0]
        np.testing.assert_allclose(vectors[row], expected.numpy(), atol=1e-6)


def test_dense_scores_are_the_similarities_of_psa() -> None:
    learner = random_learner("reassign")
    vectors, preference = torch.from_numpy(learner.vectors[:4]), torch.randn(4, 6)
    dense = functional.normalize(preference, dim=-1) @ vectors.t()
    rows = torch.arange(4)
    by_dense = functional.cross_entropy(dense / 0.07, rows) + functional.cross_entropy(dense.t() / 0.07, rows)
    unscaled = 3.0 * vectors  # any length
    torch.testing.assert_close(preference_semantic_loss(preference, unscaled, 0.07), by_dense)
