"""Content vectors tell which items say similar things, in any script, and admit where nothing is said."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from torch import Tensor

from model_store.new_items.features import extract_features
from training.content.content_encoder import ContentEncoder, fit_content_encoder
from training.content.shared_features import item_features
from training.data.dataset import Dataset, ItemInfo

KINDS = {
    "polish": ("red nail polish", "blue nail polish", "nail polish remover"),
    "shampoo": ("ξηρό σαμπουάν", "σαμπουάν για παιδιά", "σαμπουάν χωρίς αλάτι"),
    "cream": ("护手霜 玫瑰", "护手霜 柠檬", "玫瑰 护手霜 小"),
}
"""Titles of things of one kind, in Latin, Greek and Chinese script."""


def dataset_of(infos: list[ItemInfo]) -> Dataset:
    ids = [f"i{row}" for row in range(len(infos))]
    frame = pl.DataFrame({"user": ["u"] * len(ids), "item": ids, "timestamp": np.arange(len(ids))})
    return Dataset.from_frame("made", frame, dict(zip(ids, infos, strict=True)))


def titled(titles: list[str]) -> Dataset:
    return dataset_of([ItemInfo(title) for title in titles])


def fitted(data: Dataset, width: int = 6) -> ContentEncoder:
    found = fit_content_encoder(item_features(data), width, seed=1)
    assert found is not None
    return found


def vectors_of(data: Dataset, width: int = 6) -> Tensor:
    return fitted(data, width).vectors(item_features(data))


def test_items_that_say_similar_things_are_near_in_any_script() -> None:
    vectors = vectors_of(titled([title for titles in KINDS.values() for title in titles]))

    cosine = (vectors @ vectors.T).numpy()
    kind = np.repeat(np.arange(len(KINDS)), 3)
    same = kind[:, None] == kind
    assert cosine[same].min() > cosine[~same].max() + 0.3


def test_categories_and_attributes_count_too() -> None:
    infos = [ItemInfo("", ("soap",)), ItemInfo("", ("soap",)), ItemInfo("", (), {"brand": "opi"}), ItemInfo("", ("x",))]
    infos += [ItemInfo("", (), {"brand": "opi"}), ItemInfo("", ("x",))]

    cosine = vectors_of(dataset_of(infos)) @ vectors_of(dataset_of(infos)).T

    assert cosine[0, 1] > 0.99
    assert cosine[2, 4] > 0.99
    assert abs(cosine[0, 2]) < 0.01


def test_rare_words_weigh_more_than_common_ones() -> None:
    common = [f"soap {word}" for word in ("rose", "rose", "lemon", "lemon", "mint", "mint", "salt", "salt")]
    cosine = vectors_of(titled(common), width=8) @ vectors_of(titled(common), width=8).T

    assert cosine[0, 1] > 0.99
    assert cosine[0, 2] < 0.5  # "soap" alone is shared, and says little


def test_all_vectors_have_unit_length_and_an_item_that_says_nothing_is_flagged() -> None:
    titles = [*KINDS["polish"], "", "\x00\x1f", "word of its own"]
    vectors = vectors_of(titled(titles), width=9)

    assert vectors.shape == (6, 9)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(6))
    assert vectors[:, -1].tolist() == [0, 0, 0, 1, 1, 1]
    assert (vectors[3:, :-1] == 0).all()


def test_titles_of_any_length_are_bounded_work() -> None:
    vectors = vectors_of(titled(["nail " * 10_000, "nail polish", "polish", "x" * 10_000, "x" * 10_000]))

    assert torch.isfinite(vectors).all()
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[3]


def test_nothing_shared_means_no_vectors() -> None:
    assert fit_content_encoder(item_features(titled(["one", "two", ""])), 4, seed=1) is None
    assert fit_content_encoder(item_features(titled(["", "", ""])), 4, seed=1) is None


def test_the_same_seed_gives_the_same_vectors_and_leaves_the_random_state_alone() -> None:
    data = titled([title for titles in KINDS.values() for title in titles])
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)

    one, other = vectors_of(data), vectors_of(data)

    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert torch.rand(1) == expected


def test_a_new_item_is_encoded_as_if_it_had_been_there() -> None:
    titles = [title for titles in KINDS.values() for title in titles]
    encoder = fitted(titled(titles))

    new = encoder.vectors([extract_features("polish for nail, red", (), {}), extract_features("nothing known", (), {})])

    assert (new[0] @ encoder.vectors(item_features(titled(titles))).T).argmax() == 0
    assert new[1, -1] == 1
