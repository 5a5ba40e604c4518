"""Growth of time and memory of every stage with the number of items (``make bench-growth``).

Data are generated for each size (:mod:`benchmarks.growth.data`): ten interactions an item. Every stage runs in a
process of its own; stages that train do so for ``--minutes`` at most, all others whole. Of each stage and size:

unit_s: CPU seconds of a unit of work: an interaction, item, target or user. seconds: time on the clock of the work that
was done. whole_cpu_s: CPU seconds of all units, which in training means one epoch. peak_gib: largest resident set of
the process.

exponents: slope of log whole_cpu_s over log size; 1 is linear, 2 quadratic. faster_than_n_log_n: stages whose
whole_cpu_s grows faster than that from the smallest to the largest size, by more than noise. Up to 50,000 items the
losses of ``embedding`` and ``joint`` score all items for every target, which is quadratic; beyond that they score
samples.
above_memory: stages that needed more than 20 GiB at any size. A stage that fails or takes longer than
``--stage-minutes`` is listed in failed with its reason, and ends its size.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from benchmarks.growth.curve import exponents, grows_faster

STAGES = (
    *("prepare", "content", "embedding", "blend", "tokenizer", "collisions"),
    *("joint", "evaluation", "export", "publish", "load"),
)
MOST_GIB = 20.0
KIB = 1 << 10


class Ended(NamedTuple):
    """A process that ended."""

    found: dict[str, Any] | None  # what it measured
    problem: str
    peak_gib: float


def run_stage(stage: str, folder: Path, options: list[str], most_seconds: float) -> Ended:
    """Run a stage in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth.stages", stage, "--folder", str(folder), *options]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        timer = threading.Timer(most_seconds, process.kill)
        timer.start()
        output = process.stdout.read() if process.stdout else ""
        _, status, used = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = errors.read().strip().splitlines()

    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else KIB) / (1 << 30)
    if process.returncode == 0:
        return Ended(json.loads(output.splitlines()[-1]), "", peak)
    killed = "it took too long, or too much memory" if process.returncode < 0 else ""
    return Ended(None, killed or (said[-1] if said else f"exit code {process.returncode}"), peak)


def figures(ended: Ended) -> dict[str, Any]:
    """Return the figures of a stage at one size."""
    found = ended.found or {}
    unit_s = found["cpu_seconds"] / found["done"]
    return {
        "unit": found["unit"],
        "units": found["whole"],
        "unit_s": float(f"{unit_s:.3g}"),
        "seconds": round(found["seconds"], 2),
        "whole_cpu_s": round(unit_s * found["whole"], 2),
        "peak_gib": round(ended.peak_gib, 2),
    }


def summarise(by_stage: dict[str, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """Return the figures of all stages with their growth, and the lists of those that are out of bounds."""
    costs = {
        stage: {size: max(each["whole_cpu_s"], 0.01) for size, each in found.items()}
        for stage, found in by_stage.items()
    }
    peaks = {stage: max(each["peak_gib"] for each in found.values()) for stage, found in by_stage.items()}
    return {
        "stages": {
            stage: {"exponents": exponents(costs[stage]), **{str(size): each for size, each in found.items()}}
            for stage, found in by_stage.items()
        },
        "faster_than_n_log_n": [stage for stage, cost in costs.items() if grows_faster(cost)],
        "above_memory": [stage for stage, peak in peaks.items() if peak > MOST_GIB],
    }


def main(
    sizes: Annotated[list[int] | None, typer.Option(help="Numbers of items; several options.")] = None,
    minutes: Annotated[float, typer.Option(help="Time of each stage that trains, at each size.")] = 1.0,
    stage_minutes: Annotated[float, typer.Option(help="Most time of any stage.")] = 60.0,
    memory_gib: Annotated[float, typer.Option(help="Most data of a stage's process; more fails.")] = MOST_GIB,
    preset: str = "cpu",
    stages: Annotated[list[str] | None, typer.Option(help="Only these; those before must be done in --folder.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder to keep; default: a temporary one.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Settings of the run.")] = None,
) -> None:
    options = ["--seconds", str(60 * minutes), "--memory-gib", str(memory_gib), "--preset", preset]
    options += [word for override in overrides or [] for word in ("--set", override)]
    by_stage: dict[str, dict[int, dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="bench-growth-") as temporary:
        for size in sorted(sizes or (10_000, 100_000, 1_000_000)):
            place = (folder or Path(temporary)) / str(size)
            if not place.exists():
                # In a process of its own: what this one needs would count in the peaks of those that it starts.
                subprocess.run([sys.executable, "-m", "benchmarks.growth.data", str(place), str(size)], check=True)
            for stage in stages or STAGES:
                ended = run_stage(stage, place, options, 60 * stage_minutes)
                if ended.found is None:
                    failed[f"{stage} {size}"] = f"{ended.problem} (peak {ended.peak_gib:.2f} GiB)"
                    typer.echo(f"{stage} {size}: {failed[f'{stage} {size}']}", err=True)
                    break
                by_stage.setdefault(stage, {})[size] = figures(ended)
                typer.echo(f"{stage} {size}: {json.dumps(by_stage[stage][size])}", err=True)

    summary = summarise(by_stage)
    load = round(os.getloadavg()[0], 2)
    typer.echo(
        json.dumps(
            {"bench": "growth", **summary, "failed": failed, "preset": preset, "cores": os.cpu_count(), "load": load}
        )
    )


if __name__ == "__main__":
    typer.run(main)
