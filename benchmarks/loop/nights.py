"""Nights of a simulated shop: retraining on the day's events, judged by the gate, and one night that goes wrong."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loop.world import World
from model_store.bundle.registry import ModelStore
from training.config import load_config
from training.data.dataset import Dataset
from training.loop.progress import SilentProgress
from training.pipeline import Pipeline
from training.retraining.retrain import Retrainer
from training.retraining.warm_start import Start

GATE = ("gate.max_gain=0", "gate.max_calibration_rise=0.3", "gate.max_search_time=1000")
"""The first model is trained in a hurry, so any gain is plausible. It is sure of nothing, so its calibration is good: a
night's model was held back for .199 beside .126. Times on a shared machine say little."""

HURRIED = ("sasrec.epochs=1", "joint.epochs=2", "joint.alignment_from=1", "finetune.epochs=1")
"""Settings of the first model: it answers, but a night's training is better."""


class MixedUpRetrainer(Retrainer):
    """Retrainer that trains on interactions whose items are mixed up, as by a join on the wrong column.

    The candidate is judged on what people really did, as always.
    """

    def _train_candidate(self, data: Dataset, start: Start | None) -> Pipeline:
        return super()._train_candidate(mix_up(data, self.config.seed), start)


def mix_up(data: Dataset, seed: int) -> Dataset:
    """Return data in which each item stands for another one."""
    other = np.random.default_rng(seed).permutation(data.n_items).astype(data.items.dtype)
    return replace(data, items=other[data.items])


class Nights:
    """Retraining of the shop's model.

    Args:
        folder: Folder for the model store, the base data and all runs.
        world: People and items.
        interactions: Interactions before the first day, on which the first model is trained.
        preset: Preset of sizes and schedule.
        overrides: Further settings.
        events: URL of the Redis of the service, or the folder of its embedded event log.
    """

    def __init__(
        self, folder: Path, world: World, interactions: int, preset: str, overrides: list[str], events: str | Path
    ) -> None:
        self.models = folder / "models"
        self._folder = folder
        self._base = folder / "base.csv"
        self._events = events
        self._preset = preset

        items = folder / "items.csv"
        self._overrides = [*overrides, *GATE, f'data.items_file="{items}"', 'data.separator="|"']
        if not self._base.exists():
            folder.mkdir(parents=True, exist_ok=True)
            world.table().write_csv(items)
            world.history(interactions, seed=1).write_csv(self._base)

    def first_model(self) -> str:
        """Train and promote the first model, if there is none; return the live version."""
        live = ModelStore(self.models, namespace="").live()
        if live is not None:
            return live
        report = self._retrainer(Retrainer, HURRIED).run_once()
        if report.version is None:
            raise RuntimeError(f"the first model was not promoted: {report.reason}")
        return report.version

    def usual(self) -> dict[str, Any]:
        """Retrain as each night; return what came of it."""
        return self._told("usual", self._retrainer(Retrainer))

    def mixed_up(self) -> dict[str, Any]:
        """Retrain on items that are mixed up; return what came of it."""
        return self._told("mixed up", self._retrainer(MixedUpRetrainer))

    def _told(self, kind: str, retrainer: Retrainer) -> dict[str, Any]:
        started = time.monotonic()
        report = retrainer.run_once(force=True)
        return {
            "kind": kind,
            "promoted": report.promoted,
            "verdict": report.gate.get("verdict"),
            "reason": report.reason,
            "events": report.events,
            "seconds": round(time.monotonic() - started, 1),
        }

    def _retrainer(self, kind: type[Retrainer], changed: tuple[str, ...] = ()) -> Retrainer:
        config = load_config(self._preset, [*self._overrides, *changed])
        store = ModelStore(self.models, namespace="")
        return kind(str(self._base), config, store, self._events, self._folder / "work", SilentProgress())
