"""The service's encoding of a new item equals what training's networks say, and what it cannot encode it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from model_store.bundle.bundle import Bundle
from model_store.catalogue.catalogue import ItemPut
from model_store.errors import BundleRefused, CatalogueFull, ItemRefused
from model_store.new_items.features import extract_features
from model_store.new_items.item_encoder import PREDICTED, SIMILAR_ITEMS, ItemEncoder
from model_store.new_items.similar_items import SimilarItems
from model_store.replication.item_payload import NewItem
from tests.support.bundles import bundle_files
from tests.support.encodable_bundles import SHAPE, WIDTH, encodable_bundle, graphs, networks
from training.content.content_model import pad_features

Item = tuple[str, tuple[str, ...], dict[str, Any] | str]

ITEMS: Sequence[Item] = [
    ("Title", ("category-0",), {"year": 1995}),
    ("title of another", ("category-1", "category-0"), {"year": 2001, "colour": "blue"}),
    ("", (), {}),
    ("七人の侍", ("no such category",), "a text instead of values"),
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return encodable_bundle(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize("item", ITEMS)
def test_an_item_is_encoded_as_training_does(bundle: Bundle, item: Item) -> None:
    tokenizer, content = networks()
    with torch.no_grad():
        raw = content(*pad_features([extract_features(*item)]))
        latent = tokenizer.latents(raw)[0].numpy()
    found = ItemEncoder.open(bundle).encode(*item)
    assert found.vector.dtype == np.float32
    np.testing.assert_allclose(found.vector, (raw[0] / raw[0].norm()).numpy(), atol=1e-5)
    np.testing.assert_allclose(found.latent, latent, atol=1e-4)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of which two items are known by what they say; two numbers of an embedding are a content vector."""
    ids = extract_features("Title", ("category-0",), {}).ids
    directions = np.array([[3, 0, 0, 4], [0, 127, 0, 0]], dtype=np.int8)
    index = SimilarItems(
        ids,
        np.ones(2, np.float32),
        np.arange(3),
        np.arange(2, dtype=np.int32),
        np.ones(2, np.float16),
        directions,
        3,
        4,
    )
    return encodable_bundle(tmp_path_factory.mktemp("indexed"), changed={SIMILAR_ITEMS: save(index.arrays())})


def test_an_item_learns_from_those_that_say_the_same(bundle: Bundle, indexed: Bundle) -> None:
    item: Item = ("Title", ("category-0",), {"year": 1995})
    predicted = ItemEncoder.open(bundle).encode(*item).vector
    found = ItemEncoder.open(indexed).encode(*item)

    # Both items are equally similar.
    similar = np.array([0.6, 1, 0, 0.8]) / 2**0.5
    learned = similar + PREDICTED * predicted[:4] / np.linalg.norm(predicted[:4])
    content = predicted[4:] / np.linalg.norm(predicted[4:])
    expected = np.concatenate([3 * learned / np.linalg.norm(learned), 4 * content])
    np.testing.assert_allclose(found.vector, expected / 5, atol=1e-6)
    with torch.no_grad():
        latent = networks()[0].latents(torch.from_numpy(expected)[None].float())[0].numpy()
    np.testing.assert_allclose(found.latent, latent, atol=1e-4)


def test_an_item_like_no_other_is_predicted(bundle: Bundle, indexed: Bundle) -> None:
    for item in (ITEMS[2], ITEMS[3]):
        one, other = ItemEncoder.open(bundle).encode(*item), ItemEncoder.open(indexed).encode(*item)
        assert one.vector.tobytes() == other.vector.tobytes()
        assert one.latent.tobytes() == other.latent.tobytes()


def test_an_index_of_another_model_is_refused(tmp_path: Path) -> None:
    index = SimilarItems(
        np.arange(1),
        np.ones(1, np.float32),
        np.arange(2),
        np.zeros(1, np.int32),
        np.ones(1, np.float16),
        np.ones((1, WIDTH + 1), np.int8),
        1,
        0,
    )
    with pytest.raises(BundleRefused, match=f"{SIMILAR_ITEMS}: vectors have {WIDTH + 1} numbers, the model's {WIDTH}"):
        ItemEncoder.open(encodable_bundle(tmp_path, changed={SIMILAR_ITEMS: save(index.arrays())}))


@pytest.mark.parametrize("name", ["bundle", "indexed"])
def test_what_comes_of_an_item_does_not_depend_on_its_company(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    encoder = ItemEncoder.open(bundle)
    many = [NewItem(f"Title {n % 7} of {n}", (f"category-{n % 3}",), {"year": 1990 + n % 11}) for n in range(300)]
    together = encoder.encode_all(many)
    for place in (0, 3, 7, 8, 255, 256, 299):
        alone, among = encoder.encode(*many[place]), together[place]
        assert not isinstance(among, ItemRefused)
        assert among.vector.tobytes() == alone.vector.tobytes()
        assert among.latent.tobytes() == alone.latent.tobytes()


def test_of_many_items_only_those_that_do_not_fit_are_refused(bundle: Bundle) -> None:
    encoder = ItemEncoder.open(bundle)
    found = encoder.encode_all([NewItem("a", (), {}), NewItem("b", (), {}, [1.0] * WIDTH), NewItem("c", (), {})])
    assert [isinstance(each, ItemRefused) for each in found] == [False, True, False]
    assert encoder.encode_all([]) == []


def test_items_are_placed_where_the_tokenizer_has_them(bundle: Bundle) -> None:
    encoder, catalogue = ItemEncoder.open(bundle), bundle.catalogue()
    taken = {tuple(codes) for codes in catalogue.codes.tolist()}
    tokenizer, _ = networks()
    for item in ITEMS:
        found = encoder.encode(*item)
        own = tuple(tokenizer.quantise(torch.from_numpy(found.latent)[None]).codes[0].tolist())
        placed = tuple(encoder.placement(catalogue).place(found.latent).tolist())
        assert placed == own or own in taken
        assert placed not in taken


def test_new_items_join_the_catalogue(bundle: Bundle) -> None:
    encoder, catalogue = ItemEncoder.open(bundle), bundle.catalogue()
    places, puts = encoder.placement(catalogue), []
    for number, (title, categories, _) in enumerate([*ITEMS] * 3):  # the same content again: other codes
        vector, latent, resemblance = encoder.encode(title, categories, {})
        puts.append(ItemPut(f"new-{number}", title, categories, {}, places.place(latent), vector, resemblance))
    live = catalogue.with_changes(puts)
    live.check_integrity()
    assert (len(live), live.trained) == (len(catalogue) + 12, len(catalogue))
    assert live.vectors is not None
    np.testing.assert_allclose(np.linalg.norm(live.vectors, axis=1), 1, atol=1e-5)


def test_a_catalogue_fills_up_and_then_says_so(bundle: Bundle) -> None:
    encoder, catalogue = ItemEncoder.open(bundle), bundle.catalogue()
    places, latent = encoder.placement(catalogue), encoder.encode("", (), {}).latent
    room = SHAPE.codebook_size**SHAPE.levels - len(catalogue)
    codes = {tuple(places.place(latent).tolist()) for _ in range(room)}
    assert len(codes) == room
    with pytest.raises(CatalogueFull):
        places.place(latent)


def test_the_length_of_a_given_embedding_reaches_the_tokenizer_alone(tmp_path: Path) -> None:
    encoder = ItemEncoder.open(encodable_bundle(tmp_path, source="user"))
    assert encoder.takes_embeddings
    raw = np.linspace(-1, 2, WIDTH)
    short, long = encoder.encode("", (), {}, raw.tolist()), encoder.encode("", (), {}, (3 * raw).tolist())
    np.testing.assert_allclose(short.vector, raw / np.linalg.norm(raw), atol=1e-6)
    np.testing.assert_allclose(long.vector, short.vector, atol=1e-6)
    tokenizer, _ = networks()
    with torch.no_grad():
        expected = tokenizer.latents(torch.from_numpy(3 * raw)[None].float())[0].numpy()
    np.testing.assert_allclose(long.latent, expected, atol=1e-4)
    assert not np.allclose(short.latent, long.latent)


@pytest.mark.parametrize(
    ("embedding", "words"),
    [
        ([1.0] * (WIDTH + 1), f"embedding: holds {WIDTH + 1} numbers, this model takes {WIDTH}"),
        ([], f"embedding: holds 0 numbers, this model takes {WIDTH}"),
        ([0.0] * WIDTH, "embedding: must be numbers of at most 1e\\+09 and not all 0"),
        ([float("nan")] * WIDTH, "embedding: must be numbers of at most"),
        ([1e39] * WIDTH, "embedding: must be numbers of at most"),
        (None, "embedding: is missing"),
    ],
)
def test_an_embedding_that_does_not_fit_is_refused(
    embedding: list[float] | None, words: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    encoder = ItemEncoder.open(encodable_bundle(tmp_path_factory.mktemp("user"), source="user", has_content=False))
    with pytest.raises(ItemRefused, match=words) as refused:
        encoder.encode("Title", (), {}, embedding)
    assert refused.value.field == "embedding"


def test_a_model_with_its_own_embeddings_takes_none(bundle: Bundle) -> None:
    with pytest.raises(ItemRefused, match="embedding: this model makes its own embeddings"):
        ItemEncoder.open(bundle).encode("Title", (), {}, [1.0] * WIDTH)


def test_a_model_of_bare_ids_cannot_place_new_items(tmp_path: Path) -> None:
    with pytest.raises(ItemRefused, match="item_id: is not known to this model, which was trained on bare ids"):
        ItemEncoder.open(encodable_bundle(tmp_path, has_content=False)).encode("Title", ("category-0",), {})


@pytest.mark.parametrize("damage", ["no graph", "another graph"])
@pytest.mark.parametrize("name", ["content.onnx", "tokenizer.onnx"])
def test_a_graph_that_does_not_fit_is_refused(name: str, damage: str, tmp_path: Path) -> None:
    tokenizer, content = graphs()
    other = tokenizer if name == "content.onnx" else content
    data = other if damage == "another graph" else b"no graph"
    with pytest.raises(BundleRefused, match=name):
        ItemEncoder.open(encodable_bundle(tmp_path, changed={name: data}))


def test_a_bundle_without_codebooks_is_refused(tmp_path: Path) -> None:
    whole = bundle_files()["weights.safetensors"]
    with pytest.raises(BundleRefused, match=r"tokenizer\.codebooks must have the shape \(3, 8, 4\)"):
        ItemEncoder.open(encodable_bundle(tmp_path, changed={"weights.safetensors": whole}))
