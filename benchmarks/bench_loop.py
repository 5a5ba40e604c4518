"""The loop from answers to better answers, in a simulated shop (``make bench-loop DAYS=5 MINUTES=120``).

People with hidden tastes (:mod:`benchmarks.loop.world`) visit a shop whose page shows two answers of the real
``etegrec-serve``, which runs in its own process with a real Redis. What they click and buy goes back with attribution.
Each night the model is retrained on the events, behind the gate; in the last night it is trained on mixed-up items.

win_found_after: answers until the interval of the experiment with a better variant excluded 0; it is looked at four
times a day.
aa_false_alarms: experiments without a difference, of ``aa_runs``, whose goal claimed one on any evening. One more such
experiment runs over HTTP beside the better one (``aa_over_http``: looks at which it claimed something).
better_promoted, worse_refused: whether the gate promoted a night's model, and dropped that of mixed-up items.
off_policy_coverage: share of logs whose 95 % interval holds the known truth, of the estimator that does worse.
token_bytes: the longest attribution seen. cpu_share_more: share by which the processor time beside the engine grew
against an earlier release without attribution (``--before``, a checkout of it), in turns in one run, with 16 requests
in flight; ``cpu_share_more_alone``: with one.
warm_over_cold_s, warm_over_cold_cpu_s, warm_minus_cold_ndcg: as ``make bench-warm``, on interactions of such a shop.
refused_and_repeated (in ``parts``): requests of the days that the service refused, since its store did not confirm in
time, and that were asked again.
worse_rolled_back_s: seconds from the first answer of a worse version, which half of the people get as a canary, until
nobody gets it any more (:mod:`benchmarks.loop.canary`).

A part begins only while ``--minutes`` are not up; what is left out is null and named in ``left_out``. With ``--folder``
the parts that are done are kept, and the same command goes on with the others.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.bench_warm import compare_days
from benchmarks.loop.canary import roll_back_worse
from benchmarks.loop.cpu_cost import cpu_share_more
from benchmarks.loop.days import Days, run_days, set_up
from benchmarks.loop.nights import Nights
from benchmarks.loop.null_experiments import false_alarms
from benchmarks.loop.off_policy_draws import coverage
from benchmarks.loop.parts import Parts
from benchmarks.loop.shop import PATIENCE_MS, patient_client
from benchmarks.loop.world import World
from benchmarks.service_process import serving
from tests.support.redis_server import running_redis

SHELVES = 5
"""Shelves of each theme."""

SHARE_PUT_FORWARD = 0.15
"""Share of the items that the better variant puts forward."""

PEOPLE_OF_A_LOG = 1_000
"""People whose answers one off-policy estimate is made of."""

DAY_SHARE = 0.02
"""Share of all interactions that a day of the warm and cold trainings has."""

WARM_DAYS = 5

WARM_PEOPLE = 1_000
WARM_INTERACTIONS = 50_000
"""People and interactions of the warm and cold trainings: so many that training is most of a cold pass. With 15,000
interactions, half of it is what both sides have to do: evaluate, export and judge."""

CANARY_S = 300.0
"""Seconds after which a worse canary that still answers is given up."""


@dataclass(frozen=True)
class Shape:
    """Sizes and settings of the whole benchmark; see the options of the command."""

    days: int
    users: int
    items: int
    themes: int
    interactions: int
    preset: str
    overrides: list[str]
    seed: int

    def world(self) -> World:
        """Draw the world."""
        return World.make(self.users, self.items, self.themes, SHELVES, self.seed)


def simulate(shape: Shape, folder: Path, end: float) -> dict[str, Any]:
    """Train the first model, run the days through the real service, and return what they showed.

    Args:
        shape: Sizes and settings.
        folder: Folder for models and runs; what an earlier attempt left in it is removed.
        end: Time of ``time.monotonic()`` after which no day begins.
    """
    shutil.rmtree(folder, ignore_errors=True)
    world = shape.world()
    with tempfile.TemporaryDirectory(prefix="bench-loop-") as temporary, running_redis(Path(temporary) / "r") as server:
        nights = Nights(folder, world, shape.interactions, shape.preset, shape.overrides, server.url)
        nights.first_model()
        given = {"redis_url": server.url, "threads": 1, "reload_s": 1, "log_level": "warning"}
        given["deadline_ms"] = PATIENCE_MS
        with serving(nights.models, **given) as service, patient_client(service.port) as client:
            set_up(client, world, round(SHARE_PUT_FORWARD * shape.items))

            def night(day: int) -> dict[str, Any]:
                is_last = day == shape.days or time.monotonic() >= end
                return nights.mixed_up() if is_last and day > 1 else nights.usual()

            run = run_days(client, world, shape.days, end, night, shape.seed)
            rows = client.get_attribution()["days"]
            repeated = int(service.metric("etegrec_rejected_total"))
    return summary(run) | {"click_through": click_through(rows), "refused_and_repeated": repeated}


def summary(run: Days) -> dict[str, Any]:
    """Return the figures of the days."""
    usual = [night for night in run.nights if night["kind"] == "usual"]
    mixed_up = [night for night in run.nights if night["kind"] == "mixed up"]
    return {
        "days": run.days,
        "answers": sum(run.shop.answers.values()),
        "served_by": dict(run.shop.served),
        "token_bytes": run.shop.longest_token,
        "win_found_after": run.win_found_after,
        "win_found_on_day": run.win_found_on_day,
        "verdict": run.better.get("verdict"),
        "aa_over_http": run.false_alarms,
        "better_promoted": any(night["promoted"] for night in usual),
        "worse_refused": all(night["verdict"] == "drop" for night in mixed_up) if mixed_up else None,
        "nights": run.nights,
    }


def click_through(days: list[Any]) -> dict[str, float | None]:
    """Return clicks for each item shown by model version, over all days, oldest version first."""
    shown: dict[str, int] = {}
    clicks: dict[str, int] = {}
    for row in (row for day in days for row in day["versions"]):
        shown[row["name"]] = shown.get(row["name"], 0) + row["impressions"]
        clicks[row["name"]] = clicks.get(row["name"], 0) + row["clicks"]
    return {name: round(clicks[name] / shown[name], 4) if shown[name] else None for name in sorted(shown)}


def train_warm_and_cold(shape: Shape, folder: Path) -> dict[str, Any]:
    """Return the figures of ``make bench-warm`` for interactions of such a shop."""
    world = replace(shape, users=WARM_PEOPLE).world()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = world.history(WARM_INTERACTIONS, seed=1)
    return compare_days(log, world.table(), WARM_DAYS, DAY_SHARE, shape.preset, shape.overrides, folder)


def main(
    days: Annotated[int, typer.Option(min=1, help="Days of visits.")] = 5,
    minutes: Annotated[float, typer.Option(min=0.0, help="Minutes after which no further day or part begins.")] = 120.0,
    users: Annotated[int, typer.Option(min=20, help="People.")] = 2_000,
    items: Annotated[int, typer.Option(min=40, help="Items.")] = 400,
    themes: Annotated[int, typer.Option(min=2, help="Themes of items.")] = 8,
    interactions: Annotated[int, typer.Option(min=500, help="Interactions before the first day.")] = 15_000,
    preset: Annotated[str, typer.Option(help="Preset of sizes and schedule.")] = "demo",
    overrides: Annotated[list[str], typer.Option("--set", help="Override a setting: section.key=value.")] = [],  # noqa: B006
    aa_runs: Annotated[int, typer.Option(min=0, help="Experiments without a difference.")] = 200,
    draws: Annotated[int, typer.Option(min=1, help="Logs of off-policy estimates.")] = 500,
    before: Annotated[Path | None, typer.Option(help="Checkout of an earlier release without attribution.")] = None,
    seconds: Annotated[float, typer.Option(help="Seconds of each turn of the two releases.")] = 8.0,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each release.")] = 5,
    seed: int = 0,
    folder: Annotated[Path | None, typer.Option(help="Folder that keeps the parts; default: a temporary one.")] = None,
) -> None:
    end = time.monotonic() + 60 * minutes
    shape = Shape(days, users, items, themes, interactions, preset, overrides, seed)
    with tempfile.TemporaryDirectory(prefix="bench-loop-") as temporary:
        work = folder or Path(temporary)
        parts = Parts(work / "parts", {**vars(shape), "aa_runs": aa_runs, "draws": draws}, end)
        found = {
            "aa": parts.run("aa", lambda: false_alarms(shape.world(), aa_runs, days, seed)),
            "off_policy": parts.run("off_policy", lambda: dict(coverage(shape.world(), draws, PEOPLE_OF_A_LOG, seed))),
            "canary": parts.run("canary", lambda: roll_back_worse(work / "canary", users, CANARY_S, seed)),
            "days": parts.run("days", lambda: simulate(shape, work / "days", end)),
            "warm": parts.run("warm", lambda: train_warm_and_cold(shape, work / "warm")),
        }
        if before is not None:
            found["cpu"] = parts.run("cpu", lambda: cpu_share_more(work / "cpu", before, seconds, repeats))
    typer.echo(json.dumps(line(found, aa_runs, parts.left_out)))


def line(found: dict[str, dict[str, Any]], aa_runs: int, left_out: list[str]) -> dict[str, Any]:
    """Return the one line of the benchmark: the figures with a limit first, then what they come from."""
    days = found["days"]
    return {
        "bench": "loop",
        "token_bytes": days.get("token_bytes"),
        "cpu_share_more": found.get("cpu", {}).get("cpu_share_more"),
        "cpu_share_more_alone": found.get("cpu", {}).get("cpu_share_more_alone"),
        "days": days.get("days"),
        "win_found_after": days.get("win_found_after"),
        "worse_rolled_back_s": found["canary"].get("worse_rolled_back_s"),
        "aa_false_alarms": found["aa"].get("reached_goal"),
        "aa_runs": aa_runs,
        "off_policy_coverage": min(found["off_policy"].values(), default=None),
        "warm_over_cold_s": found["warm"].get("warm_over_cold_s"),
        "warm_over_cold_cpu_s": found["warm"].get("warm_over_cold_cpu_s"),
        "warm_minus_cold_ndcg": found["warm"].get("warm_minus_cold_ndcg"),
        "better_promoted": days.get("better_promoted"),
        "worse_refused": days.get("worse_refused"),
        "left_out": left_out,
        "load": round(os.getloadavg()[0], 2),
        "parts": found,
    }


if __name__ == "__main__":
    typer.run(main)
