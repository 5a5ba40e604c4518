"""The session for a GPU, on a processor with everything tiny: ended by its time, gone on with, and done once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer import Typer

from benchmarks import gpu_session
from benchmarks.gpu_session import Step, main, perform
from model_store.console import new_app, run
from tests.support.tiny import OVERRIDES, write_cycle

FAST = [*OVERRIDES, "sasrec.epochs=2", "tokenizer.epochs=5", "joint.epochs=2", "joint.alignment_from=1"]
STEPS = ["tests", "train-paper"]  # bench-gpu has a test of its own, and the presets differ in a word


def repeated(option: str, words: list[str]) -> list[str]:
    return [each for word in words for each in (option, word)]


@pytest.fixture
def app() -> Typer:
    made = new_app("session")
    made.command()(main)
    return made


def test_a_session_leaves_every_figure_with_the_devices_name(
    app: Typer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, data = tmp_path / "session", write_cycle(tmp_path / "cycle.txt", users=30)
    command = [
        "--data",
        str(data),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--tests",
        "tests/training/loop/test_loop_never_waits.py",
    ]
    command += [*repeated("--only", STEPS), *repeated("--set", FAST)]
    assert run(app, "gpu-session", [*command, "--minutes", "0"]) == 1
    assert json.loads(capsys.readouterr().out)["train-paper"] == "unfinished"
    assert run(app, "gpu-session", [*command, "--minutes", "30"]) == 0, {
        log.name: log.read_text()[-2000:] for log in out.glob("*.log")
    }
    done = dict.fromkeys(STEPS, "done")
    assert json.loads(capsys.readouterr().out) == {"session": "gpu", "device": "cpu", "folder": str(out), **done}
    found = {name: json.loads((out / f"{name}.json").read_text()) for name in STEPS}
    assert {each["device"] for each in found.values()} == {"cpu"}
    assert "skipped" in found["tests"]["result"] or "passed" in found["tests"]["result"]
    assert {"sasrec", "tiger", "generative", "fused"} <= found["train-paper"]["result"]["test"].keys()
    before = (out / "tests.json").stat().st_mtime_ns
    assert run(app, "gpu-session", [*command, "--minutes", "0"]) == 0  # nothing is done again
    assert (out / "tests.json").stat().st_mtime_ns == before


def test_a_step_is_ended_when_the_time_is_up_and_a_failing_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_session, "ENDING_S", 0.5)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    assert perform(Step("deaf", ["-c", deaf]), tmp_path, 2.0) == ("unfinished", "")
    assert perform(Step("bad", ["-c", "print('no'); raise SystemExit(3)"]), tmp_path, 60.0) == ("failed", "no")
    assert perform(Step("good", ["-c", "print('yes')"]), tmp_path, 60.0) == ("done", "yes")
