"""The benchmark of catalogue changes, on a tiny catalogue: every figure is there and makes sense."""

from __future__ import annotations

import json

import pytest
from typer import Typer
from typer.testing import CliRunner

from benchmarks.bench_live import main
from tests.support.tiny import set_options

FIGURES = {
    *("p50_same_s", "p50_other_s", "p99_same_s", "p99_other_s"),
    *("bulk_items_s", "boot_redis_s", "boot_store_s"),
}


@pytest.mark.redis
def test_one_line_of_json_with_every_figure() -> None:
    app = Typer()
    app.command()(main)
    sizes = ["--items", "2000", "--changes", "3", "--bulk", "30", "--requests", "4", "--repeats", "1"]
    smallest = set_options(["model.tokenizer.codebook_size=256", "model.tokenizer.levels=3"])
    done = CliRunner().invoke(app, [*sizes, *smallest])
    assert done.exception is None
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bench"] == "live"
    assert all(found[name] > 0 for name in FIGURES)
    assert 0 <= found["fill_post"] < found["fill_inside"] <= 1
