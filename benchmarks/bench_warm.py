"""Warm retraining, which goes on from the live version, beside training from scratch (``make bench-warm``).

Interactions are generated, or read from a table, and cut in time: the first ones train a model from scratch, which both
sides begin with; the rest comes day by day as recorded events, new items among them. Each day both sides make a whole
pass of retraining on the same events, one with ``warm.start``: drain, merge, train, evaluate, export, compare, publish.
The gate is open, so that each day begins from that of the day before. ``warm_over_cold_s`` is the ratio of the seconds
of all passes, ``warm_over_cold_cpu_s`` that of their processor time, which other processes do not change,
``warm_over_cold_training_s`` that of the stages that train alone, ``warm_minus_cold_ndcg`` the mean difference of test
NDCG@10.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer

from model_store.bundle.registry import ModelStore
from model_store.console import say
from training.config import TrainingConfig, load_config
from training.data.prepare import prepare
from training.loop.progress import SilentProgress
from training.retraining.gate import GATE_METRIC
from training.retraining.pass_report import RetrainReport
from training.retraining.retrain import Retrainer
from training.run_folder import RunFolder

FIRST_SECOND = 1_700_000_000
DAY = 86_400
GROUPS = 20
"""Groups of items in generated data. Users stay with one for a while, and go through its items in an order."""

OPEN_GATE = (
    "gate.margin=1",
    "gate.max_gain=0",
    "gate.max_coverage_loss=1",
    "gate.max_head_rise=1",
    "gate.min_new_exposure=0",
    "gate.max_collision_rise=1",
    "gate.max_calibration_rise=1",
    "gate.max_size=1000",
    "gate.max_search_time=1000",
)
NOT_TRAINING = ("prepare", "evaluate", "export")
"""Stages of a run that train nothing."""


@dataclass(frozen=True)
class Pass:
    """What one pass took and gave."""

    seconds: float
    cpu_s: float
    training_s: float
    ndcg: float

    @classmethod
    def run(cls, retrainer: Retrainer) -> Pass:
        """Run a pass and measure it."""
        started = time.monotonic()
        cpu_before = _cpu_seconds()
        report = retrainer.run_once()
        seconds = time.monotonic() - started
        cpu_s = _cpu_seconds() - cpu_before
        if not report.promoted:
            raise RuntimeError(f"nothing was promoted, so the next day has nothing to begin from: {report.reason}")
        return cls(seconds, cpu_s, _training_seconds(report), report.candidate[GATE_METRIC])


def _cpu_seconds() -> float:
    """Return the processor time of this process and of the ended ones that it started."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _training_seconds(report: RetrainReport) -> float:
    assert report.page is not None
    run = RunFolder.open(Path(report.page).parents[1])
    return sum(seconds for stage, seconds in run.seconds.items() if stage not in NOT_TRAINING)


def generated(users: int, items: int, interactions: int, days: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return interactions in order of time, and items with the category of their group.

    A user goes from an item to the next of the same group, or jumps to a popular item of one of two groups. A twentieth
    of the items comes in the last days only.
    """
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.arange(items) % GROUPS)
    members = [np.flatnonzero(group == each) for each in range(GROUPS)]
    popularity = 1 / (np.arange(items) + 10.0)
    rng.shuffle(popularity)
    born = np.where(rng.random(items) < 0.05, rng.uniform(0.75, 0.95, items), 0.0)

    at = np.sort(rng.random(interactions))
    user_of = (users * rng.random(interactions) ** 1.5).astype(np.int64)
    own = rng.integers(0, GROUPS, (users, 2))
    last = np.full(users, -1)
    chosen = np.empty(interactions, dtype=np.int64)
    for number, (user, moment) in enumerate(zip(user_of.tolist(), at.tolist(), strict=True)):
        item = last[user]
        if item >= 0 and rng.random() < 0.6:
            around = members[group[item]]
            item = around[(np.searchsorted(around, item) + rng.integers(1, 4)) % len(around)]
        else:
            around = members[own[user, int(rng.random() < 0.3)]]
            item = rng.choice(around, p=popularity[around] / popularity[around].sum())
        while born[item] > moment:
            item = rng.integers(0, items)
        chosen[number] = last[user] = item

    time_of = FIRST_SECOND + (at * 20 * days * DAY).astype(np.int64)
    log = pl.DataFrame({"user": user_of, "item": chosen, "timestamp": time_of})
    log = log.with_columns(pl.format("u{}", "user").alias("user"), pl.format("i{}", "item").alias("item"))
    table = pl.DataFrame(
        {"item": [f"i{row}" for row in range(items)], "title": "", "categories": [f"group {each}" for each in group]}
    )
    return log, table


def read(path: str, work: Path, config: TrainingConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the interactions of a source as ``etegrec-train`` reads it, in order of time, and its items."""
    data = prepare(path, work, config.data, lambda _: None)
    flat = data.flat()
    items = pl.Series(data.item_ids, dtype=pl.String)
    log = pl.DataFrame(
        {"user": data.user_ids.gather(flat.user), "item": items.gather(flat.item), "timestamp": flat.timestamp}
    )
    table = pl.DataFrame(
        {"item": items, "title": data.titles, "categories": ["|".join(each) for each in data.categories]}
    )
    return log.sort("timestamp", maintain_order=True), table


class Side:
    """One way to retrain, with a model store and a work folder of its own."""

    def __init__(self, folder: Path, base: Path, items: Path, preset: str, overrides: list[str], is_warm: bool) -> None:
        table = [f'data.items_file="{items}"', 'data.separator="|"']
        own = [*overrides, *OPEN_GATE, *table, f"warm.start={str(is_warm).lower()}"]
        config = load_config(preset, own)
        self._events = folder / "work" / "events"
        store = ModelStore(folder / "models", namespace="")
        log = folder / "models" / "events"
        self.retrainer = Retrainer(str(base), config, store, log, folder / "work", SilentProgress())

    def record(self, day: int, log: pl.DataFrame) -> None:
        """Hand over a day's interactions as drained events."""
        self._events.mkdir(parents=True, exist_ok=True)
        events = log.select(
            pl.format("{}-{}", pl.lit(day), pl.int_range(pl.len())).alias("event_id"),
            pl.col("user").alias("user_id"),
            pl.col("item").alias("item_id"),
            pl.lit("view").alias("type"),
            "timestamp",
        )
        events.write_parquet(self._events / f"events-{day:03d}.parquet")


def main(
    data: Annotated[str, typer.Option(help="Interactions to use instead of generated ones, as --data of run.")] = "",
    users: Annotated[int, typer.Option(min=10, help="Generated users.")] = 943,
    items: Annotated[int, typer.Option(min=40, help="Generated items.")] = 1_682,
    interactions: Annotated[int, typer.Option(min=500, help="Generated interactions.")] = 100_000,
    days: Annotated[int, typer.Option(min=1, help="Days after the first training.")] = 5,
    day_share: Annotated[float, typer.Option(min=0.001, max=0.2, help="Share of all interactions in a day.")] = 0.02,
    preset: Annotated[str, typer.Option(help="Preset of sizes and schedule.")] = "demo",
    overrides: Annotated[list[str], typer.Option("--set", help="Override a setting: section.key=value.")] = [],  # noqa: B006
    seed: int = 0,
    folder: Annotated[str, typer.Option(help="Folder for data and runs; default: a temporary one.")] = "",
) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-warm-", dir=folder or None) as temporary:
        work = Path(temporary)
        if data:
            log, table = read(data, work / "read", load_config(preset, overrides))
        else:
            log, table = generated(users, items, interactions, days, seed)
        found = compare_days(log, table, days, day_share, preset, overrides, work)
    size = {"users": log["user"].n_unique(), "items": log["item"].n_unique(), "interactions": len(log)}
    typer.echo(json.dumps({"bench": "warm", **size, **found}))


def compare_days(
    log: pl.DataFrame, table: pl.DataFrame, days: int, day_share: float, preset: str, overrides: list[str], work: Path
) -> dict[str, Any]:
    """Run all days on both sides and return the figures.

    Args:
        log: Columns ``user``, ``item``, ``timestamp``, in order of time.
        table: Columns ``item``, ``title``, ``categories``.
        days: Days after the first training.
        day_share: Share of all interactions that a day has.
        preset: Preset of both sides.
        overrides: Further settings of both.
        work: Folder for everything.
    """
    day_length = int(day_share * len(log))
    start = len(log) - days * day_length
    base = work / "base.csv"
    log[:start].write_csv(base)
    table.write_csv(work / "items.csv")
    first = Pass.run(Side(work / "cold", base, work / "items.csv", preset, overrides, is_warm=False).retrainer)
    shutil.copytree(work / "cold", work / "warm")
    sides = {
        name: Side(work / name, base, work / "items.csv", preset, overrides, is_warm=name == "warm")
        for name in ("cold", "warm")
    }

    passes: dict[str, list[Pass]] = {name: [] for name in sides}
    for day in range(days):
        part = log[start + day * day_length : start + (day + 1) * day_length]
        for name, side in sides.items():
            side.record(day, part)
            passes[name].append(Pass.run(side.retrainer))
            newest = passes[name][-1]
            took = f"{newest.seconds:.0f} s, {newest.cpu_s:.0f} s of CPU"
            say(f"day {day + 1}, {name}: {took}, test NDCG@10 {newest.ndcg:.4f}")

    cold, warm = passes["cold"], passes["warm"]
    differences = [one.ndcg - other.ndcg for one, other in zip(warm, cold, strict=True)]
    return {
        "preset": preset,
        "events_a_day": day_length,
        "first_ndcg": round(first.ndcg, 4),
        "cold_s": [round(one.seconds, 1) for one in cold],
        "warm_s": [round(one.seconds, 1) for one in warm],
        "cold_cpu_s": [round(one.cpu_s, 1) for one in cold],
        "warm_cpu_s": [round(one.cpu_s, 1) for one in warm],
        "cold_ndcg": [round(one.ndcg, 4) for one in cold],
        "warm_ndcg": [round(one.ndcg, 4) for one in warm],
        "warm_over_cold_s": _ratio((one.seconds for one in warm), (one.seconds for one in cold)),
        "warm_over_cold_cpu_s": _ratio((one.cpu_s for one in warm), (one.cpu_s for one in cold)),
        "warm_over_cold_training_s": _ratio((one.training_s for one in warm), (one.training_s for one in cold)),
        "warm_minus_cold_ndcg": round(float(np.mean(differences)), 4),
    }


def _ratio(warm: Iterable[float], cold: Iterable[float]) -> float:
    return round(sum(warm) / sum(cold), 3)


if __name__ == "__main__":
    typer.run(main)
