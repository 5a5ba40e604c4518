"""Learning curves of a report and of TensorBoard: those that the run recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.reported_runs import rectangles
from tests.support.tiny import ITEMS
from training.loop.progress import SilentProgress
from training.loop.tensorboard import TensorboardProgress
from training.report.contents import Contents, Curve
from training.report.style import Chart


def test_learning_curves_are_those_of_the_run(finished: Path, contents: Contents, charts: dict[str, Chart]) -> None:
    history = json.loads((finished / "finetune.json").read_text())["history"]
    joint = json.loads((finished / "joint.json").read_text())["history"]
    assert contents.curves["generative"] == Curve(history, finetune_from=len(joint) + 1)
    expected = [entry["rec"] for entry in history if "rec" in entry]
    lines = {line.get_label(): line for line in charts["losses"].figure.axes[0].get_lines()}
    assert lines["ETEGRec"].get_ydata() == pytest.approx(expected)
    assert np.size(lines["TIGER"].get_xdata()) > 0
    titles = {axes.get_title().partition(":")[0] for axes in charts["losses"].figure.axes}
    assert {"L_REC", "L_SQ", "L_SIA", "L_PSA"} <= titles
    tokenizer = [index for index, entry in enumerate(history, start=1) if entry["tokenizer_phase"]]
    bands = rectangles(charts["validation"])
    assert [patch.get_x() + patch.get_width() / 2 for patch in bands] == pytest.approx(tokenizer)
    best = max(entry.get("valid_ndcg@10", 0) for entry in history)
    assert f"{best:.4f}" in charts["validation"].answer
    shown = {line.get_label() for line in charts["validation"].figure.axes[0].get_lines()}
    assert {"ETEGRec", "TIGER", "SASRec"} <= shown
    assert all(set(epoch) == {"loss", "valid_ndcg@10"} for epoch in contents.curves["sasrec"].epochs)


@pytest.mark.parametrize("stage", ["embed", "tokenizer", "joint", "finetune", "tiger_joint", "tiger_finetune"])
def test_tensorboard_shows_what_the_run_recorded(finished: Path, stage: str) -> None:
    shown = scalars(finished / "tensorboard" / stage)
    assert shown
    stored = {"embed": "sasrec.json", "tokenizer": "", "tiger_joint": "tiger_joint.json"}.get(stage, f"{stage}.json")
    if stored:
        history = json.loads((finished / stored).read_text())["history"]
        for name, points in shown.items():
            assert points == pytest.approx({epoch: history[epoch][name] for epoch in points}, rel=1e-6)
        assert max(max(points) for points in shown.values()) == len(history) - 1


def test_epochs_that_are_done_again_show_once(tmp_path: Path) -> None:
    for first, value in ((0, 1.0), (2, 5.0)):  # killed after epoch 3, saved after epoch 1
        with TensorboardProgress(SilentProgress(), tmp_path).track("stage", 6) as bar:
            for epoch in range(first, first + 4):
                bar.record(epoch, {"loss": value})
    assert scalars(tmp_path) == {"loss": {0: 1.0, 1: 1.0, 2: 5.0, 3: 5.0, 4: 5.0, 5: 5.0}}


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Values by step and name, as TensorBoard reads them; no step may come twice."""
    events = EventAccumulator(str(folder))
    events.Reload()
    found = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
    assert all(len({point.step for point in points}) == len(points) for points in found.values())
    return {name: {point.step: point.value for point in points} for name, points in found.items()}


def test_code_changes_are_counted_by_tokenizer_epoch(contents: Contents, charts: dict[str, Chart]) -> None:
    bars = rectangles(charts["code_changes"])
    changed = contents.evaluation.tokenizer["codes_changed"]
    assert len(changed) == len(contents.curves["generative"].tokenizer_epochs) > 1
    assert [bar.get_height() * ITEMS for bar in bars] == pytest.approx(changed)
