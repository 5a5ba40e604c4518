"""The vectors that dense scores compare users with are the items' embeddings, whatever codes they have."""

import numpy as np
import torch

from model_store.network.tokenizer import Tokenizer
from tests.support.random_worlds import small_config
from training.joint.learner import new_learner


def test_vectors_are_embeddings_at_unit_length() -> None:
    config, embeddings = small_config(2, 6), torch.randn(12, 6) * 5
    learner = new_learner(config, Tokenizer(config.tokenizer).eval(), embeddings, seed=1)
    assert learner.vectors.dtype == np.float32
    expected = embeddings / embeddings.square().sum(1, keepdim=True).sqrt()
    np.testing.assert_allclose(learner.vectors, expected.numpy(), atol=1e-6)
