"""Tokenizer health on cases worked out by hand."""

import math

import numpy as np
import pytest
import torch

from model_store.config import TokenizerConfig
from model_store.network.tokenizer import Tokenizer
from training.collisions import Assignment
from training.health import tokenizer_health

SHAPE = TokenizerConfig(embedding_dim=10, hidden_dims=(16,), codebook_dim=6, levels=2, codebook_size=8)


def test_health_of_a_case_worked_out_by_hand() -> None:
    tokenizer = Tokenizer(TokenizerConfig(embedding_dim=2, hidden_dims=(), codebook_dim=2, levels=2, codebook_size=4))
    with torch.no_grad():
        for part in (tokenizer.encoder, tokenizer.decoder):
            part.load_state_dict({"0.weight": torch.eye(2), "0.bias": torch.zeros(2)})
        tokenizer.codebooks.zero_()
        tokenizer.codebooks[0, 1] = torch.tensor([2.0, 0.0])
    embeddings = torch.tensor([[0.0, 0.0], [0.0, 1.0], [2.0, 0.0], [3.0, 0.0]])  # z~: 0, 0, (2, 0), (2, 0)
    codes = np.array([[0, 0], [0, 1], [0, 2], [1, 0]], dtype=np.int16)
    health = tokenizer_health(tokenizer, embeddings, Assignment(codes, 0.5, 2, 1))
    assert health.codes_used == [2, 3]
    entropies = [-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), -(0.5 * math.log(0.5) + 0.5 * math.log(0.25))]
    assert health.perplexity == pytest.approx([math.exp(entropy) for entropy in entropies])
    assert health.reconstruction_error == pytest.approx((1 + 1) / 8)
    assert (health.collision_rate, health.largest_group, health.moved) == (0.5, 2, 1)
    assert health.as_dict()["codes_used"] == [2, 3]


def test_even_use_of_the_codes_gives_a_perplexity_of_k() -> None:
    tokenizer = Tokenizer(SHAPE)
    codes = np.stack([np.arange(64) // 8, np.arange(64) % 8, np.arange(64) % 3], axis=1).astype(np.int16)
    health = tokenizer_health(tokenizer, torch.randn(64, 10), Assignment(codes, 0.0, 1, 0))
    assert health.perplexity == pytest.approx([8.0, 8.0])  # the collision code is left out
