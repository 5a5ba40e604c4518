"""The catalogue benchmark on three tiny catalogues: every figure is there and makes sense."""

from __future__ import annotations

import json

import pytest
from typer import Typer
from typer.testing import CliRunner

from benchmarks.bench_catalogue import main
from benchmarks.large_catalogue import large_catalogue
from tests.support.tiny import set_options

FIGURES = {
    "ratio_1m",
    "ratio_10m",
    "trie_bytes_item",
    "live_bytes_item",
    "build_s_10m",
    "load_bundle_s_10m",
    "load_redis_s_10m",
    "dict_trie_mask_ratio",
}


@pytest.mark.redis
def test_one_line_of_json_with_every_figure() -> None:
    app = Typer()
    app.command()(main)
    sizes = ["300", "1000", "3000"]
    layers = [f"model.recommender.{part}_layers=1" for part in ("encoder", "decoder")]
    smallest = set_options(["model.tokenizer.codebook_size=256", "model.tokenizer.levels=3", *layers])
    done = CliRunner().invoke(app, ["--items", *sizes, "--repeats", "1", *smallest])
    assert done.exception is None
    [line] = done.stdout.splitlines()
    found = json.loads(line)
    assert found["bench"] == "catalogue"
    assert all(found[name] > 0 for name in FIGURES)
    assert found["filter_overhead_1m"] > -1
    assert found["items"] == [int(size) for size in sizes]


def test_generated_catalogues_are_whole_and_skewed() -> None:
    catalogue = large_catalogue(20_000, seed=1)
    catalogue.check_integrity()
    assert {len(item_id) for item_id in catalogue.item_ids} == {12}
    children = catalogue.trie.child_start[1][1:] - catalogue.trie.child_start[1][:-1]
    assert children.max() > 4 * children.mean()
    assert all(len(set(names)) == len(names) for names in catalogue.categories)
    assert 1949 < catalogue.attributes[7]["year"] < 2026
