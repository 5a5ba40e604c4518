"""The pass and its gate: what is published, which version is live afterwards, and what is remembered.

Nothing is trained here.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model_store.bundle.bundle import Bundle
from model_store.bundle.manifest import DataSummary
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SigningKey
from tests.support.bundles import NOON, bundle_files, description, publish_small
from tests.support.comparisons import comparison
from tests.support.evaluations import evaluation
from tests.support.tiny import write_cycle
from training.config import WarmConfig, load_config
from training.data.dataset import Dataset
from training.data.prepare import open_or_prepare
from training.data.storage import load_dataset
from training.loop.progress import PlainProgress, SilentProgress
from training.retraining import retrain
from training.retraining.drift import Drift, Shift
from training.retraining.figures import Comparison
from training.retraining.gate import GATE_METRIC
from training.retraining.pass_report import RetrainReport
from training.retraining.replay import Replay
from training.retraining.retrain import Retrainer
from training.retraining.schedule import attempt
from training.retraining.warm_start import Start
from training.run_evaluation import Evaluation
from training.run_folder import RunFolder


class FakePipeline:
    """Pipeline that trains nothing and has the metrics of the test."""

    fused: float
    live: float
    """NDCG@10 of the live version."""
    popularity: float
    drift: Drift | None
    trained: list[Path]
    meanwhile: list[Callable[[], object]]
    """What others do while it trains."""

    def __init__(self, run: RunFolder, _: object) -> None:
        self.run = run
        self.trained.append(run.path)
        for act in self.meanwhile:
            act()

    @property
    def dataset(self) -> Dataset:
        return load_dataset(self.run.path / "data")

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

    def compare(_: FakePipeline, incumbent: Bundle | None, __: Dataset) -> tuple[Comparison, Drift | None]:
        return comparison(FakePipeline.fused, FakePipeline.live if incumbent else None), FakePipeline.drift

    for name, start in (
        ("trained", []),
        ("meanwhile", []),
        ("popularity", 0.0),
        ("fused", 0.5),
        ("live", 0.5),
        ("drift", None),
    ):
        monkeypatch.setattr(FakePipeline, name, start, raising=False)
    monkeypatch.setattr(retrain, "Pipeline", FakePipeline)
    monkeypatch.setattr(retrain, "export_bundle", lambda *_: None)
    monkeypatch.setattr(retrain, "compare", compare)
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
    incumbent = publish_small(passes.store)
    passes.store.promote(incumbent)
    FakePipeline.fused = 0.4 + better_by

    report = judged_against(passes, 0.4)
    assert report.promoted is is_promoted
    assert report.candidate == {GATE_METRIC: FakePipeline.fused}
    assert report.incumbent[GATE_METRIC] == 0.4
    assert report.gate["verdict"] == ("promote" if is_promoted else "drop")
    assert last_report(passes) == report.as_dict()
    assert passes.store.live() == report.version
    if is_promoted:
        assert report.version != incumbent
        assert passes.store.bundle().manifest.parent == incumbent
        assert passes.store.previous() == incumbent
    else:
        assert passes.store.versions() == [incumbent]


def test_a_candidate_that_answers_its_goldens_otherwise_is_never_live(
    passes: Retrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = comparison(0.5, None, goldens=Replay(24, "golden 3 differs"))
    monkeypatch.setattr(retrain, "compare", lambda *_: (broken, None))
    report = passes.run_once()
    assert report.reason == "not published: the exported search does not answer its goldens, golden 3 differs"
    assert (report.promoted, passes.store.live(), passes.store.versions()) == (False, None, [])


def test_the_limits_of_the_configuration_hold_candidates_back(
    passes: Retrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes.store.promote(publish_small(passes.store))
    monkeypatch.setattr(retrain, "compare", lambda *_: (comparison(0.5, 0.5, codes_moved=0.4), None))
    passes.config = load_config("demo", ["gate.max_codes_moved=0.3"])
    report = passes.run_once()
    assert report.held_back
    assert report.reason.startswith("held back: known items with other codes: 40.0%, at most 30%; `etegrec-models show")
    assert passes.store.withheld()[report.held_back].reason == "known items with other codes: 40.0%, at most 30%"


def test_the_page_and_the_figures_stand_beside_the_report_of_the_run(passes: Retrainer) -> None:
    report = passes.run_once()
    [folder] = FakePipeline.trained
    assert report.page == str(folder / "report" / "gate.html")
    for place in ("report", "bundle/report"):
        assert json.loads((folder / place / "gate.json").read_text()) == report.gate | {"drift": {}}
        assert "No version is live." in (folder / place / "gate.html").read_text()


def test_the_first_candidate_is_promoted_whatever_it_is_worth(passes: Retrainer) -> None:
    FakePipeline.fused = 0.0
    report = passes.run_once()
    assert (report.promoted, report.incumbent) == (True, {})
    assert passes.store.live() == report.version is not None
    assert passes.store.bundle().manifest.parent is None
    assert len(FakePipeline.trained) == 1


def publish_with_data(passes: Retrainer, fingerprint: str, seed: int = 0) -> Bundle:
    """Publish and promote a version of an older release, which does not say its settings."""
    about = description()
    about = about.model_copy(update={"data": about.data.model_copy(update={"fingerprint": fingerprint})})
    passes.store.promote(publish(passes.store, bundle_files(seed), about, NOON.replace(minute=seed)))
    return passes.store.bundle()


def test_only_force_trains_again_on_the_data_of_the_incumbent(passes: Retrainer) -> None:
    data = open_or_prepare(passes.source, passes.work / "base", passes.config.data, lambda _: None)
    incumbent = publish_with_data(passes, data.fingerprint)
    report = passes.run_once()
    said = f"no new interactions, items or settings since {incumbent.version} was trained"
    assert (report.promoted, report.reason) == (False, said)
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
    passes.run_once()
    [folder] = FakePipeline.trained
    data = open_or_prepare(str(folder / "data"), passes.work / "other", passes.config.data, lambda _: None)
    base = open_or_prepare(passes.source, passes.work / "base", passes.config.data, lambda _: None)
    assert data.fingerprint == base.fingerprint


EVENT_COLUMNS = ["event_id", "user_id", "item_id", "type", "timestamp"]
"""Columns that every drained event has a value in."""


def record(passes: Retrainer, item: str, count: int = 5) -> None:
    """Let users of the base data come back for an item, all at the same time."""
    folder = passes.work / "events"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(f"{item}-{user}", f"u{user}", item, "view", 1_800_000_000) for user in range(count)]
    pl.DataFrame(rows, schema=EVENT_COLUMNS, orient="row").write_parquet(folder / f"events-{item}.parquet")


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
    """Run a pass in which the live version has this NDCG@10."""
    FakePipeline.live = incumbent
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
    kept = publish_with_data(passes, "f" * 64)
    old = publish_with_data(passes, data.fingerprint, seed=1)
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


def test_a_shift_is_said_in_report_page_and_metrics(passes: Retrainer) -> None:
    first = passes.run_once().version
    record(passes, "i3")
    FakePipeline.drift = Drift(5, {"items": Shift(0.31, 0.1, True, "new"), "codes": Shift(0.01, 0.1, False, "old")})
    report = passes.run_once()
    assert report.promoted, "a shift is a reason to go on with the candidate"
    said = f"The 5 interactions since {first} was trained are unlike those before: items (PSI 0.31, limit 0.10: new)."
    assert report.warnings[-1] == said
    assert report.drift["shifts"]["items"] == {"psi": 0.31, "limit": 0.1, "is_found": True, "note": "new"}
    assert report.page
    assert '<span class="best">shifted</span>' in Path(report.page).read_text()

    metrics = (passes.work / "metrics.prom").read_text().splitlines()
    assert 'etegrec_retrain_drift_psi{of="items"} 0.31' in metrics
    assert 'etegrec_retrain_drift_limit{of="codes"} 0.1' in metrics
    assert 'etegrec_retrain_ndcg{model="live"} 0.5' in metrics
    assert 'etegrec_retrain_limits{result="pass"} 12.0' in metrics
    assert "etegrec_retrain_promoted 1.0" in metrics

    passes.run_once()
    assert "etegrec_retrain_promoted 0.0" in (passes.work / "metrics.prom").read_text(), "nothing was new"
    assert "drift_psi{" not in (passes.work / "metrics.prom").read_text()


def test_figures_that_no_json_can_hold_end_the_pass_before_anything_is_published(passes: Retrainer) -> None:
    """Programs of others read ``gate.json``; one in which NaN stands is refused by most of them."""
    FakePipeline.drift = Drift(5, {"items": Shift(float("nan"), 0.1, False, "nothing")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        passes.run_once()
    assert passes.store.versions() == []


class FakeWarmPipeline(FakePipeline):
    """The same, going on from a version."""

    def __init__(self, run: RunFolder, progress: object, start: Start, _: WarmConfig) -> None:
        super().__init__(run, progress)
        self.start = start


@pytest.fixture
def warm_passes(passes: Retrainer, monkeypatch: pytest.MonkeyPatch) -> tuple[Retrainer, str]:
    """A retrainer that is to go on from its first version, which fits."""
    first = passes.run_once().version
    assert first
    record(passes, "i3")
    FakePipeline.trained.clear()
    passes.config = load_config("demo", ["warm.start=true"])

    def found(live: Bundle, runs: Path, _: object, __: object) -> Start:
        assert runs == passes.work / "runs"
        return Start(live.version, RunFolder(runs, passes.config), np.empty((0, 3), np.int16), np.empty(0, np.int64))

    monkeypatch.setattr(retrain, "find_start", found)
    monkeypatch.setattr(retrain, "WarmPipeline", FakeWarmPipeline)
    return passes, first


def test_a_warm_pass_says_where_it_began(warm_passes: tuple[Retrainer, str]) -> None:
    passes, first = warm_passes
    report = passes.run_once()
    assert (report.promoted, report.started_from) == (True, first)
    [folder] = FakePipeline.trained
    assert folder.name.endswith(f"-from-{first}")


def test_a_warm_candidate_that_is_dropped_gets_a_full_training(
    warm_passes: tuple[Retrainer, str], capsys: pytest.CaptureFixture[str]
) -> None:
    passes, first = warm_passes
    passes.progress = PlainProgress(sys.stderr)
    FakePipeline.fused = 0.4
    report = judged_against(passes, 0.5)
    assert (report.promoted, report.started_from) == (False, None)
    assert [folder.name.endswith(f"-from-{first}") for folder in FakePipeline.trained] == [True, False]
    said = capsys.readouterr().err
    assert f"training goes on from {first}" in said
    assert "kept the incumbent: the candidate is worse" in said
    assert "; training from scratch" in said


def test_a_live_version_that_does_not_fit_is_said_and_training_is_full(
    warm_passes: tuple[Retrainer, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passes, first = warm_passes
    passes.progress = PlainProgress(sys.stderr)
    monkeypatch.setattr(retrain, "find_start", lambda *_: "its run is gone")
    report = passes.run_once()
    assert (report.promoted, report.started_from) == (True, None)
    assert "training from scratch: its run is gone" in capsys.readouterr().err
    [folder] = FakePipeline.trained
    assert first not in folder.name
