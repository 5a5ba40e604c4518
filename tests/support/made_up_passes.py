"""Passes of retraining that train nothing: candidates are made up, and everything around them is real."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from model_store.bundle.bundle import Bundle
from model_store.bundle.manifest import DataSummary
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SigningKey
from tests.support.bundles import NOON, bundle_files, description
from tests.support.comparisons import comparison
from tests.support.evaluations import evaluation
from tests.support.tiny import write_cycle
from training.config import load_config
from training.data.dataset import Dataset
from training.data.storage import load_dataset
from training.loop.progress import SilentProgress
from training.retraining import retrain
from training.retraining.drift import Drift
from training.retraining.figures import Comparison
from training.retraining.pass_report import RetrainReport
from training.retraining.retrain import Retrainer
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


def made_up_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Retrainer:
    """Return a retrainer without a model whose candidates are made up."""
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


def publish_with_data(passes: Retrainer, fingerprint: str, seed: int = 0) -> Bundle:
    """Publish and promote a version of an older release, which does not say its settings."""
    about = description()
    about = about.model_copy(update={"data": about.data.model_copy(update={"fingerprint": fingerprint})})
    passes.store.promote(publish(passes.store, bundle_files(seed), about, NOON.replace(minute=seed)))
    return passes.store.bundle()


EVENT_COLUMNS = ["event_id", "user_id", "item_id", "type", "timestamp"]
"""Columns that every drained event has a value in."""


def record(passes: Retrainer, item: str, count: int = 5) -> None:
    """Let users of the base data come back for an item, all at the same time."""
    folder = passes.work / "events"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(f"{item}-{user}", f"u{user}", item, "view", 1_800_000_000) for user in range(count)]
    pl.DataFrame(rows, schema=EVENT_COLUMNS, orient="row").write_parquet(folder / f"events-{item}.parquet")


def judged_against(passes: Retrainer, incumbent: float) -> RetrainReport:
    """Run a pass in which the live version has this NDCG@10."""
    FakePipeline.live = incumbent
    return passes.run_once()
