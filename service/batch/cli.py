"""The command ``etegrec-batch``: recommendations for all users, users for an item, similar items for all."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from model_store.console import EXIT_CODES, new_app, print_json, run, say
from model_store.errors import ConfigError, DataError
from model_store.option_groups import with_option_groups
from model_store.shards.local_processes import LocalProcesses
from model_store.shards.runners import ShardRunner
from service.batch.options import ANSWERS, KOption, PlacementOption, RayOption, RuleOptions, RunOptions, UserOptions
from service.batch.plan import Asked, HistorySource, Kind, Plan, deciding_settings
from service.batch.preparation import prepare
from service.batch.rules import read_rules
from service.batch.run import RunResult, finish_run
from service.batch.run_folder import RunFolder
from service.batch.users import HISTORY, UsersFile
from service.engines.onnx_engine import usable_cores
from service.schemas.recommend import RecommendRequest
from service.settings import Settings
from service.telemetry.logs import set_up_logs

app = new_app(
    "Compute answers for everyone at once and write them as Parquet. Settings of the service (ETEGREC_*) hold here,"
    " too. A run that was killed goes on when its command is repeated."
)


@app.command("recommend", epilog=EXIT_CODES)
@with_option_groups()
def recommend(of_run: RunOptions, of_users: UserOptions, rules: RuleOptions, ray: RayOption = "") -> None:
    """Recommend k items to every user, as POST /recommend would."""
    settings = _settings(of_run.store)
    request = read_rules(settings, rules)
    asked, file = _ask_for_users("recommend", settings, request, of_run, of_users)
    _run(of_run, asked, file, settings, ray)


@app.command("probabilities", epilog=EXIT_CODES)
@with_option_groups()
def probabilities(
    of_run: RunOptions,
    of_users: UserOptions,
    placement: PlacementOption = "",
    placement_file: Annotated[
        Path | None,
        typer.Option(
            "--placement-file",
            help="JSON file with the rules of a placement, as in PUT /placements, that the store need not have.",
            show_default="none",
            rich_help_panel=ANSWERS,
        ),
    ] = None,
) -> None:
    """Compute how probable each item is in each place of every user's answer, under rules that explore or not."""
    if placement and placement_file is not None:
        raise ConfigError("--placement and --placement-file are both given", "give one of them")
    settings = _settings(of_run.store)
    request = read_rules(settings, RuleOptions(placement=placement), placement_file)
    asked, file = _ask_for_users("probabilities", settings, request, of_run, of_users)
    _run(of_run, asked, file, settings)


@app.command("audience", epilog=EXIT_CODES)
@with_option_groups()
def audience(
    of_run: RunOptions,
    item: Annotated[list[str], typer.Option("--item", help="Item id; may be given several times.")],
    of_users: UserOptions,
    rules: RuleOptions,
    ray: RayOption = "",
) -> None:
    """Find the users who would see an item: those among whose k recommendations it is."""
    settings = _settings(of_run.store)
    request = read_rules(settings, rules)
    asked, file = _ask_for_users("audience", settings, request, of_run, of_users, item)
    _run(of_run, asked, file, settings, ray)


@app.command("similar", epilog=EXIT_CODES)
@with_option_groups()
def similar(of_run: RunOptions, k: KOption = None, ray: RayOption = "") -> None:
    """Find the k most similar items of every visible item, as GET /items/{item_id}/similar would."""
    settings = _settings(of_run.store)
    asked = Asked(
        kind="similar",
        version=of_run.version,
        request=read_rules(settings, RuleOptions(k=k)),
        shard_size=of_run.shard_size,
        is_live=settings.redis_url is not None,
        settings=deciding_settings(settings),
    )
    _run(of_run, asked, None, settings, ray)


def _settings(store: str | None) -> Settings:
    settings = Settings.load(**({} if store is None else {"store": store}))
    set_up_logs(settings.log_level)
    return settings


def _ask_for_users(
    kind: Kind,
    settings: Settings,
    request: RecommendRequest,
    of_run: RunOptions,
    of_users: UserOptions,
    items: Sequence[str] = (),
) -> tuple[Asked, UsersFile | None]:
    """Return what was asked, and the users file, which is checked."""
    source = _history_source(of_users.histories)
    file = None if of_users.users is None else UsersFile(of_users.users, of_users.user)
    if file is None and source != "training":
        raise ConfigError(f"--histories {source} needs --users", "give a Parquet file with one row for each user")
    if file is not None and source == "file" and not file.has_histories:
        raise DataError(
            f"{file.path.name} has no column {HISTORY!r}",
            "add it, a list of item ids for each user, oldest first, or take histories from elsewhere:"
            " --histories store or --histories training",
        )

    asked = Asked(
        kind=kind,
        version=of_run.version,
        request=request,
        histories=source,
        users_sha256="" if file is None else _sha256(file.path),
        items=tuple(dict.fromkeys(items)),
        shard_size=of_run.shard_size,
        is_live=source == "store" or settings.redis_url is not None or request.placement is not None,
        settings=deciding_settings(settings),
    )
    return asked, file


def _history_source(name: str) -> HistorySource:
    sources: dict[str, HistorySource] = {"file": "file", "store": "store", "training": "training"}
    if name not in sources:
        raise ConfigError(f"--histories {name} is unknown", f"choose from {', '.join(sources)}")
    return sources[name]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _runner(settings: Settings, processes: int, ray: str) -> ShardRunner:
    if ray:
        from model_store.shards.ray_cluster import RayCluster

        return RayCluster(ray)

    usual = 1 if settings.engine == "torch" else usable_cores()
    return LocalProcesses(processes or usual)


def _run(of_run: RunOptions, asked: Asked, users: UsersFile | None, settings: Settings, ray: str = "") -> None:
    if users is not None and users.path.resolve().is_relative_to(of_run.out.resolve()):
        raise ConfigError(
            f"{users.path} lies in the folder of the run, which holds nothing but what the run writes",
            "give another folder as --out",
        )
    runner = _runner(settings, of_run.processes, ray)
    folder = RunFolder(of_run.out)
    with folder.lock():
        plan = folder.read_plan()
        if plan is None:
            plan = asyncio.run(prepare(folder, asked, users, settings))
        else:
            plan.asked.require_same(asked, of_run.out)
        for note in plan.notes:
            say(note)
        result = finish_run(folder, plan, runner, say)
    _show(plan, result, of_run)


def _show(plan: Plan, result: RunResult, of_run: RunOptions) -> None:
    if of_run.as_json:
        print_json({**result.__dict__, "seconds": round(result.seconds, 3), "notes": plan.notes})
        return
    what = "items" if plan.asked.kind == "similar" else "users"
    typer.echo(f"{result.rows:,} {what} in {result.shards:,} files in {of_run.out}, answered by {result.version}")
    for name, count in result.counts.items():
        typer.echo(f"  {_MEANINGS.get(name, name)}: {count:,}")


_MEANINGS = {
    "model": "answered by the model",
    "no_history": "popular items, for lack of a history",
    "unknown_items": "popular items, since the catalogue knows no item of the history",
    "empty_rule": "nothing, since no item passes the filter",
    "explored": "with places that chance filled",
    "audience": "users who would see an item, counted for each item",
    "similar": "with their similar items",
}


def main() -> None:
    """Entry point of ``etegrec-batch``."""
    # Each process computes on one core: threads of NumPy would only wait for each other. Processes inherit this.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    sys.exit(run(app, "etegrec-batch"))


if __name__ == "__main__":
    main()
