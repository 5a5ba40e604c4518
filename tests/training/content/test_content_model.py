"""The content model learns what content tells, admits what it does not, and is the same after export."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime
import polars as pl
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model_store.catalogue.catalogue import Catalogue
from model_store.errors import BundleRefused
from model_store.new_items.features import extract_features
from training.content import shared_features
from training.content.content_encoder import fit_content_encoder
from training.content.content_model import PENALTIES, ContentModel, fit_content, pad_features
from training.content.ridge import Entries, Ridge
from training.content.shared_features import item_features
from training.data.dataset import Dataset, ItemInfo
from training.export.bundle import check_content
from training.export.onnx_export import export_content

WIDTH, GENRES = 8, 6


def random_genres(random: np.random.Generator, items: int) -> npt.NDArray[np.bool_]:
    genres = random.random((items, GENRES)) < 0.4
    genres[np.arange(items), random.integers(0, GENRES, items)] = True
    return genres


def dataset_of(info: dict[str, ItemInfo]) -> Dataset:
    """Twenty users who each have every item, in another order each."""
    ids, random = list(info), np.random.default_rng(0)
    items = [ids[row] for _ in range(20) for row in random.permutation(len(ids))]
    users = [f"u{user}" for user in range(20) for _ in ids]
    frame = pl.DataFrame({"user": users, "item": items, "timestamp": np.arange(len(items))})
    return Dataset.from_frame("made", frame, info)


def in_order(data: Dataset, by_id: dict[str, npt.NDArray[np.float64]]) -> Tensor:
    return torch.from_numpy(np.stack([by_id[item_id] for item_id in data.item_ids])).float()


def world(seed: int, items: int, noise: float, length: float = 3.0) -> tuple[Dataset, Tensor]:
    """Items whose embeddings are sums of what their genres add, and noise; all of one length."""
    random = np.random.default_rng(seed)
    genres, effects = random_genres(random, items), random.normal(size=(GENRES, WIDTH))
    found = genres @ effects + noise * random.normal(size=(items, WIDTH))
    found *= length / np.linalg.norm(found, axis=1, keepdims=True)
    names = [tuple(f"g{column}" for column in np.flatnonzero(row)) for row in genres]
    info = {f"i{row}": ItemInfo(f"Title {row}", names[row], {"shelf": row}) for row in range(items)}
    data = dataset_of(info)
    return data, in_order(data, {f"i{row}": found[row] for row in range(items)})


def features_of(data: Dataset) -> tuple[Tensor, Tensor]:
    columns = zip(data.titles, data.categories, data.attributes, strict=True)
    return pad_features([extract_features(*each) for each in columns])


def test_what_content_tells_is_learned_and_held_out_items_show_it() -> None:
    data, embeddings = world(0, items=300, noise=0.1)
    model, fit = fit_content(data, embeddings, seed=1)
    assert fit.cosine > 0.9
    assert fit.cosine > fit.mean_cosine + 0.3
    assert fit.near > 0.5
    found = model(*features_of(data))
    assert torch.cosine_similarity(found, embeddings).mean() > 0.9


def test_predictions_are_of_the_scale_of_embeddings() -> None:
    data, embeddings = world(0, items=100, noise=0.5, length=3.0)
    model, _ = fit_content(data, embeddings, seed=1)
    torch.testing.assert_close(model(*features_of(data)).norm(dim=1), torch.full((100,), 3.0))


@pytest.mark.parametrize("items", [40, 300])
def test_content_that_tells_nothing_is_not_learned_by_heart(items: int) -> None:
    """Then a strong penalty wins, and held-out items are hardly further away than from the average."""
    data, _ = world(0, items, noise=0.0)
    embeddings = torch.randn(items, WIDTH, generator=torch.Generator().manual_seed(2)) + 1.0
    _, fit = fit_content(data, embeddings, seed=1)
    assert fit.penalty >= PENALTIES[-2]
    assert fit.cosine > fit.mean_cosine - 0.02


def test_an_item_without_content_is_the_average_one() -> None:
    data, embeddings = world(0, items=60, noise=0.5)
    model, _ = fit_content(data, embeddings, seed=1)
    nothing = pad_features([extract_features("", (), {}), extract_features("words nobody used", (), "")])
    one, other = model(*nothing)
    assert torch.equal(one, other)
    assert torch.cosine_similarity(one, embeddings.mean(dim=0), dim=0) > 0.99  # items weigh by their interactions


def test_two_fits_are_equal_to_the_bit() -> None:
    data, embeddings = world(0, items=80, noise=0.5)
    (one, fit), (other, again) = (fit_content(data, embeddings, seed=1) for _ in range(2))
    assert fit == again
    assert torch.equal(one.effects, other.effects)


def test_only_the_most_frequent_features_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_features, "KNOWN_FEATURES", 3)
    data, embeddings = world(0, items=80, noise=0.5)
    model, fit = fit_content(data, embeddings, seed=1)
    assert fit.features == 3
    assert len(model.effects) == 4
    ids, _ = extract_features("Title", (), {})
    assert model.slots[ids[0]] > 0  # all items have this word


def test_the_content_part_of_an_embedding_is_encoded_not_predicted() -> None:
    data, learned = world(0, items=60, noise=0.5, length=1.0)
    encoder = fit_content_encoder(item_features(data), 5, seed=1)
    assert encoder is not None
    embeddings = functional.normalize(torch.cat([learned, 0.7 * encoder.vectors(item_features(data))], dim=1), dim=1)

    model, _ = fit_content(data, embeddings, seed=1, encoder=encoder)
    new = [extract_features("Title of something", ("g1", "g2"), {"shelf": 3}), extract_features("", ("g0",), {})]
    predicted = model(*pad_features(new))

    assert predicted.shape == (2, WIDTH + 5)
    torch.testing.assert_close(predicted.norm(dim=1), torch.ones(2))
    content = predicted[:, WIDTH:]
    torch.testing.assert_close(functional.normalize(content, dim=1), encoder.vectors(new))
    share = 0.7 / (1 + 0.7**2) ** 0.5  # of the length of all embeddings here; the learned part is predicted shorter
    assert (content.norm(dim=1) > share - 0.01).all()

    session = onnxruntime.InferenceSession(export_content(model))
    features, weights = pad_features(new)
    [found] = session.run(["embeddings"], {"features": features.numpy(), "weights": weights.numpy()})
    np.testing.assert_allclose(found, predicted.numpy(), atol=1e-5)


@pytest.mark.parametrize("items", [1, 2, 7])
def test_a_handful_of_items_is_enough_to_have_a_model(items: int) -> None:
    data, embeddings = world(0, items, noise=0.5)
    model, fit = fit_content(data, embeddings, seed=1)
    assert np.isfinite([fit.cosine, fit.mean_cosine, fit.near]).all()
    assert torch.isfinite(model(*features_of(data))).all()


def test_items_that_have_nothing_in_common_are_all_average() -> None:
    data = dataset_of({name: ItemInfo(name) for name in ("one", "two", "three", "four", "five", "six")})
    model, fit = fit_content(data, torch.randn(6, WIDTH), seed=1)
    assert fit.features == 0
    found = model(*features_of(data))
    torch.testing.assert_close(found, found[:1].expand(6, -1))


def test_bare_ids_are_no_content() -> None:
    assert not dataset_of({"a": ItemInfo(), "b": ItemInfo()}).has_content
    for known in (ItemInfo("Title"), ItemInfo("", ("c",)), ItemInfo("", (), {"year": 1})):
        assert dataset_of({"a": ItemInfo(), "b": known}).has_content


@pytest.fixture(scope="module")
def exported() -> tuple[Dataset, ContentModel, bytes]:
    data, embeddings = world(0, items=60, noise=0.5)
    model, _ = fit_content(data, embeddings, seed=1)
    return data, model, export_content(model)


def test_the_graph_predicts_what_the_model_does(exported: tuple[Dataset, ContentModel, bytes]) -> None:
    data, model, graph = exported
    session = onnxruntime.InferenceSession(graph)
    features, weights = features_of(data)
    one_by_one = []
    for title, categories, attributes in zip(data.titles, data.categories, data.attributes, strict=True):
        ids, values = extract_features(title, categories, attributes)
        one_by_one.append(session.run(None, {"features": ids[None], "weights": values[None]})[0][0])
    expected = model(features, weights).numpy()
    [together] = session.run(["embeddings"], {"features": features.numpy(), "weights": weights.numpy()})
    np.testing.assert_allclose(together, expected, atol=1e-5)
    np.testing.assert_allclose(np.stack(one_by_one), expected, atol=1e-5)
    empty = {"features": np.empty((1, 0), dtype=np.int64), "weights": np.empty((1, 0), dtype=np.float32)}
    np.testing.assert_allclose(
        session.run(None, empty)[0], model(*pad_features([extract_features("", (), {})])), atol=1e-5
    )


def test_a_graph_that_predicts_otherwise_is_refused_at_export(exported: tuple[Dataset, ContentModel, bytes]) -> None:
    data, model, graph = exported
    catalogue = Catalogue(
        codebook_size=100,
        item_ids=data.item_ids,
        codes=np.arange(data.n_items, dtype=np.int16)[:, None],
        titles=data.titles,
        categories=data.categories,
        attributes=data.attributes,
        popularity=data.popularity(),
    )
    check_content(graph, model, catalogue)
    other = ContentModel(np.array([0]), torch.ones(1, WIDTH), model.mean + 1, model.length)
    with pytest.raises(BundleRefused, match=r"content\.onnx predicts embeddings that differ"):
        check_content(graph, other, catalogue)


@pytest.mark.parametrize("penalty", [0.5, 20.0])
@pytest.mark.parametrize("seed", range(3))
def test_conjugate_gradients_arrive_where_the_closed_form_is(seed: int, penalty: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(30, 12, generator=generator) * (torch.rand(30, 12, generator=generator) < 0.4)
    dense[:, 5], dense[7] = 0.0, 0.0  # a column and a row without entries
    y, weights = torch.randn(30, 3, generator=generator), torch.rand(30, generator=generator)
    row, column = dense.nonzero(as_tuple=True)
    found = Ridge(Entries(row, column, dense[row, column]), (30, 12), weights).solve(y, penalty)
    left = dense.T @ (weights[:, None] * dense) + penalty * torch.eye(12)
    torch.testing.assert_close(found, torch.linalg.solve(left, dense.T @ (weights[:, None] * y)), atol=1e-4, rtol=1e-3)
