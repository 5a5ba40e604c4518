"""Users' own vectors in content vectors: near where they are near, and predicted where an item has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model_store.new_items.features import Features, extract_features
from tests.support.themed_data import THEMES, themed
from training.content.content_encoder import ContentEncoder, fit_content_encoder
from training.content.content_model import fit_content, pad_features
from training.content.own_vectors import reduce_vectors
from training.content.shared_features import item_features

WIDTH = 13


def own_vectors(themes: np.ndarray, seed: int = 0) -> np.ndarray:
    """Vectors of 40 numbers that tell the theme, each of its own length."""
    random = np.random.default_rng(seed)
    middle = random.normal(size=(len(THEMES), 40))
    vectors = middle[themes] + 0.3 * random.normal(size=(len(themes), 40)) + 5
    lengths = random.uniform(0.1, 10, (len(themes), 1))
    return np.asarray(vectors * lengths, dtype=np.float32)


def theme_rows(titles: list[str]) -> np.ndarray:
    return np.array([THEMES.index(title.split()[0]) for title in titles])


def purity(vectors: torch.Tensor, themes: np.ndarray) -> float:
    """Share of items whose nearest other item has the same theme."""
    cosine = vectors @ vectors.T - 2 * torch.eye(len(vectors))
    return float((themes[cosine.argmax(dim=1).numpy()] == themes).mean())


def fitted(titles: bool, own: np.ndarray) -> tuple[ContentEncoder, list[Features]]:
    features = item_features(themed(titles))
    encoder = fit_content_encoder(features, WIDTH, 1, own)
    assert encoder is not None
    return encoder, features


def test_vectors_tell_what_titles_do_not() -> None:
    themes = theme_rows(themed(titles=True).titles)
    own = own_vectors(themes)
    features = item_features(themed(titles=False))
    alone = fit_content_encoder(features, WIDTH, 1)
    both = fit_content_encoder(features, WIDTH, 1, own)
    assert alone is not None
    assert both is not None
    assert purity(alone.trained_vectors(features), themes) < 0.4
    assert purity(both.trained_vectors(features), themes) > 0.9
    torch.testing.assert_close(both.trained_vectors(features).norm(dim=1), torch.ones(len(features)))


def test_vectors_need_no_titles() -> None:
    themes = theme_rows(themed(titles=True).titles)
    bare = [extract_features("", (), {}) for _ in themes]
    own = own_vectors(themes)
    own[3] = 0
    encoder = fit_content_encoder(bare, WIDTH, 1, own)
    assert encoder is not None
    assert encoder.width == WIDTH
    vectors = encoder.trained_vectors(bare)
    assert vectors[3].tolist() == [0.0] * (WIDTH - 1) + [1.0]  # it says nothing
    rest = np.arange(len(themes)) != 3
    assert purity(vectors[rest], themes[rest]) > 0.9


def test_an_item_without_a_vector_gets_the_one_that_its_title_predicts() -> None:
    data = themed(titles=True)
    themes = theme_rows(data.titles)
    own = own_vectors(themes)
    own[::5] = 0
    encoder, features = fitted(True, own)
    given = encoder.trained_vectors(features)

    predicted = encoder.vectors(features)
    torch.testing.assert_close(given[::5], predicted[::5])
    cosine = given[::5] @ given.T
    cosine[:, ::5] = -1
    assert (themes[cosine.argmax(dim=1).numpy()] == themes[::5]).mean() > 0.9


def test_the_content_model_gives_new_items_the_encoders_numbers() -> None:
    data = themed(titles=True)
    encoder, features = fitted(True, own_vectors(theme_rows(data.titles)))
    embeddings = torch.cat([torch.randn(len(features), 4), encoder.trained_vectors(features)], dim=1)
    model, _ = fit_content(data, embeddings, seed=1, encoder=encoder)
    new = [extract_features("tea number 7", (), {}), extract_features("chess of glass", (), {})]
    with torch.no_grad():
        content = torch.nn.functional.normalize(model(*pad_features(new))[:, 4:], dim=1)
    torch.testing.assert_close(content, encoder.vectors(new))


def test_only_directions_count_and_few_items_are_enough() -> None:
    vectors = torch.randn(5, 30, generator=torch.Generator().manual_seed(1))
    reduced = reduce_vectors(vectors, 8, seed=1)
    torch.testing.assert_close(reduce_vectors(vectors * torch.arange(1, 6)[:, None], 8, seed=1), reduced)
    assert reduced.shape == (5, 8)
    torch.testing.assert_close(reduced.norm(dim=1), torch.ones(5))
    assert torch.isfinite(reduced).all()


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-3, 1e30, 1e37])
def test_numbers_may_be_as_small_or_large_as_32_bits_hold(scale: float) -> None:
    vectors = torch.randn(40, 12, generator=torch.Generator().manual_seed(2))
    vectors[3] = 0
    scaled = (vectors.double() * scale).float()
    tolerance = 1e-2 if scale < 1e-38 else 1e-4  # numbers below 1e-38 have fewer digits
    reduced = reduce_vectors(vectors, 6, seed=1)
    torch.testing.assert_close(reduce_vectors(scaled, 6, seed=1), reduced, atol=tolerance, rtol=0)
    assert reduced.norm(dim=1).round(decimals=3).tolist() == [1, 1, 1, 0] + 36 * [1]


def test_no_vector_at_all_gives_zeros() -> None:
    assert not reduce_vectors(torch.zeros(5, 12), 6, seed=1).any()
