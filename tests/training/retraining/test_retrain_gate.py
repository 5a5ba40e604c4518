"""The gate: what candidate and incumbent are judged on, and which is live afterwards. Nothing is trained here."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
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
from model_store.bundle.manifest import DataSummary
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SigningKey
from model_store.catalogue.catalogue import Catalogue
from model_store.errors import CatalogueFull, ItemRefused
from model_store.network.recommender import Recommender
from model_store.replication.item_payload import NewItem
from model_store.search.fusion import GENERATIVE_ALONE, Fusion
from tests.support.bundles import NOON, bundle_files, description, small_catalogue
from tests.support.evaluations import evaluation
from tests.support.random_worlds import random_recommender, random_vectors, small_config
from tests.support.tiny import write_cycle
from training.config import load_config
from training.data.dataset import Dataset, ItemInfo, Split
from training.data.prepare import open_or_prepare
from training.data.storage import load_dataset
from training.evaluation.full_ranking import search_split
from training.evaluation.metrics import Ranks
from training.loop.progress import PlainProgress, SilentProgress
from training.retraining import retrain
from training.retraining.drain_events import SCHEMA
from training.retraining.gate import GATE_METRIC, Gate
from training.retraining.retrain import Retrainer, RetrainReport, incumbent_metrics, load_recommender
from training.retraining.schedule import attempt
from training.run_evaluation import Evaluation
from training.run_folder import RunFolder

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


class FakePipeline:
    """Pipeline that trains nothing and has the metrics of the test."""

    fused: float
    popularity: float
    trained: list[Path]
    meanwhile: list[Callable[[], object]]
    """What others do while it trains."""

    def __init__(self, run: RunFolder, _: object) -> None:
        self.run = run
        self.trained.append(run.path)
        for act in self.meanwhile:
            act()

    def evaluate(self) -> Evaluation:
        return evaluation(self.fused, self.popularity)


@pytest.fixture
def passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Retrainer:
    """A retrainer without a model whose candidates are made up."""

    numbers = itertools.count()

    def publish_candidate(run: FakePipeline, store: ModelStore, parent: str | None, key: SigningKey | None) -> str:
        data = load_dataset(run.run.path / "data")
        update = {"data": DataSummary(name="all", fingerprint=data.fingerprint), "training": run.run.config.fingerprint}
        about = description(parent).model_copy(update=update)
        number = next(numbers)
        return publish(store, bundle_files(number), about, NOON.replace(hour=20, minute=number), key)

    for name, start in (("trained", []), ("meanwhile", []), ("popularity", 0.0), ("fused", 0.5)):
        monkeypatch.setattr(FakePipeline, name, start, raising=False)
    monkeypatch.setattr(retrain, "Pipeline", FakePipeline)
    monkeypatch.setattr(retrain, "export_bundle", lambda _: None)
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
    FakePipeline.fused = before[GATE_METRIC] + better_by

    report = passes.run_once()
    assert report.promoted is is_promoted
    assert report.candidate == {GATE_METRIC: FakePipeline.fused}
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
    FakePipeline.fused = 0.0
    report = passes.run_once()
    assert (report.promoted, report.incumbent) == (True, {})
    assert passes.store.live() == report.version is not None
    assert passes.store.bundle().manifest.parent is None
    assert len(FakePipeline.trained) == 1


def test_only_force_trains_again_on_the_data_of_the_incumbent(passes: Retrainer) -> None:
    data = open_or_prepare(passes.source, passes.work / "base", passes.config.data, lambda _: None)
    incumbent = incumbent_in(passes.work.parent / "models", data=data.fingerprint, ids="i")
    report = passes.run_once()
    said = f"no new interactions, items or settings since {incumbent.version} was trained"
    assert (report.promoted, report.reason) == (False, said)
    assert (report.version, report.candidate, report.incumbent) == (incumbent.version, {}, {})
    assert FakePipeline.trained == []
    assert last_report(passes) == report.as_dict()

    passes.gate = Gate(max_gain=0)
    forced = passes.run_once(force=True)
    assert forced.promoted
    assert forced.version != incumbent.version
    [folder] = FakePipeline.trained
    assert folder.parent == passes.work / "runs"
    assert folder.name.startswith(data.fingerprint[:12])


def test_a_candidate_has_the_data_that_it_is_trained_on_beside_it(passes: Retrainer) -> None:
    passes.run_once()
    [folder] = FakePipeline.trained
    data = open_or_prepare(str(folder / "data"), passes.work / "other", passes.config.data, lambda _: None)
    base = open_or_prepare(passes.source, passes.work / "base", passes.config.data, lambda _: None)
    assert data.fingerprint == base.fingerprint


def record(passes: Retrainer, item: str, count: int = 5) -> None:
    """Let users of the base data come back for an item, all at the same time."""
    folder = passes.work / "events"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(f"{item}-{user}", f"u{user}", item, "view", 1_800_000_000) for user in range(count)]
    pl.DataFrame(rows, schema=SCHEMA, orient="row").write_parquet(folder / f"events-{item}.parquet")


@pytest.fixture
def two_passes(passes: Retrainer) -> tuple[str, str]:
    """Versions of two passes, with events in between."""
    first = passes.run_once().version
    record(passes, "i3")
    FakePipeline.fused = 0.6
    second = judged_against(passes, 0.5).version
    assert first != second
    assert first
    assert second
    return first, second


def judged_against(passes: Retrainer, incumbent: float) -> RetrainReport:
    """Run a pass in which the incumbent has this value; bundles of the first candidates have no recommender."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrain, "incumbent_metrics", lambda *_: {GATE_METRIC: incumbent})
        return passes.run_once()


def test_a_rollback_holds_until_there_is_something_new(passes: Retrainer, two_passes: tuple[str, str]) -> None:
    first, second = two_passes
    passes.store.rollback("clicks fell")
    trained = list(FakePipeline.trained)
    for _ in range(2):
        report = passes.run_once()
        assert (report.promoted, report.version, report.candidate) == (False, first, {})
        assert report.reason.startswith(f"not trained: {second} came from the same data and settings and was rolled")
        assert "UTC (clicks fell); " in report.reason
        assert f"`etegrec-models promote {second}` overrides" in report.reason
    assert not passes.run_once(force=True).promoted
    assert FakePipeline.trained == trained
    assert passes.store.versions() == [first, second]

    passes.store.gc(keep=0)  # the version is gone, the decision is not
    assert passes.store.versions() == [first]
    assert not passes.run_once().promoted

    record(passes, "i7")
    report = judged_against(passes, 0.5)
    assert report.promoted
    assert list(passes.store.withheld()) == [second], "promotions by retraining override nothing"


def test_new_settings_are_judged_again_after_a_rollback(passes: Retrainer, two_passes: tuple[str, str]) -> None:
    passes.store.rollback()
    passes.config = passes.config.model_copy(update={"threads": 1})
    assert not passes.run_once().promoted, "threads make no other model"
    passes.config = passes.config.model_copy(update={"seed": 7})
    assert judged_against(passes, 0.5).promoted


def test_new_settings_are_trained_although_nothing_else_is_new(passes: Retrainer, two_passes: tuple[str, str]) -> None:
    passes.config = passes.config.model_copy(update={"seed": 7})
    report = judged_against(passes, 0.5)
    assert report.promoted
    assert passes.store.bundle().manifest.training == passes.config.fingerprint


def test_of_versions_of_older_releases_only_the_data_count(passes: Retrainer) -> None:
    data = open_or_prepare(passes.source, passes.work / "base", passes.config.data, lambda _: None)
    kept = incumbent_in(passes.work.parent / "models", ids="i")
    old = incumbent_in(passes.work.parent / "models", data=data.fingerprint, ids="j")
    assert old.manifest.training is None
    assert passes.store.rollback() == kept.version
    report = passes.run_once()
    assert report.reason.startswith(f"not trained: {old.version} came from the same data")
    assert FakePipeline.trained == []


def test_a_promotion_by_a_person_overrides_the_rollback(passes: Retrainer, two_passes: tuple[str, str]) -> None:
    _, second = two_passes
    passes.store.rollback()
    passes.store.promote(second)
    assert passes.run_once().reason.startswith("no new interactions, items or settings")
    assert passes.store.live() == second


def test_a_switch_back_by_promotion_holds_as_well(passes: Retrainer, two_passes: tuple[str, str]) -> None:
    first, second = two_passes
    passes.store.promote(first)
    trained = len(FakePipeline.trained)
    report = passes.run_once()
    assert report.reason == (
        f"not trained: {second} came from the same data and settings and was live before {first}; "
        f"`etegrec-models promote {second}` brings it back"
    )
    assert len(FakePipeline.trained) == trained
    passes.store.gc(keep=0, pinned=[])
    passes.store.root.child(second).remove_all()
    assert judged_against(passes, 0.5).promoted, "it cannot be brought back any more"


def test_a_rollback_during_a_pass_holds(passes: Retrainer, two_passes: tuple[str, str]) -> None:
    first, second = two_passes
    record(passes, "i7")
    FakePipeline.meanwhile = [lambda: passes.store.rollback("clicks fell")]
    report = judged_against(passes, 0.5)
    assert (report.promoted, report.version) == (False, first)
    assert report.reason == (
        f"not promoted: the live version changed from {second} to {first} during the pass; the next pass compares again"
    )
    assert passes.store.versions() == [first, second], "nothing is published"
    FakePipeline.meanwhile = []
    assert judged_against(passes, 0.5).promoted, "new data: the next pass compares with what is live now"


def test_the_same_model_that_is_rolled_back_during_a_pass_is_not_promoted(
    passes: Retrainer, two_passes: tuple[str, str]
) -> None:
    first, second = two_passes
    passes.store.root.write("LIVE", f"{first}\n".encode())  # nobody remembers that the second one was live

    def try_and_reject() -> None:
        passes.store.promote(second)
        passes.store.rollback("clicks fell")

    FakePipeline.meanwhile = [try_and_reject]
    report = judged_against(passes, 0.5)
    assert (report.promoted, report.version) == (False, first)
    assert report.reason.startswith(f"not promoted: {second} is the same and was rolled back")


def test_an_implausible_gain_is_held_back_for_a_person(passes: Retrainer) -> None:
    first = passes.run_once().version
    record(passes, "i3")
    FakePipeline.fused = 0.749
    report = judged_against(passes, 0.025)
    held = report.held_back
    assert held
    assert (report.promoted, report.version) == (False, first)
    assert report.reason.startswith("held back: implausible gain, ndcg@10 0.7490 against 0.0250")
    assert f"`etegrec-models promote {held}` makes it live" in report.reason
    assert passes.store.bundle(held).manifest.parent == first
    assert passes.store.withheld()[held].state == "held back"
    assert last_report(passes) == report.as_dict()

    trained = len(FakePipeline.trained)
    again = judged_against(passes, 0.025)
    assert again.reason.startswith(f"not trained: {held} came from the same data and settings and was held back on")
    assert "implausible gain, ndcg@10 0.7490 against 0.0250" in again.reason
    assert len(FakePipeline.trained) == trained
    assert passes.store.versions() == [first, held]

    passes.store.promote(held)  # by a person who looked at it
    assert passes.store.rollback() == first


def test_the_schedule_says_why_it_rests(
    passes: Retrainer, two_passes: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    passes.store.rollback("clicks fell")
    passes.progress = PlainProgress(sys.stderr)
    assert attempt(passes)
    said = capsys.readouterr().err
    assert f"not trained: {two_passes[1]} came from the same data" in said
    assert "(clicks fell)" in said


def test_a_model_like_popularity_is_said_in_report_and_log(
    passes: Retrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    FakePipeline.popularity = 0.9
    passes.progress = PlainProgress(sys.stderr)
    assert attempt(passes)
    report = last_report(passes)
    assert report["promoted"], "the first model is promoted all the same"
    assert report["warnings"][0].startswith("This model is not better than recommending the most popular items")
    assert report["warnings"][0] in capsys.readouterr().err
