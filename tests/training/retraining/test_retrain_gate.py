"""The gate: what candidate and incumbent are judged on, and which is live afterwards. Nothing is trained here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import safetensors.numpy
import torch

from model_store.bundle.bundle import Bundle
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SigningKey
from model_store.catalogue.catalogue import Catalogue
from model_store.errors import CatalogueFull, ItemRefused
from model_store.network.recommender import Recommender
from model_store.replication.item_payload import NewItem
from model_store.search.fusion import GENERATIVE_ALONE, Fusion
from tests.support.bundles import NOON, bundle_files, description, small_catalogue
from tests.support.random_worlds import random_recommender, random_vectors, small_config
from tests.support.tiny import write_cycle
from training.config import load_config
from training.data.dataset import Dataset, ItemInfo, Split
from training.data.prepare import open_or_prepare
from training.evaluation.full_ranking import search_split
from training.evaluation.metrics import Ranks
from training.loop.progress import SilentProgress
from training.retraining import retrain
from training.retraining.retrain import GATE_METRIC, Comparison, Retrainer, incumbent_metrics, load_recommender

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


def dataset(sequences: dict[str, list[str]]) -> Dataset:
    rows = [(user, item, at) for user, items in sequences.items() for at, item in enumerate(items)]
    return Dataset.from_frame("all", pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row"), {})


def random_sequences() -> dict[str, list[str]]:
    rng = np.random.default_rng(0)
    return {f"u{user}": [f"item-{row}" for row in rng.integers(0, 40, 6)] for user in range(30)}


@pytest.mark.parametrize("fusion", [GENERATIVE_ALONE, FUSED], ids=["generative", "fused"])
def test_the_incumbent_ranks_the_newest_interactions_as_it_is_served(tmp_path: Path, fusion: Fusion) -> None:
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
    found = search_split(net, codes, part, CONFIG.beam_width, vectors, fusion.candidates)
    missed = np.array([-1, -1])
    expected = Ranks(*(np.concatenate([ranks, missed]) for ranks in found.ranks(fusion))).summary()
    metrics = incumbent_metrics(bundle, dataset(sequences))
    assert metrics == pytest.approx(expected)
    assert 0 < metrics["recall@10"] < 1
    if fusion.weight:
        alone = Ranks(*(np.concatenate([ranks, missed]) for ranks in found.ranks())).summary()
        assert metrics != pytest.approx(alone)


def test_nobody_whom_the_incumbent_knows_means_that_it_misses_everyone(tmp_path: Path) -> None:
    metrics = incumbent_metrics(incumbent_in(tmp_path), dataset({"u": ["late"] * 3, "v": ["item-1", "item-2", "late"]}))
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
        return [
            ItemRefused("refused", "no fix") if item.title == "refused" else SimpleNamespace(latent=item, vector=vector)
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
    monkeypatch.setattr(retrain, "ItemEncoder", FakeEncoder)
    monkeypatch.setattr(FakeEncoder, "opened", 0)
    bundle = incumbent_in(tmp_path)
    known = dataset({"u": ["item-1", "item-2", "item-3"]})
    assert len(retrain.served_catalogue(bundle, known)) == 40
    assert FakeEncoder.opened == 0, "nothing is missing"

    told = {name: ItemInfo(name, ("new",), {"year": 2026}) for name in ("refused", "no room", "late")}
    rows = [("u", item, at) for at, item in enumerate(["item-1", *told, "item-2"])]
    frame = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    catalogue = retrain.served_catalogue(bundle, Dataset.from_frame("all", frame, told))
    assert [catalogue.row(name) for name in told] == [None, None, 40]
    assert (catalogue.titles[40], catalogue.categories[40]) == ("late", ("new",))
    assert (len(catalogue), catalogue.trained) == (41, 40)
    catalogue.check_integrity()


@pytest.mark.parametrize(
    ("candidate", "incumbent", "is_accepted", "reason"),
    [
        (0.2, 0.1, True, "promoted: not worse, ndcg@10 0.2000 against 0.1000"),
        (0.1, 0.1, True, "promoted: not worse, ndcg@10 0.1000 against 0.1000"),
        (0.1, 0.2, False, "kept the incumbent: the candidate is worse, ndcg@10 0.1000 against 0.2000"),
        (float("nan"), 0.2, False, "kept the incumbent: the candidate is worse, ndcg@10 nan against 0.2000"),
        (0.0, None, True, "promoted: the first model, ndcg@10 0.0000"),
    ],
)
def test_a_candidate_is_accepted_if_it_is_not_worse(
    candidate: float, incumbent: float | None, is_accepted: bool, reason: str
) -> None:
    # The other metrics point the other way: they must not decide.
    other = -candidate
    before = {} if incumbent is None else {GATE_METRIC: incumbent, "recall@10": -incumbent}
    comparison = Comparison({GATE_METRIC: candidate, "recall@10": other}, before)
    assert comparison.is_accepted is is_accepted
    assert comparison.reason == reason


class FakePipeline:
    """Pipeline that trains nothing and has the metrics of the test."""

    fused: dict[str, float]
    trained: list[Path]

    def __init__(self, run: Any, _: object) -> None:
        self.trained.append(run.path)

    def evaluate(self) -> SimpleNamespace:
        worthless = {GATE_METRIC: -1.0}
        return SimpleNamespace(test={"generative": worthless, "fused": self.fused}, validation={"fused": worthless})


@pytest.fixture
def passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Retrainer:
    """A retrainer without a model whose candidates are made up."""

    def publish_candidate(_: FakePipeline, store: ModelStore, parent: str | None, key: SigningKey | None) -> str:
        return publish(store, bundle_files(1), description(parent), NOON.replace(hour=20), key)

    monkeypatch.setattr(FakePipeline, "trained", [], raising=False)
    monkeypatch.setattr(retrain, "Pipeline", FakePipeline)
    monkeypatch.setattr(retrain, "publish_run", publish_candidate)
    source = write_cycle(tmp_path / "cycle.txt")
    store = ModelStore(tmp_path / "models")
    config = load_config("demo", [])
    return Retrainer(str(source), config, store, tmp_path / "models" / "events", tmp_path / "work", SilentProgress())


def last_report(passes: Retrainer) -> dict[str, Any]:
    newest = max((passes.work / "reports").glob("*.json"))
    found: dict[str, Any] = json.loads(newest.read_text())
    return found


@pytest.mark.parametrize(("better_by", "is_promoted"), [(0.01, True), (0.0, True), (-0.01, False)])
def test_a_pass_promotes_what_is_not_worse_and_keeps_the_rest_out(
    passes: Retrainer, better_by: float, is_promoted: bool
) -> None:
    incumbent = incumbent_in(passes.work.parent / "models", ids="i")
    data = open_or_prepare(passes.source, passes.work / "base", passes.config.data, lambda _: None)
    before = incumbent_metrics(incumbent, data)
    assert before[GATE_METRIC] > 0
    FakePipeline.fused = {GATE_METRIC: before[GATE_METRIC] + better_by}

    report = passes.run_once()
    assert report.promoted is is_promoted
    assert report.candidate == FakePipeline.fused
    assert report.incumbent == pytest.approx(before)
    assert last_report(passes) == report.as_dict()
    assert passes.store.live() == report.version
    if is_promoted:
        assert report.version != incumbent.version
        assert passes.store.bundle().manifest.parent == incumbent.version
        assert passes.store.previous() == incumbent.version
    else:
        assert passes.store.versions() == [incumbent.version]


def test_the_first_candidate_is_promoted_whatever_it_is_worth(passes: Retrainer) -> None:
    FakePipeline.fused = {GATE_METRIC: 0.0}
    report = passes.run_once()
    assert (report.promoted, report.incumbent) == (True, {})
    assert passes.store.live() == report.version is not None
    assert passes.store.bundle().manifest.parent is None
    assert len(FakePipeline.trained) == 1


def test_only_force_trains_again_on_the_data_of_the_incumbent(passes: Retrainer) -> None:
    data = open_or_prepare(passes.source, passes.work / "base", passes.config.data, lambda _: None)
    incumbent = incumbent_in(passes.work.parent / "models", data=data.fingerprint, ids="i")
    FakePipeline.fused = {GATE_METRIC: 1.0}
    report = passes.run_once()
    assert (report.promoted, report.reason) == (False, "no new interactions or items")
    assert (report.version, report.candidate, report.incumbent) == (incumbent.version, {}, {})
    assert FakePipeline.trained == []
    assert last_report(passes) == report.as_dict()

    forced = passes.run_once(force=True)
    assert forced.promoted
    assert forced.version != incumbent.version
    [folder] = FakePipeline.trained
    assert folder.parent == passes.work / "runs"
    assert folder.name.startswith(data.fingerprint[:12])


def test_a_candidate_has_the_data_that_it_is_trained_on_beside_it(passes: Retrainer) -> None:
    FakePipeline.fused = {GATE_METRIC: 0.5}
    passes.run_once()
    [folder] = FakePipeline.trained
    data = open_or_prepare(str(folder / "data"), passes.work / "other", passes.config.data, lambda _: None)
    base = open_or_prepare(passes.source, passes.work / "base", passes.config.data, lambda _: None)
    assert data.fingerprint == base.fingerprint
