"""The blend is what validation users want, and the recommender starts from exactly those dense scores."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from model_store.config import ModelConfig
from model_store.network.content_profile import ContentProfile, join_content
from model_store.network.recommender import Recommender
from model_store.network.tokenizer import Tokenizer
from model_store.search.history_encoding import encode_histories
from model_store.search.neighbours import Neighbours
from tests.support.themed_data import CONFIG, CONTENT_DIM, themed, untrained
from training.blending import fit
from training.blending.fit import CUTOFF, Blend, fit_blend
from training.content.item_words import fit_item_words
from training.data.dataset import Dataset, Split
from training.embedding.sasrec import Sasrec, score_histories
from training.evaluation.full_ranking import sample_split
from training.evaluation.metrics import ndcg, rank_of_target
from training.joint.learner import new_learner


def fitted(data: Dataset, with_content: bool = True) -> tuple[Blend, Neighbours]:
    model, content = untrained(data)
    if not with_content:
        return fit_blend(model, None, None, data.training_csr(), data.validation(), seed=1)
    return fit_blend(model, content, fit_item_words(data), data.training_csr(), data.validation(), seed=1)


def full_ranking(
    data: Dataset, model: Sasrec, content: torch.Tensor, blend: Blend, memory: Neighbours, split: Split
) -> float:
    """NDCG of a blend by the scores of all items, user by user."""
    ranks = []
    for history, target in zip(split.histories, split.targets, strict=True):
        read = history[-CONFIG.max_history :]
        learned = score_histories(model, [read])[0] * CONFIG.temperature
        profile = ContentProfile()(content[read][None], torch.tensor([[len(read)]]))[0, 0]
        scores = (1 - blend.share) * learned + blend.share * (content @ profile).numpy()
        np.subtract.at(scores, read, blend.repeat_penalty)
        encoded = encode_histories([read], np.arange(data.n_items), CONFIG.max_history)
        found = memory.scores(encoded.leaves, encoded.lengths)
        scores[found.row] += blend.neighbours_weight * found.value
        ranks.append(rank_of_target(scores[None], np.array([target]))[0])
    return ndcg(np.array(ranks), CUTOFF)


def test_titles_that_tell_get_a_share_and_help_more_than_titles_that_do_not() -> None:
    telling, _ = fitted(themed(titles=True))
    silent, _ = fitted(themed(titles=False))
    assert telling.share >= 0.3
    assert telling.ndcg > 1.5 * telling.ndcg_without_content
    assert telling.ndcg > 1.3 * silent.ndcg


@pytest.mark.parametrize("with_content", [True, False])
def test_where_nobody_comes_back_repeats_are_penalised_and_neighbours_skip_the_history(with_content: bool) -> None:
    blend, memory = fitted(themed(titles=True), with_content)
    assert blend.repeat_penalty > 0 or memory.skips_history
    assert with_content or blend.share == 0
    assert with_content or blend.ndcg == blend.ndcg_without_content


def test_where_people_come_back_items_of_the_history_count() -> None:
    blend, memory = fitted(themed(titles=True, comes_back=True))
    assert blend.repeat_penalty == 0
    assert not memory.skips_history
    assert blend.ndcg > 0.6


def test_the_value_of_the_blend_is_that_of_a_full_ranking() -> None:
    data = themed(titles=True)
    model, content = untrained(data)
    blend, memory = fitted(data)
    assert blend.ndcg == pytest.approx(full_ranking(data, model, content, blend, memory, data.validation()), abs=1e-3)

    worse = [blend._replace(repeat_penalty=-0.5), blend._replace(neighbours_weight=0.0), blend._replace(share=1.0)]
    values = [full_ranking(data, model, content, one, memory, data.validation()) for one in worse]
    assert max(values) <= blend.ndcg + 1e-3
    assert min(values) < blend.ndcg


def test_few_users_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    data = themed(titles=True)
    model, content = untrained(data)
    monkeypatch.setattr(fit, "MOST_USERS", 12)
    blend, memory = fitted(data)
    few = sample_split(data.validation(), 12, seed=1)
    assert blend.ndcg == pytest.approx(full_ranking(data, model, content, blend, memory, few), abs=1e-3)


def test_a_blend_is_the_same_after_it_was_stored() -> None:
    blend, _ = fitted(themed(titles=True))
    assert Blend.from_dict(json.loads(json.dumps(blend.as_dict()))) == blend
    assert blend.summary().endswith(f"(its share is {blend.share:g})")
    assert blend._replace(share=0.0).summary().endswith(", without content")


@pytest.mark.parametrize("user_encoder", ["own", "shared"])
def test_the_recommender_starts_with_the_dense_scores_that_were_fitted(user_encoder: str) -> None:
    data = themed(titles=True)
    sasrec, content = untrained(data)
    with torch.no_grad():
        sasrec.repeat_bias.weight.normal_()
    blend = Blend(share=0.3, repeat_penalty=0.15)

    config = ModelConfig.model_validate(
        {
            "tokenizer": {"embedding_dim": 16, "hidden_dims": [16], "codebook_dim": 8, "codebook_size": 16},
            "recommender": {
                "d_model": 16,
                "d_ff": 16,
                "heads": 2,
                "head_dim": 8,
                "encoder_layers": 1,
                "decoder_layers": 1,
                "max_history": 8,
                "history_tokens": "vector",
                "encoder_attention": "causal",
                "user_encoder": user_encoder,
            },
        }
    ).with_content(CONTENT_DIM)
    embeddings = join_content(sasrec.vectors.detach(), content, blend.share)
    learner = new_learner(config, Tokenizer(config.tokenizer), embeddings, 1, sasrec, blend=blend)

    history = data.test().histories[0]
    dense = dense_scores(learner.recommender.eval(), embeddings, history)

    learned = score_histories(sasrec, [history])[0] * CONFIG.temperature
    weights = 0.6 ** np.arange(len(history) - 1, -1, -1)[:, None]
    profile = (weights * content.numpy()[history]).sum(axis=0)
    profile[-1] = 0
    said = content.numpy() @ (profile / np.linalg.norm(profile))
    expected = 0.7 * learned + 0.3 * said - 0.15 * np.isin(np.arange(data.n_items), history)
    np.testing.assert_allclose(dense, expected, atol=1e-5)


@torch.no_grad()
def dense_scores(recommender: Recommender, embeddings: torch.Tensor, history: np.ndarray) -> np.ndarray:
    """Dense scores of all items after a history, as the search computes them."""
    lengths = torch.tensor([len(history)])
    rows = torch.from_numpy(history).long()
    memory = recommender.encode(torch.zeros(1, len(history), 3, dtype=torch.int64), embeddings[rows][None], lengths)
    user = torch.nn.functional.normalize(recommender.user_vectors(memory, lengths[:, None])[0, 0], dim=-1)
    scores = embeddings @ user
    scores.index_add_(0, rows, recommender.dense_repeats(len(history), lengths[:, None])[0, 0])
    return np.asarray(scores.numpy())
