"""Retraining: events in, a candidate out, and never a worse model live."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model_store.bundle.registry import ModelStore
from model_store.cli import app as models_app
from model_store.console import run
from model_store.errors import StoreUnavailable
from model_store.events.event import Event
from model_store.new_items.item_encoder import CONTENT_GRAPH
from service.schemas.items import ItemBody, delete_change
from service.store import open_store
from service.store.change_stream import RawChange
from tests.support.bundles import publish_small
from tests.support.encodable_bundles import encodable_bundle
from tests.support.redis_server import RedisServer
from tests.support.service_harness import serving
from tests.support.tiny import ITEMS, OVERRIDES, set_options, write_cycle
from tests.support.traces import CALLER, CALLER_SPAN, KeptTraces, attributes
from training.cli import app
from training.config import GateConfig, load_config
from training.data.dataset import Dataset, ItemInfo
from training.data.storage import load_dataset
from training.export.bundle import export_bundle
from training.export.traced_graphs import TracedGraphs
from training.loop.progress import SilentProgress
from training.pipeline import Pipeline
from training.retraining import retrain
from training.retraining.figures import compare_models, model_metrics
from training.retraining.gate import Gate
from training.retraining.pass_report import RetrainReport
from training.retraining.retrain import Retrainer
from training.retraining.schedule import parse_cron
from training.retraining.served_model import ServedModel, exported_model, published_model, served_catalogue


def events(first: int, count: int, users: str = "u") -> list[Event]:
    """Further steps along the cycle, after everything in the file (which has no times)."""
    return [
        Event(
            event_id=f"{users}-{number}",
            user_id=f"{users}{number % 20}",
            item_id=f"i{(first + number // 20) % ITEMS}",
            timestamp=1_700_000_000 + number,
        )
        for number in range(count)
    ]


def record(redis_url: str | None, folder: Path, batch: list[Event], traceparent: str = "") -> None:
    """Record events as the service does."""

    async def go() -> None:
        store = open_store(redis_url, folder)
        await store.record(batch, traceparent)
        await store.close()

    asyncio.run(go())


def change_items(folder: Path, changes: list[RawChange]) -> None:
    """Change items as the service does."""

    async def go() -> None:
        store = open_store(None, folder)
        await store.catalogue.append(changes)
        await store.close()

    asyncio.run(go())


def retrainer(folder: Path, source: str | Path) -> Retrainer:
    data = folder / "cycle.txt"
    if not data.exists():
        write_cycle(data)
    config = load_config("demo", OVERRIDES)
    return Retrainer(str(data), config, ModelStore(folder / "models"), source, folder / "work", SilentProgress())


@pytest.fixture(scope="module")
def first_pass(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RetrainReport]:
    """A folder in which the first pass found neither events nor a model."""
    folder = tmp_path_factory.mktemp("retrain")
    return folder, retrainer(folder, folder / "models" / "events").run_once()


@pytest.fixture
def after_first(first_pass: tuple[Path, RetrainReport], tmp_path: Path) -> Path:
    """A copy of that folder for one test. Run folders know their data by path, so the copy trains anew."""
    folder = tmp_path / "copy"
    shutil.copytree(first_pass[0], folder)
    return folder


def test_the_first_model_is_promoted(first_pass: tuple[Path, RetrainReport]) -> None:
    folder, report = first_pass
    assert report.promoted
    assert report.incumbent == {}
    assert ModelStore(folder / "models").live() == report.version


def test_events_then_a_candidate_then_rest(after_first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Path] = []  # tests share what they trace in another way, so it is only seen that a folder is handed over

    def export(pipeline: Pipeline, graphs: TracedGraphs) -> None:
        kept.append(graphs.folder)
        export_bundle(pipeline, graphs)

    monkeypatch.setattr(retrain, "export_bundle", export)
    store, log = ModelStore(after_first / "models"), after_first / "models" / "events"
    first = store.live()
    record(None, log, [*events(3, 60), *events(0, 3, users="new")])
    second = retrainer(after_first, log).run_once()
    # The file has no times and ends with i3, i4 for one of the users, so two events may be the same rows once more.
    assert (second.events, second.rejected) == (58, {"duplicate": 2, "below the filters": 3})
    assert second.incumbent["ndcg@10"] > 0
    assert second.promoted == (second.gate["verdict"] == "promote")
    assert not (second.promoted and second.candidate["ndcg@10"] < 0.98 * second.incumbent["ndcg@10"])
    assert store.live() == second.version
    if second.promoted:
        manifest = store.bundle().manifest
        assert manifest.parent == first
        assert manifest.data.counts["users"] == 80
        assert manifest.data.counts["interactions_set_aside"] == 3

    assert kept == [after_first / "work" / "graphs"]

    third = retrainer(after_first, log).run_once()
    assert third.events == 58  # drained once, kept for good
    assert third.version == second.version
    reports = [json.loads(path.read_text()) for path in sorted((after_first / "work" / "reports").glob("*.json"))]
    assert reports[-1] == third.as_dict()
    assert second.as_dict() in reports


def test_a_pass_links_to_the_requests_that_brought_its_events(after_first: Path) -> None:
    log = after_first / "models" / "events"
    record(None, log, events(0, 2, users="new"), CALLER)
    record(None, log, events(0, 1, users="untraced"))
    traces = KeptTraces()
    traced = retrainer(after_first, log)
    traced.tracing = traces.tracing
    report = traced.run_once()

    span = traces.span("retrain")
    assert [link.context.span_id for link in span.links] == [CALLER_SPAN]
    assert span.parent is None
    assert attributes(span) == {
        "etegrec.promoted": report.promoted,
        "etegrec.model_version": report.version,
        "etegrec.events": report.events,
    }
    assert traces.parent_of("drain") == "retrain"


def test_the_gate_takes_over_what_the_evaluation_of_the_same_data_found(
    after_first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[tuple[Pipeline, Dataset]] = []

    def exported(pipeline: Pipeline, data: Dataset) -> ServedModel:
        judged.append((pipeline, data))
        return exported_model(pipeline, data)

    monkeypatch.setattr(retrain, "exported_model", exported)
    log = after_first / "models" / "events"
    record(None, log, events(3, 40))
    report = retrainer(after_first, log).run_once()
    [(pipeline, data)] = judged

    model = exported_model(pipeline, data)
    assert model.answers is not None
    taken, searched = (
        compare_models(each, None, data, pipeline.config.seed).candidate
        for each in (model, replace(model, answers=None))
    )
    np.testing.assert_array_equal(taken.gains, searched.gains)
    assert replace(taken, gains=searched.gains, search_ms=searched.search_ms) == searched
    assert taken.metrics == report.candidate

    other = load_dataset(after_first / "work" / "base")
    assert exported_model(pipeline, other).answers is None, "of other data nothing is known"


def test_a_worse_candidate_is_not_promoted(after_first: Path) -> None:
    store, log = ModelStore(after_first / "models"), after_first / "models" / "events"
    good = store.live()
    record(None, log, events(5, 40))
    lazy = retrainer(after_first, log)
    hopeless = ["joint.epochs=1", "finetune.epochs=0", "joint.recommender_rate=1e-9"]
    lazy.config = load_config("demo", [*OVERRIDES, *hopeless])
    report = lazy.run_once()
    assert not report.promoted
    assert "kept the incumbent" in report.reason
    assert report.candidate["ndcg@10"] < report.incumbent["ndcg@10"]
    assert store.live() == good
    assert store.versions() == [good]


def test_the_incumbent_is_judged_as_its_own_evaluation_did(first_pass: tuple[Path, RetrainReport]) -> None:
    folder, report = first_pass
    data = load_dataset(folder / "work" / "base")
    live = published_model(ModelStore(folder / "models").bundle(), data)
    assert model_metrics(live, data) == pytest.approx(report.candidate)


def test_the_figures_of_a_real_model_stand_in_its_bundle(first_pass: tuple[Path, RetrainReport]) -> None:
    folder, report = first_pass
    bundle = ModelStore(folder / "models").bundle()
    assert json.loads(bundle.read("report/gate.json")) == report.gate | {"drift": {}}
    assert b"The live version" not in bundle.read("report/gate.html")

    values = {check["name"]: check["value"] for check in report.gate["checks"]}
    assert values["goldens answered as in training"] == f"all {len(bundle.goldens())}"
    assert float(values["time of a search"].removesuffix(" ms")) > 0
    assert float(values["calibration error"]) < 0.5
    assert int(values["bytes"].replace(",", "")) > len(bundle.read("search.onnx"))


def test_a_model_beside_itself_keeps_every_limit(first_pass: tuple[Path, RetrainReport]) -> None:
    folder, _ = first_pass
    data = load_dataset(folder / "work" / "base")
    live = published_model(ModelStore(folder / "models").bundle(), data)
    compared = compare_models(live, live, data, seed=0)
    assert compared.codes_moved == 0
    assert compared.goldens.problem == ""
    both = [replace(each, search_ms=0.0) for each in (compared.candidate, compared.incumbent) if each]
    np.testing.assert_array_equal(both[0].gains, both[1].gains)
    assert replace(both[0], gains=both[1].gains) == both[1]
    assert Gate(GateConfig(max_codes_moved=0.0, max_search_time=50.0)).judge(compared).verdict == "promote"


def test_what_a_person_rolled_back_is_neither_trained_nor_promoted_again(after_first: Path) -> None:
    """From the command that rolls back to the command that retrains."""
    store = ModelStore(after_first / "models")
    rejected = store.live()
    assert rejected
    before = publish_small(store)
    store.promote(before)
    store.promote(rejected)
    rollback = ["rollback", "--store", store.url, "--reason", "clicks fell"]
    assert run(models_app, "etegrec-models", rollback) == 0

    report = retrainer(after_first, after_first / "models" / "events").run_once()
    assert (report.promoted, report.version, report.candidate) == (False, before, {})
    assert report.reason.startswith(f"not trained: {rejected} came from the same data and settings and was rolled back")
    assert "(clicks fell)" in report.reason
    assert sorted(store.versions()) == sorted([before, rejected])


def test_items_that_came_live_are_trained_with_what_was_said_of_them(tmp_path: Path) -> None:
    """From PUT and events to a promoted bundle, and back into a service that applies the changes once more."""
    write_cycle(tmp_path / "cycle.txt")
    log = tmp_path / "models" / "events"
    late = ItemBody(title="Late", categories=["new"], attributes={"year": 2026})
    rare, renamed = ItemBody(title="Rare"), ItemBody(title="Renamed", attributes="as text")
    changes = [body.change(name) for name, body in (("late", late), ("rare", rare), ("i3", renamed), ("gone", late))]
    change_items(log, [*changes, delete_change("gone")])
    seen = [Event(event_id=f"l{n}", user_id=f"u{n}", item_id="late", timestamp=1_600_000_000) for n in range(20)]
    unseen = [event.model_copy(update={"event_id": f"r{n}", "item_id": "rare"}) for n, event in enumerate(seen[:2])]
    record(None, log, [*seen, *unseen, *events(3, 60)])
    report = retrainer(tmp_path, log).run_once()
    assert (report.promoted, report.new_items, report.changed_items) == (True, 1, 1)
    assert (report.events, report.rejected) == (80, {"below the filters": 2})

    bundle = ModelStore(tmp_path / "models").bundle()
    catalogue = bundle.catalogue()
    row, known = catalogue.row("late"), catalogue.row("i3")
    assert row is not None
    assert known is not None
    assert (catalogue.titles[row], catalogue.categories[row]) == ("Late", ("new",))
    assert catalogue.attributes[row] == {"year": 2026}
    assert (catalogue.titles[known], catalogue.attributes[known]) == ("Renamed", {"text": "as text"})
    assert catalogue.popularity[row] == 20
    assert CONTENT_GRAPH in bundle
    assert retrainer(tmp_path, log).run_once().reason.startswith("no new interactions, items or settings")

    async def served() -> list[tuple[bool, str]]:
        async with serving(tmp_path / "models", engine="onnx") as (client, _):
            shown = [(await client.get(f"/items/{item_id}")).json() for item_id in ("late", "rare", "i3")]
            answer = (await client.post("/recommend", json={"history": ["i1", "late"], "k": 5})).json()
            assert (answer["served_by"], answer["unknown_items"]) == ("model", [])
            return [(item["is_new"], item["title"]) for item in shown]

    assert asyncio.run(served()) == [(False, "Late"), (True, "Rare"), (False, "Renamed")]


def test_the_incumbent_is_judged_with_the_items_that_came_live(tmp_path: Path) -> None:
    bundle = encodable_bundle(tmp_path)
    trained = bundle.catalogue()
    rows = [("u", item_id, at) for at, item_id in enumerate([*trained.item_ids, "late"])]
    frame = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    data = Dataset.from_frame("all", frame, {"late": ItemInfo("Title", ("category-1",), {"year": 1995})})
    catalogue = served_catalogue(bundle, data)
    assert (len(catalogue), catalogue.trained, catalogue.row("late")) == (len(trained) + 1, len(trained), len(trained))
    catalogue.check_integrity()
    bare = encodable_bundle(tmp_path / "bare", has_content=False)
    assert served_catalogue(bare, data).row("late") is None


def test_without_new_interactions_nothing_is_trained(after_first: Path) -> None:
    log = after_first / "models" / "events"
    record(None, log, [Event(event_id="x", user_id="u1", item_id="never-seen", timestamp=5)])
    report = retrainer(after_first, log).run_once()
    assert (report.events, report.rejected, report.promoted) == (0, {"unknown item": 1}, False)
    assert report.reason.startswith("no new interactions, items or settings")
    assert report.candidate == {}


def test_events_come_from_redis_too(
    tmp_path: Path, redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    record(redis_server.url, tmp_path, events(3, 40))
    data = write_cycle(tmp_path / "cycle.txt")
    arguments = ["retrain", "--once", "--data", str(data), "--store", str(tmp_path / "models"), "--preset", "demo"]
    arguments += [
        "--create-store",
        "--work",
        str(tmp_path / "work"),
        "--redis-url",
        redis_server.url,
        "--json",
        *set_options(),
    ]
    assert run(app, "etegrec-train", arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["promoted"]
    assert (report["events"], report["rejected"]) == (38, {"duplicate": 2})


def test_without_redis_a_pass_fails_before_training(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        retrainer(tmp_path, "redis://127.0.0.1:1").run_once()
    assert not (tmp_path / "work" / "runs").exists()
    assert ModelStore(tmp_path / "models").versions() == []


@pytest.mark.parametrize(
    ("weekday", "days"),
    [("0", {6}), ("7", {6}), ("1-5", {0, 1, 2, 3, 4}), ("sat,0", {5, 6}), ("5-7", {4, 5, 6}), ("*", set(range(7)))],
)
def test_weekdays_count_as_in_cron(weekday: str, days: set[int]) -> None:
    trigger, start = parse_cron(f"0 3 * * {weekday}"), datetime(2026, 1, 1, tzinfo=UTC)
    due = [trigger.get_next_fire_time(None, start + timedelta(days=day)) for day in range(14)]
    assert {time.weekday() for time in due if time} == days
