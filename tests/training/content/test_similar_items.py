"""The index of trained items: items with the words of a new one lend it what they were learned to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model_store.catalogue.resemblances import NO_WORD, RESEMBLED
from model_store.new_items.features import extract_features
from model_store.new_items.similar_items import SIMILAR, SimilarItems
from tests.training.content.test_content_encoder import dataset_of
from training.content.item_words import fit_item_words
from training.content.shared_features import item_features
from training.content.similar_items import fit_similar_items
from training.data.dataset import Dataset, ItemInfo

TITLES = ["opi red nail polish", "opi blue nail polish", "red shampoo", "blue shampoo", "", "opi polish remover"]


def made(content_dim: int = 2) -> tuple[Dataset, torch.Tensor, SimilarItems]:
    data = dataset_of([ItemInfo(title) for title in TITLES])
    embeddings = torch.randn(len(TITLES), 5, generator=torch.manual_seed(3))
    return data, embeddings, fit_similar_items(data, embeddings, content_dim)


def find(index: SimilarItems, title: str) -> list[int]:
    rows: list[int] = index.find(extract_features(title, (), {})).rows.tolist()
    return rows


def test_similarity_is_the_cosine_of_words_weighted_by_rarity() -> None:
    data, _, index = made()
    words = [set(title.split()) for title in TITLES]
    count = {word: sum(word in each for each in words) for word in set().union(*words)}
    known = sorted(word for word, items in count.items() if items > 1)
    # Every word of a title weighs as much, times log((1 + N) / (1 + count)) + 1.
    table = np.array([[(w in each) * (np.log(7 / (1 + count[w])) + 1) for w in known] for each in words])
    lengths = np.linalg.norm(table, axis=1)

    for row, features in enumerate(item_features(data)):
        similarity = table @ table[row] / np.where(lengths, lengths, 1)
        found = index.find(features)
        expected = np.flatnonzero(similarity > 0)
        assert sorted(found.rows.tolist()) == expected.tolist()
        share = similarity[found.rows] ** 3 / (similarity[expected] ** 3).sum()
        np.testing.assert_allclose(found.shares, share, rtol=5e-3)  # weights are stored as float16


def test_a_new_item_finds_those_that_say_the_same_first() -> None:
    _, _, index = made()
    assert find(index, "red polish by opi")[0] == 0
    assert find(index, "SHAMPOO, blue!")[0] == 3
    assert find(index, "") == find(index, "something else") == []


def test_a_new_item_keeps_what_it_resembles_and_the_words_that_training_knows_it_by() -> None:
    data, _, index = made()
    trained = fit_item_words(data)
    for row, features in enumerate(item_features(data)):
        similar = index.find(features)
        [record] = index.resemblance(features, similar)
        assert record["similar"][: len(similar.rows)].tolist() == similar.rows.tolist()
        np.testing.assert_allclose(record["share"][: len(similar.rows)], similar.shares, rtol=1e-3)
        assert (record["similar"][len(similar.rows) :] == -1).all()

        words, known = (
            {int(word): float(weight) for word, weight in zip(*pair, strict=True) if word != NO_WORD}
            for pair in ((record["word"], record["word_weight"]), (trained.word[row], trained.weight[row]))
        )
        assert words == pytest.approx(known, rel=1e-3)


def test_the_most_similar_items_of_many_are_kept_and_their_shares_add_up() -> None:
    data = dataset_of([ItemInfo("red nail polish") for _ in range(2 * RESEMBLED)])
    index = fit_similar_items(data, torch.randn(2 * RESEMBLED, 5), 2)
    features = extract_features("red polish", (), {})
    similar = index.find(features)
    assert len(similar.rows) == SIMILAR > RESEMBLED
    [record] = index.resemblance(features, similar)
    assert record["similar"].tolist() == similar.rows[:RESEMBLED].tolist()
    np.testing.assert_allclose(record["share"].astype(np.float64).sum(), 1, rtol=1e-2)


def test_vectors_keep_their_direction_and_the_mean_length_of_their_parts() -> None:
    _, embeddings, index = made()
    learned = embeddings[:, :3]
    cosine = torch.cosine_similarity(torch.from_numpy(index.directions.astype(np.float32)), learned, dim=1)
    assert cosine.min() > 0.9995
    np.testing.assert_allclose(index.learned_length, float(learned.norm(dim=1).mean()), rtol=1e-6)
    np.testing.assert_allclose(index.content_length, float(embeddings[:, 3:].norm(dim=1).mean()), rtol=1e-6)


def test_a_model_without_content_vectors_has_learned_ones_alone() -> None:
    _, _, index = made(content_dim=0)
    assert (index.width, index.content_length) == (5, 0)
