"""The commands from a text file to a sealed version, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from model_store.bundle.registry import ModelStore
from model_store.console import run
from model_store.errors import BundleRefused
from service.engines.base import SearchRequest
from service.engines.onnx_engine import OnnxEngine
from service.engines.torch_engine import TorchEngine
from tests.support.tiny import set_options, write_cycle
from training.cli import app
from training.config import PRESETS, load_config
from training.export import bundle as bundle_export
from training.export.bundle import check_tokenizer
from training.loop.progress import SilentProgress
from training.pipeline import Pipeline
from training.run_folder import RunFolder

METRICS = {f"{name}@{k}{suffix}" for name in ("recall", "ndcg") for k in (5, 10) for suffix in ("", "_seen_excluded")}


def etegrec_train(*arguments: object) -> int:
    return run(app, "etegrec-train", [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all stages with both baselines."""
    folder = tmp_path_factory.mktemp("run")
    data = write_cycle(folder / "cycle.txt")
    arguments = ("run", "--data", data, "--preset", "demo", "--out", folder / "run", "--baseline", "tiger")
    assert etegrec_train(*arguments, *set_options()) == 0
    return folder / "run"


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    """The one line of JSON that a command ended with."""
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_the_report_has_every_row_under_both_protocols(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert etegrec_train("evaluate", finished, "--json") == 0
    report = printed(capsys)
    assert list(report) == [
        *("test", "valid", "tokenizer", "fusion", "above_popularity", "search_adds", "ranker_adds"),
        *("ranker_reads", "coverage"),
        *("seconds", "warnings"),
    ]
    rows = ["popularity", "neighbours", "sasrec", "tiger", "dense", "generative", "fused_without_search", "fused"]
    for split in ("test", "valid"):
        assert list(report[split]) == rows
        for row in report[split].values():
            assert set(row) == METRICS | {"interval", "interval_seen_excluded"}
            for suffix in ("", "_seen_excluded"):
                low, high = row[f"interval{suffix}"]
                assert low <= row[f"ndcg@10{suffix}"] <= high
    assert set(report["seconds"]) >= {
        "prepare",
        "embed",
        "blend",
        "tokenizer",
        "joint",
        "finetune",
        "evaluate",
        "export",
    }
    assert report["tokenizer"]["collision_rate"] <= 1


def test_coverage_and_lead_over_popularity_are_measured_printed_and_published(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    etegrec_train("evaluate", finished, "--json")
    report = printed(capsys)
    coverage, lead = report["coverage"], report["above_popularity"]
    assert (coverage["users"], coverage["catalogue_items"]) == (80, 30)
    assert coverage["recommended_items"] == 30  # users stand everywhere on the cycle, and get what comes next
    assert 10 / 30 <= coverage["top_share"] < 0.6
    test = report["test"]
    assert lead["mean"] == pytest.approx(test["fused"]["ndcg@10"] - test["popularity"]["ndcg@10"])
    assert 0 < lead["error"] < 0.1
    assert report["warnings"] == []

    assert etegrec_train("evaluate", finished) == 0
    assert "The top 10 of 80 test users hold 30 of 30 items (100.0%)" in " ".join(capsys.readouterr().out.split())
    assert etegrec_train("publish", finished, "--store", tmp_path, "--json") == 0
    published = printed(capsys)
    assert published["warnings"] == []
    manifest = ModelStore(tmp_path).bundle(published["version"]).manifest
    assert manifest.coverage == coverage
    assert manifest.training == RunFolder.open(finished).config.fingerprint


def test_an_evaluation_of_an_older_release_is_read_and_popularity_is_said(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (finished / "evaluation.json").read_bytes()
    old = json.loads(whole)
    del old["coverage"], old["above_popularity"]
    old["test"]["popularity"]["ndcg@10"] = old["test"]["fused"]["ndcg@10"] + 0.01
    try:
        (finished / "evaluation.json").write_text(json.dumps(old))
        for command in (("evaluate", finished), ("publish", finished, "--store", tmp_path)):
            assert etegrec_train(*command) == 0
            said = " ".join(capsys.readouterr().out.split())
            assert "This model is not better than recommending the most popular items to everyone" in said
            assert "What usually helps" in said
        assert ModelStore(tmp_path).bundle(ModelStore(tmp_path).versions()[0]).manifest.coverage == {}
    finally:
        (finished / "evaluation.json").write_bytes(whole)


def test_what_the_search_adds_is_the_difference_of_two_rows(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    etegrec_train("evaluate", finished, "--json")
    report = printed(capsys)
    test, added = report["test"], report["search_adds"]
    assert added["mean"] == pytest.approx(test["fused"]["ndcg@10"] - test["fused_without_search"]["ndcg@10"])
    low, high = added["interval"]
    assert low <= added["mean"] <= high
    for name in METRICS:
        assert test["fused_without_search"][name] == pytest.approx(test["dense"][name], abs=0.02)


def test_neighbours_are_fitted_once_and_kept(finished: Path) -> None:
    pipeline = Pipeline(RunFolder.open(finished), SilentProgress())
    kept = finished / "neighbours.safetensors"
    whole, known = kept.read_bytes(), pipeline.neighbours
    assert known.items == known.trained == pipeline.dataset.n_items
    kept.unlink()
    try:
        again = Pipeline(RunFolder.open(finished), SilentProgress()).neighbours
        np.testing.assert_equal(again.arrays(), known.arrays())
    finally:
        kept.write_bytes(whole)


def test_a_predictable_user_is_predicted(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    etegrec_train("evaluate", finished, "--json")
    test = printed(capsys)["test"]
    for row in ("sasrec", "generative", "tiger"):
        assert test[row]["recall@5"] > 0.9
        assert test[row]["ndcg@10"] > test["popularity"]["ndcg@10"]


def test_a_finished_run_is_reused_and_another_configuration_is_refused(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}
    arguments = ("run", "--data", finished.parent / "cycle.txt", "--preset", "demo", "--out", finished)
    assert etegrec_train(*arguments, *set_options(), "--json") == 0
    assert "generative" in printed(capsys)["test"]
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")} == before
    assert etegrec_train(*arguments, *set_options(["seed=1"])) == 5
    assert "another configuration" in capsys.readouterr().err


def test_data_that_changed_since_the_run_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = finished.parent / "cycle.txt"
    whole = data.read_text()
    arguments = ("run", "--data", data, "--preset", "demo", "--out", finished, *set_options(), "--json")
    try:
        data.write_text(whole + "late i1 i2 i3 i4 i5\n")
        assert etegrec_train(*arguments) == 5
        assert "the data changed" in capsys.readouterr().err
    finally:
        data.write_text(whole)
    assert etegrec_train(*arguments) == 0


def test_a_lost_stage_is_redone_with_the_same_result(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    etegrec_train("evaluate", finished, "--json")
    before = printed(capsys)
    (finished / "evaluation.json").write_text("{}")
    (finished / "finetune.safetensors").unlink()
    etegrec_train("export", finished)
    etegrec_train("evaluate", finished, "--json")
    after = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert after["test"]["generative"] == before["test"]["generative"]


@pytest.mark.parametrize("damage", ["truncate", "empty"])
def test_a_damaged_artefact_is_named(finished: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    artefact = finished / "sasrec.safetensors"
    whole = artefact.read_bytes()
    evaluation = (finished / "evaluation.json").read_bytes()
    try:
        artefact.write_bytes(whole[:100] if damage == "truncate" else b"")
        (finished / "evaluation.json").unlink()
        assert etegrec_train("evaluate", finished) == 5
        error = capsys.readouterr().err
        assert "sasrec.safetensors" in error
        assert "remove that file" in error
    finally:
        artefact.write_bytes(whole)
        (finished / "evaluation.json").write_bytes(evaluation)


def test_published_engines_agree_with_each_other(finished: Path, tmp_path: Path) -> None:
    assert etegrec_train("publish", finished, "--store", tmp_path, "--promote") == 0
    bundle = ModelStore(tmp_path).bundle()
    bundle.verify()
    assert bundle.ranker() is None  # nobody needs one where all users are predicted
    catalogue = bundle.catalogue()
    engines = (
        OnnxEngine(bundle.read("search.onnx"), bundle.config),
        TorchEngine(bundle.weights(), bundle.config, "cpu"),
    )
    everything, nothing = catalogue.trie.everything, np.empty(0, dtype=np.int64)
    requests = [
        SearchRequest(
            np.arange(start, start + 5), k=5, beam_width=20, rule=everything, excluded=nothing, catalogue=catalogue
        )
        for start in range(8)
    ]
    onnx, torch = (engine.answer(requests, catalogue) for engine in engines)
    for one, other in zip(onnx, torch, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_allclose(one.log_prob, other.log_prob, atol=1e-4)


def test_the_exported_tokenizer_gives_the_catalogue_its_codes(finished: Path, tmp_path: Path) -> None:
    etegrec_train("publish", finished, "--store", tmp_path, "--promote")
    bundle = ModelStore(tmp_path).bundle()
    session = onnxruntime.InferenceSession(bundle.read("tokenizer.onnx"))
    codes, _, _ = session.run(None, {"embeddings": bundle.embeddings()["embeddings"]})
    moved = (bundle.catalogue().codes != codes[:, :, 0]).any(axis=1)
    assert moved.sum() == bundle.manifest.tokenizer["moved"]
    assert 0 < moved.sum() < len(moved)


def test_a_tokenizer_that_encodes_otherwise_is_refused_at_export(finished: Path, tmp_path: Path) -> None:
    etegrec_train("publish", finished, "--store", tmp_path, "--promote")
    graph = ModelStore(tmp_path).bundle().read("tokenizer.onnx")
    learner = Pipeline(RunFolder.open(finished), SilentProgress()).learner
    check_tokenizer(graph, learner)
    with torch.no_grad():
        learner.tokenizer.codebooks.copy_(learner.tokenizer.codebooks.flip(1))
    with pytest.raises(BundleRefused, match=r"tokenizer\.onnx gives the item in row \d+ the codes"):
        check_tokenizer(graph, learner)


def test_the_item_that_is_refused_may_lie_in_a_later_part(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etegrec_train("publish", finished, "--store", tmp_path, "--promote")
    graph = ModelStore(tmp_path).bundle().read("tokenizer.onnx")
    learner = Pipeline(RunFolder.open(finished), SilentProgress()).learner
    tokenizer = learner.tokenizer.eval()
    with torch.no_grad():
        codes = tokenizer.quantise(tokenizer.latents(learner.embeddings)).codes[:, 0].tolist()
        *_, one, other = sorted(set(codes), key=codes.index)  # the two codes that occur first in the last rows
        tokenizer.codebooks[0, [one, other]] = tokenizer.codebooks[0, [other, one]]

    first = codes.index(one)
    assert first > 0
    monkeypatch.setattr(bundle_export, "CHECKED_AT_ONCE", first)
    with pytest.raises(BundleRefused, match=rf"in row {first} the codes \[{one}, "):
        check_tokenizer(graph, learner)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "--data", "no-such-file", "--out", "OUT"), 4, "no-such-file does not exist"),
        (("run", "--data", "DATA", "--out", "OUT", "--preset", "huge"), 3, "no preset 'huge'"),
        (("run", "--data", "DATA", "--out", "OUT", "--set", "joint.epoch=3"), 3, "joint.epoch"),
        (("run", "--data", "DATA", "--out", "OUT", "--set", "joint.epochs=0"), 3, "joint.epochs"),
        (("run", "--data", "DATA", "--out", "OUT", "--set", "nonsense"), 3, "section.key=value"),
        (("run", "--data", "DATA", "--out", "OUT", "--set", "sasrec.embedding_dim=32"), 3, "must equal"),
        (("run", "--data", "DATA", "--out", "OUT", "--baseline", "lion"), 2, "lion"),
        (("evaluate", "OUT"), 5, "not a run folder"),
        (("publish", "OUT"), 5, "not a run folder"),
        (("run", "--data", "DATA", "--out", "OUT", "--set", "joint.sia_weight=inf"), 3, "joint.sia_weight"),
        (("run", "--data", "DATA", "--out", "OUT", "--set", f"seed={2**70}"), 3, "seed"),
        (("run", "--data", "DATA", "--out", "OUT", "--device", "abacus"), 3, "--device abacus"),
        (("run", "--data", "DATA", "--out", "DATA"), 1, "cycle.txt: File exists"),
        (("prepare", "--data", "DATA", "--out", "DATA"), 1, "File exists"),
        (("run", "--data", "DATA", "--out", "LIST"), 5, "another configuration"),
        (("evaluate", "LIST"), 5, "does not fit this release"),
        (("retrain", "--data", "DATA", "--redis-url", "redis://localhost:abc", "--work", "OUT"), 3, "a Redis URL"),
        (("retrain", "--data", "DATA", "--redis-url", "redis://localhost?foo=1", "--work", "OUT"), 3, "a Redis URL"),
        (("retrain", "--data", "DATA", "--work", "OUT", "--max-gain", "0.5"), 3, "largest gain is 0.5"),
        (("schedule", "--data", "DATA", "--work", "OUT", "--plausible-gain", "2"), 3, "gate.plausible_gain"),
        (("schedule", "--data", "DATA", "--cron", "often", "--work", "OUT"), 3, "five fields"),
        (("schedule", "--data", "DATA", "--cron", "", "--work", "OUT"), 3, "five fields"),
        (("schedule", "--data", "DATA", "--cron", "0 0 31 2 *", "--work", "OUT"), 3, "never comes"),
    ],
)
def test_mistakes_are_named_with_an_exit_code(
    arguments: tuple[str, ...], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "config.json").write_text("[]")
    places = {"OUT": str(tmp_path / "out"), "DATA": str(write_cycle(tmp_path / "cycle.txt"))}
    places["LIST"] = str(tmp_path / "list")
    assert etegrec_train(*(places.get(word, word) for word in arguments)) == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_describes_a_model(preset: str) -> None:
    config = load_config(preset)
    assert config.model.code_length == config.model.tokenizer.levels + (config.model.collisions == "token")
