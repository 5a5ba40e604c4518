"""Resumable session of all GPU tests, benchmarks and training runs (``make gpu-session DATA=…``).

It runs the tests that need a GPU, ``bench-gpu``, ``bench_compute`` (bf16 and compiled layers in training), and trains
both presets on a data set, from interactions to an evaluated bundle. Each step writes ``NAME.json`` with the device's
name into one folder; a step whose file exists is not repeated. When the time is up, the running step is ended, and the
next call resumes it: training from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from benchmarks.bench_gpu import choose_device
from model_store.console import new_app, run

ROOT = Path(__file__).resolve().parent.parent

ENDING_S = 20
"""Seconds that a step has to end by itself when the time is up."""

WORTHWHILE_S = 5
"""Least seconds left with which a step is begun."""

State = Literal["done", "unfinished", "failed"]


@dataclass(frozen=True)
class Step:
    """One command of the session."""

    name: str
    command: list[str]  # words after the interpreter
    prints_json: bool = True  # its last line of output


def steps(data: str, out: Path, device: str, tests: str, bench: list[str], overrides: list[str]) -> list[Step]:
    """Return all steps in order; ``bench`` and ``overrides`` go to bench-gpu and to training."""
    trained = [
        Step(f"train-{preset}", ["-m", "training", "run", "--preset", preset, "--device", device, "--data", data])
        for preset in ("paper", "cpu")
    ]
    settings = [word for override in overrides for word in ("--set", override)]

    return [
        Step("tests", ["-m", "pytest", "-m", "gpu", tests], prints_json=False),
        Step("bench-gpu", ["-m", "benchmarks.bench_gpu", "--device", device, *bench]),
        Step("bench-compute", ["-m", "benchmarks.bench_compute", "--device", device]),
        *(
            Step(each.name, [*each.command, "--baseline", "tiger", "--json", "--out", f"{out / each.name}", *settings])
            for each in trained
        ),
    ]


def perform(step: Step, out: Path, seconds: float) -> tuple[State, str]:
    """Run a step for some seconds at most.

    Its output goes to ``NAME.out`` and ``NAME.log`` in ``out``.

    Returns:
        Its state, and its last line of output.
    """
    printed = out / f"{step.name}.out"
    with printed.open("w") as stdout, (out / f"{step.name}.log").open("a") as stderr:
        # A session of its own, so that a signal reaches the step's own children and nobody else.
        process = subprocess.Popen(
            [sys.executable, *step.command], cwd=ROOT, stdout=stdout, stderr=stderr, start_new_session=True
        )
        try:
            code = process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            _end(process)
            return "unfinished", ""
        except BaseException:
            _end(process)
            raise

    lines = printed.read_text().splitlines()
    return "failed" if code else "done", lines[-1] if lines else ""


def name_of(device: str) -> str:
    """Return the device's name for the results."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def main(
    data: Annotated[str, typer.Option(help="Data to train on, as for `etegrec-train run`.")],
    out: Annotated[Path, typer.Option(help="Folder of the session. An unfinished session is resumed.")] = Path(
        "runs/gpu-session"
    ),
    device: Annotated[str, typer.Option(help="cuda, cuda:1 or cpu; empty: the GPU.")] = "",
    minutes: Annotated[float, typer.Option(min=0, help="Time limit; the next call resumes.")] = 9.0,
    only: Annotated[list[str], typer.Option(help="A step to do, of several; default: all.")] = [],  # noqa: B006
    tests: Annotated[str, typer.Option(help="Folder of the tests marked `gpu`.")] = "tests",
    bench: Annotated[list[str], typer.Option(help="A further word for bench-gpu. Repeatable.")] = [],  # noqa: B006
    overrides: Annotated[list[str], typer.Option("--set", help="Settings of training.")] = [],  # noqa: B006
) -> None:
    """Run tests, benchmarks and training on a GPU; print one line of JSON. Exit code 1: steps are left to do."""
    deadline = time.monotonic() + 60 * minutes
    where = choose_device(device)
    source = str(Path(data).resolve()) if Path(data).exists() else data
    folder = out.resolve()
    folder.mkdir(parents=True, exist_ok=True)

    wanted = [step for step in steps(source, folder, where, tests, bench, overrides) if not only or step.name in only]
    if unknown := set(only) - {step.name for step in wanted}:
        raise typer.BadParameter(f"there is no step {min(unknown)!r}", param_hint="--only")

    found: dict[str, State] = {}
    for step in wanted:
        found[step.name] = _run_step(step, folder, where, deadline)
        typer.echo(f"{step.name}: {found[step.name]}", err=True)

    typer.echo(json.dumps({"session": "gpu", "device": name_of(where), "folder": str(out), **found}))
    if set(found.values()) != {"done"}:
        raise typer.Exit(1)


def _run_step(step: Step, folder: Path, device: str, deadline: float) -> State:
    """Run a step, unless it is done already or no time is left, and write its result."""
    record = folder / f"{step.name}.json"
    started = time.monotonic()
    if record.is_file():
        return "done"
    if deadline - started < WORTHWHILE_S:
        return "unfinished"

    typer.echo(f"{step.name}: {deadline - started:.0f} s left; {folder / step.name}.log tells more", err=True)
    state, line = perform(step, folder, deadline - started)
    if state == "done":
        result: Any = json.loads(line) if step.prints_json else line
        known = {
            "device": name_of(device),
            "torch": torch.__version__,
            "last_call_s": round(time.monotonic() - started),
        }
        half = record.with_suffix(".part")
        half.write_text(json.dumps({"step": step.name, **known, "result": result}) + "\n")
        half.replace(record)
    return state


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(ENDING_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    application = new_app("Run all GPU tests, benchmarks and training runs, in calls of a few minutes.")
    application.command()(main)
    sys.exit(run(application, "gpu-session"))
