"""Warm start: a real first version, and what goes on from it or does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from model_store.bundle.registry import ModelStore
from tests.support.tiny import CONTENT, ITEMS, OVERRIDES, write_cycle
from training.config import load_config
from training.data.dataset import Dataset
from training.loop.progress import SilentProgress
from training.retraining.retrain import Retrainer
from training.retraining.warm_start import Start, WarmPipeline, find_start
from training.run_folder import RunFolder

EVENT_COLUMNS = ["event_id", "user_id", "item_id", "type", "timestamp"]

LATE = "late"
"""Item that nobody has before the second pass."""


def retrainer(folder: Path, *overrides: str) -> Retrainer:
    """Return a retrainer on the cycle, whose items say which half of it they are in."""
    items = folder / "items.csv"
    if not items.exists():
        write_cycle(folder / "cycle.txt")
        titles = {f"i{row}": "first half" if row < ITEMS / 2 else "second half" for row in range(ITEMS)}
        rows = [*titles.items(), (LATE, "second half")]
        pl.DataFrame(rows, schema=["item", "title"], orient="row").write_csv(items)

    own = [*OVERRIDES, f"content.dim={CONTENT}", f'data.items_file="{items}"', *overrides]
    store = ModelStore(folder / "models")
    log = folder / "models" / "events"
    config = load_config("demo", own)
    return Retrainer(str(folder / "cycle.txt"), config, store, log, folder / "work", SilentProgress())


def record(folder: Path) -> None:
    """Let each user go one step on along the cycle, and twenty of them take the late item before that."""
    events = folder / "work" / "events"
    events.mkdir(parents=True, exist_ok=True)
    last = {line.split()[0]: int(line.split()[-1][1:]) for line in (folder / "cycle.txt").read_text().splitlines()}
    rows = [
        *((f"a{user}", user, LATE, "view", 1_700_000_000) for user in list(last)[:20]),
        *((f"b{user}", user, f"i{(at + 1) % ITEMS}", "view", 1_700_000_100) for user, at in last.items()),
        *((f"c{user}", user, f"i{(at + 2) % ITEMS}", "view", 1_700_000_200) for user, at in last.items()),
    ]
    pl.DataFrame(rows, schema=EVENT_COLUMNS, orient="row").write_parquet(events / "events-day.parquet")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a first version, and events since."""
    folder = tmp_path_factory.mktemp("warm")
    assert retrainer(folder).run_once().promoted
    record(folder)
    return folder


@pytest.fixture
def after_first(first: Path, tmp_path: Path) -> Path:
    shutil.copytree(first, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_pass_goes_on_from_the_live_version(after_first: Path) -> None:
    before = ModelStore(after_first / "models").bundle()
    report = retrainer(after_first, "warm.start=true", "gate.margin=0.2").run_once()
    assert report.started_from == before.version
    assert (report.promoted, report.new_items) == (True, 1)
    assert report.candidate["ndcg@10"] > 0.8 * report.incumbent["ndcg@10"] > 0

    assert report.page
    run = RunFolder.open(Path(report.page).parents[1])
    assert run.path.name.endswith(f"-from-{before.version}")
    assert len(run.read_json("sasrec.json")["history"]) <= 3, "a fifth of 15 epochs"
    assert run.read_json("joint.json")["history"] == [], "no alternating training"

    # Most items keep their codes, and all have the vectors of the same content encoder.
    old, new = before.catalogue(), ModelStore(after_first / "models").bundle().catalogue()
    rows = new.row_of.find(old.item_ids[:ITEMS])
    moved = (new.codes[rows] != old.codes[:ITEMS]).any(axis=1).mean()
    values = {check["name"]: check["value"] for check in report.gate["checks"]}
    assert values["known items with other codes"] == f"{moved:.1%}"
    assert moved < 0.5
    assert new.row(LATE) == ITEMS
    first_run = next(path for path in (after_first / "work" / "runs").iterdir() if path != run.path)
    torch.testing.assert_close(
        run.read_tensors("content.safetensors")["effects"],
        RunFolder.open(first_run).read_tensors("content.safetensors")["effects"],
    )


def second_data(folder: Path, *overrides: str) -> tuple[Retrainer, Dataset]:
    """Return a retrainer and the data of its second pass, untrained."""
    later = retrainer(folder, *overrides)
    with later.tracing.span("test") as span:
        return later, later._drain(span).dataset


def start_of(folder: Path, *overrides: str) -> tuple[Start | str, Retrainer, Dataset]:
    later, data = second_data(folder, *overrides)
    return find_start(later.store.bundle(), later.work / "runs", later.config, data), later, data


def test_a_new_item_begins_between_those_that_say_the_same(first: Path, tmp_path: Path) -> None:
    start, later, data = start_of(first)
    assert isinstance(start, Start)
    assert start.row[-1] == -1
    np.testing.assert_array_equal(start.row[:-1], np.arange(ITEMS))

    run = RunFolder.create_or_resume(tmp_path / "run", later.config.of_run(), str(first / "work" / "base"))
    pipeline = WarmPipeline(run, SilentProgress(), start, later.config.warm)
    pipeline.__dict__["dataset"] = data
    known = torch.randn(ITEMS, 16)
    begun = pipeline._begin_items(known)
    torch.testing.assert_close(begun[:ITEMS], known)
    half = known[ITEMS // 2 :]
    assert (begun[ITEMS] <= half.amax(dim=0)).all()
    assert (begun[ITEMS] >= half.amin(dim=0)).all()
    assert not torch.allclose(begun[ITEMS], known.mean(dim=0))

    pipeline.__dict__["_content"] = None
    torch.testing.assert_close(pipeline._begin_items(known)[ITEMS], known.mean(dim=0))


def test_other_settings_do_not_fit_but_the_gate_may_change(first: Path) -> None:
    reason, _, _ = start_of(first, "joint.sia_weight=0.1")
    assert isinstance(reason, str)
    assert reason.endswith("was trained with other settings: joint")
    assert isinstance(start_of(first, "gate.max_size=1.1", "warm.epochs=0.5", "threads=1")[0], Start)


def test_a_version_that_knows_too_few_items_does_not_fit(first: Path) -> None:
    reason, later, _ = start_of(first, "warm.known_items=1")
    assert reason == f"{later.store.live()} knows 97% of the items, warm.known_items asks for 100%"


def test_a_version_whose_run_is_gone_does_not_fit(after_first: Path) -> None:
    shutil.rmtree(after_first / "work" / "runs")
    reason, later, _ = start_of(after_first)
    assert reason == f"the run of {later.store.live()} is not in {later.work / 'runs'}"
