"""The share of content is what validation users want, and the recommender starts from exactly those dense scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from model_store.config import ModelConfig
from model_store.network.content_profile import join_content
from model_store.network.recommender import Recommender
from model_store.network.tokenizer import Tokenizer
from training.content.content_encoder import ContentEncoder, fit_content_encoder
from training.content.shared_features import item_features
from training.data.dataset import Dataset, ItemInfo
from training.embedding import content_share
from training.embedding.content_share import ContentShare, fit_content_share, mixed_scores
from training.embedding.sasrec import Sasrec, SasrecConfig, score_histories
from training.joint.learner import new_learner

THEMES = ("tea", "paint", "yarn", "bolts", "seeds", "chess")
ITEMS_PER_THEME = 40
SHAPE: dict[str, Any] = {"layers": 1, "heads": 2, "head_dim": 8, "d_ff": 16, "dropout": 0.0}
CONFIG = SasrecConfig(embedding_dim=16, max_history=8, **SHAPE)
CONTENT_DIM = 9


def themed(titles: bool) -> Dataset:
    """Users who stay with one theme; titles tell the theme, or a number that means nothing."""
    random = np.random.default_rng(3)
    rows = []
    for user in range(90):
        theme = THEMES[user % len(THEMES)]
        chosen = random.choice(ITEMS_PER_THEME, 6, replace=False)
        rows += [(f"u{user}", f"{theme}{item}", step) for step, item in enumerate(chosen)]
    frame = pl.DataFrame(rows, schema={"user": pl.String, "item": pl.String, "timestamp": pl.Int64}, orient="row")
    names = {f"{theme}{item}": theme for theme in THEMES for item in range(ITEMS_PER_THEME)}
    info = {
        item_id: ItemInfo(f"{theme} number {random.integers(40)}" if titles else f"number {random.integers(40)}")
        for item_id, theme in names.items()
    }
    return Dataset.from_frame("themed", frame, info)


def untrained(data: Dataset) -> tuple[Sasrec, ContentEncoder]:
    torch.manual_seed(0)
    encoder = fit_content_encoder(item_features(data), CONTENT_DIM, seed=1)
    assert encoder is not None
    return Sasrec(CONFIG, data.n_items).eval(), encoder


def test_a_title_that_tells_gets_a_share_and_one_that_does_not_gets_none() -> None:
    shares = []
    for titles in (True, False):
        data = themed(titles)
        model, encoder = untrained(data)
        fitted = fit_content_share(model, encoder.vectors(item_features(data)), data.validation(), seed=1)
        shares.append(fitted.share)
        assert fitted.ndcg[str(fitted.share)] == max(fitted.ndcg.values())
    assert shares[0] >= 0.3
    assert shares[1] < shares[0]


def test_nobody_comes_back_so_repeats_are_penalised_with_content_and_without() -> None:
    data = themed(titles=True)
    model, encoder = untrained(data)

    for content in (None, encoder.vectors(item_features(data))):
        fitted = fit_content_share(model, content, data.validation(), seed=1)
        assert fitted.repeat_penalty > 0
    assert list(fit_content_share(model, None, data.validation(), seed=1).ndcg) == ["0.0"]


def test_each_occurrence_is_penalised_once() -> None:
    learned = np.array([[0.5, 0.2, 0.1], [0.0, 0.4, 0.8]], dtype=np.float32)
    said = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]], dtype=np.float32)
    histories = [np.array([1, 0, 1], dtype=np.int32), np.array([2], dtype=np.int32)]

    found = mixed_scores(learned, said, histories, share=0.25, penalty=0.1)

    expected = 0.75 * learned + 0.25 * said - 0.1 * np.array([[1, 2, 0], [0, 0, 1]])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(learned[0, 0], 0.5)  # what came in is left alone


def test_items_that_the_model_no_longer_reads_are_not_penalised(monkeypatch: pytest.MonkeyPatch) -> None:
    data = themed(titles=True)
    model, encoder = untrained(data)
    seen: list[int] = []

    def watched(learned: Any, said: Any, histories: Any, share: float, penalty: float) -> Any:
        seen.extend(len(history) for history in histories)
        return mixed_scores(learned, said, histories, share, penalty)

    monkeypatch.setattr(content_share, "mixed_scores", watched)
    model.config = CONFIG.model_copy(update={"max_history": 3})
    fit_content_share(model, encoder.vectors(item_features(data)), data.validation(), seed=1)

    assert max(map(len, data.validation().histories)) > 3
    assert max(seen) == 3


@pytest.mark.parametrize("user_encoder", ["own", "shared"])
def test_the_recommender_starts_with_the_dense_scores_that_were_fitted(user_encoder: str) -> None:
    data = themed(titles=True)
    sasrec, encoder = untrained(data)
    with torch.no_grad():
        sasrec.repeat_bias.weight.normal_()
    content = encoder.vectors(item_features(data))
    share = ContentShare(0.3, 0.15, {})

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
    embeddings = join_content(sasrec.vectors.detach(), content, share.share)
    learner = new_learner(config, Tokenizer(config.tokenizer), embeddings, 1, sasrec, content=share)

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
