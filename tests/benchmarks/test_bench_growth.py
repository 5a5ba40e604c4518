"""The arithmetic of growth, the generated data, and one stage in a process of its own."""

from __future__ import annotations

import json
import math
from pathlib import Path

import polars as pl
import pytest

from benchmarks.bench_growth import STAGES, run_stage, summarise
from benchmarks.growth import stages
from benchmarks.growth.curve import exponents, grows_faster
from benchmarks.growth.data import INTERACTIONS, ITEMS, PER_ITEM, PER_USER, write_data


def cost(power: float) -> dict[int, float]:
    return {size: size**power for size in (10_000, 100_000, 1_000_000)}


def test_exponents_are_the_slopes_between_sizes() -> None:
    assert exponents(cost(1.5)) == {"10000-100000": 1.5, "100000-1000000": 1.5}
    assert exponents({10: 3.0}) == {}


@pytest.mark.parametrize(("power", "faster"), [(0.0, False), (1.0, False), (1.2, True), (2.0, True)])
def test_n_log_n_is_the_limit(power: float, faster: bool) -> None:
    assert grows_faster(cost(power)) is faster
    assert not grows_faster({size: size * math.log(size) for size in cost(1)})


def test_what_is_out_of_bounds_is_named() -> None:
    figures = {"unit": "item", "units": 1, "unit_s": 1.0, "seconds": 1.0}
    grown = {size: {**figures, "whole_cpu_s": size**2, "peak_gib": 1.0} for size in (10, 1000)}
    large = {size: {**figures, "whole_cpu_s": size, "peak_gib": size / 40} for size in (10, 1000)}
    found = summarise({"joint": grown, "load": large})
    assert found["faster_than_n_log_n"] == ["joint"]
    assert found["above_memory"] == ["load"]
    assert found["stages"]["joint"]["exponents"] == {"10-1000": 2.0}


def test_the_driver_runs_the_stages_that_there_are() -> None:
    assert tuple(stages.STAGES) == STAGES


def test_generated_users_stay_in_a_topic_and_every_item_passes_the_filters(tmp_path: Path) -> None:
    write_data(tmp_path, 200)
    log = pl.read_parquet(tmp_path / INTERACTIONS)
    assert len(log) == 200 * PER_ITEM
    assert min(log["item_id"].value_counts()["count"].to_list()) >= PER_ITEM // 2
    assert set(log["user_id"].value_counts()["count"]) == {PER_USER}
    items = pl.read_parquet(tmp_path / ITEMS)
    assert items["item_id"].n_unique() == 200 == items["title"].n_unique()


def test_a_stage_is_measured_in_a_process_of_its_own_and_a_failure_is_told(tmp_path: Path) -> None:
    write_data(tmp_path, 60)
    options = ["--seconds", "0.1", "--memory-gib", "8", "--preset", "demo"]
    ended = run_stage("prepare", tmp_path, options, 300)
    assert ended.found is not None, ended.problem
    assert ended.found["unit"] == "interaction"
    assert (
        ended.found["done"]
        == ended.found["whole"]
        == json.loads((tmp_path / "run/data/dataset.json").read_text())["interactions"]
    )
    assert 0.05 < ended.peak_gib < 8

    failed = run_stage("publish", tmp_path, [*options, "--set", "sasrec.nonsense=1"], 300)
    assert failed.found is None
    assert "nonsense" in failed.problem
