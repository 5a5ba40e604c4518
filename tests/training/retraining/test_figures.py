"""The models of a comparison as they are served, and what they are measured on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import safetensors.numpy
import torch

from model_store.bundle.bundle import Bundle
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.resemblances import nothing_known
from model_store.errors import CatalogueFull, ItemRefused
from model_store.network.recommender import Recommender
from model_store.replication.item_payload import NewItem
from model_store.search.fusion import GENERATIVE_ALONE, Fusion
from tests.support.bundles import NOON, bundle_files, description, small_catalogue
from tests.support.random_worlds import random_recommender, random_vectors, small_config
from training.data.dataset import Dataset, ItemInfo, Split
from training.evaluation.full_ranking import SearchedModel, search_split
from training.evaluation.metrics import Ranks
from training.retraining import served_model
from training.retraining.figures import codes_moved, model_metrics
from training.retraining.served_model import load_recommender, published_model, served_catalogue

FUSED = Fusion(weight=2.0, candidates=4)
CONFIG = small_config(3, 8).model_copy(update={"beam_width": 20})


def weights_of(net: Recommender) -> bytes:
    tensors = {f"recommender.{name}": value.numpy() for name, value in net.state_dict().items()}
    saved: bytes = safetensors.numpy.save({**tensors, "tokenizer.other": np.zeros(2, dtype=np.float32)})
    return saved


def incumbent_in(folder: Path, fusion: Fusion = GENERATIVE_ALONE, data: str = "f" * 64, ids: str = "item-") -> Bundle:
    """Publish and promote a bundle with a real recommender, whose items cannot be encoded."""
    catalogue = small_catalogue()
    vectors = random_vectors(np.random.default_rng(1), CONFIG, len(catalogue))
    named = replace(catalogue, item_ids=[f"{ids}{row}" for row in range(len(catalogue))], vectors=vectors)
    about = description()
    about = about.model_copy(update={"config": CONFIG, "fusion": fusion})
    about = about.model_copy(update={"data": about.data.model_copy(update={"fingerprint": data})})
    store = ModelStore(folder)
    files = bundle_files(0, named) | {"weights.safetensors": weights_of(random_recommender(CONFIG, 3))}
    store.promote(publish(store, files, about, NOON))
    return store.bundle()


def metrics_of(bundle: Bundle, data: Dataset) -> dict[str, float]:
    return model_metrics(published_model(bundle, data), data)


def dataset(sequences: dict[str, list[str]]) -> Dataset:
    rows = [(user, item, at) for user, items in sequences.items() for at, item in enumerate(items)]
    return Dataset.from_frame("all", pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row"), {})


def random_sequences() -> dict[str, list[str]]:
    rng = np.random.default_rng(0)
    return {f"u{user}": [f"item-{row}" for row in rng.integers(0, 40, 6)] for user in range(30)}


@pytest.mark.parametrize(
    ("fusion", "is_large"),
    [(GENERATIVE_ALONE, False), (FUSED, False), (FUSED, True)],
    ids=["generative", "fused", "fused, large catalogue"],
)
def test_the_incumbent_ranks_the_newest_interactions_as_it_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fusion: Fusion, is_large: bool
) -> None:
    if is_large:  # its catalogue, not the part of it that is ranked
        monkeypatch.setattr("model_store.search.fusion.DENSE_ITEMS", len(small_catalogue()) - 1)
    bundle = incumbent_in(tmp_path, fusion)
    known = random_sequences()
    sequences = {
        **known,
        "a target that it cannot answer": ["item-1", "item-2", "item-3", "late"],
        "a history that it does not know": ["late", "later", "late", "item-1"],
        "some of a history": ["item-4", "late", "item-5", "item-6"],
    }
    judged = {**known, "some of a history": ["item-4", "item-5", "item-6"]}
    catalogue = bundle.catalogue()
    ranked = sorted({catalogue.row_of[item] for items in judged.values() for item in items})
    assert len(ranked) < len(catalogue), "an item that the candidate cannot rank must not stand in the incumbent's way"
    rows = [[ranked.index(catalogue.row_of[item]) for item in items] for items in judged.values()]
    targets = np.array([items[-1] for items in rows], dtype=np.int32)
    part = Split([np.array(items[:-1], dtype=np.int32) for items in rows], targets, np.arange(len(rows)))
    net = load_recommender(bundle)
    codes, vectors = catalogue.codes[ranked], None if catalogue.vectors is None else catalogue.vectors[ranked]
    model = SearchedModel(net, codes, CONFIG.beam_width, vectors, fusion.candidates, scores_all=not is_large)
    found = search_split(model, part)
    missed = np.array([-1, -1])
    expected = Ranks(*(np.concatenate([ranks, missed]) for ranks in found.ranks(fusion))).summary()
    metrics = metrics_of(bundle, dataset(sequences))
    assert metrics == pytest.approx(expected)
    assert 0 < metrics["recall@10"] < 1
    if is_large:
        small = search_split(replace(model, scores_all=True), part)
        small_ranks = (np.concatenate([ranks, missed]) for ranks in small.ranks(fusion))
        assert metrics != pytest.approx(Ranks(*small_ranks).summary())
    if fusion.weight:
        alone = Ranks(*(np.concatenate([ranks, missed]) for ranks in found.ranks())).summary()
        assert metrics != pytest.approx(alone)


def test_nobody_whom_the_incumbent_knows_means_that_it_misses_everyone(tmp_path: Path) -> None:
    data = dataset({"u": ["late"] * 3, "v": ["item-1", "item-2", "late"]})
    metrics = metrics_of(incumbent_in(tmp_path), data)
    assert set(metrics.values()) == {0.0}


def test_the_recommender_of_a_bundle_has_its_weights_and_is_not_in_training(tmp_path: Path) -> None:
    net = load_recommender(incumbent_in(tmp_path))
    assert not net.training
    for name, value in random_recommender(CONFIG, 3).state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value)


class FakeEncoder:
    """Encoder that refuses and places items by their titles."""

    opened = 0

    @classmethod
    def open(cls, _: Bundle) -> FakeEncoder:
        cls.opened += 1
        return cls()

    def encode_all(self, items: list[NewItem]) -> list[SimpleNamespace | ItemRefused]:
        vector = np.eye(1, CONFIG.tokenizer.embedding_dim, dtype=np.float32)[0]
        unlike = nothing_known(1)
        return [
            ItemRefused("refused", "no fix")
            if item.title == "refused"
            else SimpleNamespace(latent=item, vector=vector, resemblance=unlike)
            for item in items
        ]

    def placement(self, catalogue: Catalogue) -> SimpleNamespace:
        taken = {tuple(codes) for codes in catalogue.codes.tolist()}
        free = next(codes for codes in np.ndindex(8, 8, 8) if codes not in taken)

        def place(latent: NewItem) -> np.ndarray:
            if latent.title == "no room":
                raise CatalogueFull("full", "no fix")
            assert latent == NewItem("late", ("new",), {"year": 2026})
            return np.array(free, dtype=np.int16)

        return SimpleNamespace(place=place)


def test_items_that_came_live_join_the_catalogue_of_the_incumbent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_model, "ItemEncoder", FakeEncoder)
    monkeypatch.setattr(FakeEncoder, "opened", 0)
    bundle = incumbent_in(tmp_path)
    known = dataset({"u": ["item-1", "item-2", "item-3"]})
    assert len(served_catalogue(bundle, known)) == 40
    assert FakeEncoder.opened == 0, "nothing is missing"

    told = {name: ItemInfo(name, ("new",), {"year": 2026}) for name in ("refused", "no room", "late")}
    rows = [("u", item, at) for at, item in enumerate(["item-1", *told, "item-2"])]
    frame = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    catalogue = served_catalogue(bundle, Dataset.from_frame("all", frame, told))
    assert [catalogue.row(name) for name in told] == [None, None, 40]
    assert (catalogue.titles[40], catalogue.categories[40]) == ("late", ("new",))
    assert (len(catalogue), catalogue.trained) == (41, 40)
    catalogue.check_integrity()


def test_codes_moved_counts_items_that_both_know(tmp_path: Path) -> None:
    bundle = incumbent_in(tmp_path)
    data = dataset({"u": [f"item-{row}" for row in range(10)]})
    model = published_model(bundle, data)
    codes = model.catalogue.codes.copy()
    codes[[0, 1]] = codes[[1, 0]]
    other = replace(model, catalogue=replace(model.catalogue, codes=codes))
    rows = np.array([0, 1, 2, 3, -1, 5])
    assert codes_moved(model, model, rows, rows) == 0
    assert codes_moved(model, other, rows, rows) == 2 / 5
    assert codes_moved(model, other, rows, np.array([-1, -1, 2, 3, 4, -1])) == 0
    assert codes_moved(model, other, rows, np.full(6, -1)) is None

    longer = np.column_stack([codes, np.zeros(len(codes), np.int16)])
    assert codes_moved(model, replace(model, catalogue=replace(model.catalogue, codes=longer)), rows, rows) == 1
