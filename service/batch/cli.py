"""The command ``etegrec-batch``: recommendations for all users, users for an item, similar items for all."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from model_store.console import EXIT_CODES, new_app, print_json, run, say
from model_store.errors import ConfigError
from model_store.shards.local_processes import LocalProcesses
from model_store.shards.runners import ShardRunner
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

SHARD_SIZE = 10_000
"""Users or items of a shard: some twenty seconds of a core, which is what a killed process loses."""

app = new_app(
    "Compute answers for everyone at once and write them as Parquet. Settings of the service (ETEGREC_*) hold here,"
    " too. A run that was killed goes on when its command is repeated."
)

OutOption = Annotated[
    Path, typer.Option("--out", help="Folder of the run: plan, Parquet files, manifest. Where it is resumed, too.")
]
StoreOption = Annotated[
    str | None, typer.Option("--store", help="Model store (ETEGREC_STORE, default ./models).", show_default=False)
]
VersionOption = Annotated[
    str, typer.Option("--version", help="Version that answers.", show_default="the live version when the run begins")
]
KOption = Annotated[int | None, typer.Option("--k", min=1, help="Answers for each user.", show_default="10")]
FilterOption = Annotated[str, typer.Option("--filter", help="JSON of a filter, as in POST /recommend.")]
SeenOption = Annotated[
    str,
    typer.Option("--exclude-seen", help="true, false, or types of events, as in POST /recommend.", show_default="true"),
]
PrefixOption = Annotated[
    int | None, typer.Option("--max-per-prefix", help="Answers that may share their first code.", show_default="any")
]
RulesOption = Annotated[
    str,
    typer.Option(
        "--rules",
        help="JSON object with boosts, pins, steer, max_per_prefix or exploration, as in POST /recommend. Boosts apply"
        " or not by the time when the run begins.",
        show_default="none",
    ),
]
PlacementOption = Annotated[
    str,
    typer.Option(
        "--placement",
        help="Placement in the store, whose rules hold where no option is given, as they are when the run begins.",
        show_default="none",
    ),
]
PlacementFileOption = Annotated[
    Path | None,
    typer.Option(
        "--placement-file",
        help="JSON file with the rules of a placement, as in PUT /placements, that the store need not have.",
        show_default="none",
    ),
]
UsersOption = Annotated[
    Path | None,
    typer.Option(
        "--users",
        help=f"Parquet file with one row for each user: the id, and `{HISTORY}`, a list of item ids, oldest first.",
        show_default="with --histories training: all of them",
    ),
]
UserOption = Annotated[str, typer.Option("--user", help="Column of the user id.", show_default="the usual names")]
HistoriesOption = Annotated[
    str,
    typer.Option(
        "--histories",
        help=f"Where histories come from: file (column `{HISTORY}`), store (what the service recorded), or training"
        " (the version's training data).",
    ),
]
SizeOption = Annotated[int, typer.Option("--shard-size", min=1, help="Users or items of a file.")]
ProcessesOption = Annotated[
    int, typer.Option("--processes", min=0, help="Processes; 0: one for each core, or one with the torch engine.")
]
RayOption = Annotated[
    str,
    typer.Option(
        "--ray",
        help="Address of a Ray cluster that computes the shards, `auto` on one of its machines.",
        show_default="this machine",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of text.")]


@app.command("recommend", epilog=EXIT_CODES)
def recommend(
    out: OutOption,
    users: UsersOption = None,
    store: StoreOption = None,
    version: VersionOption = "",
    histories: HistoriesOption = "file",
    user: UserOption = "",
    k: KOption = None,
    filter_: FilterOption = "",
    exclude_seen: SeenOption = "",
    max_per_prefix: PrefixOption = None,
    rules: RulesOption = "",
    placement: PlacementOption = "",
    shard_size: SizeOption = SHARD_SIZE,
    processes: ProcessesOption = 0,
    ray: RayOption = "",
    as_json: JsonOption = False,
) -> None:
    """Recommend k items to every user, as POST /recommend would."""
    settings = _settings(store)
    request = read_rules(
        settings,
        k=k,
        filter_=filter_,
        exclude_seen=exclude_seen,
        max_per_prefix=max_per_prefix,
        placement=placement,
        rules=rules,
    )
    asked, file = _ask_for_users("recommend", settings, version, request, users, user, histories, shard_size)
    _run(out, asked, file, settings, _runner(settings, processes, ray), as_json)


@app.command("probabilities", epilog=EXIT_CODES)
def probabilities(
    out: OutOption,
    users: UsersOption = None,
    store: StoreOption = None,
    version: VersionOption = "",
    histories: HistoriesOption = "file",
    user: UserOption = "",
    placement: PlacementOption = "",
    placement_file: PlacementFileOption = None,
    shard_size: SizeOption = SHARD_SIZE,
    processes: ProcessesOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Compute how probable each item is in each place of every user's answer, under rules that explore or not."""
    if placement and placement_file is not None:
        raise ConfigError("--placement and --placement-file are both given", "give one of them")
    settings = _settings(store)
    request = read_rules(settings, placement=placement, placement_file=placement_file)
    asked, file = _ask_for_users("probabilities", settings, version, request, users, user, histories, shard_size)
    _run(out, asked, file, settings, _runner(settings, processes, ""), as_json)


@app.command("audience", epilog=EXIT_CODES)
def audience(
    out: OutOption,
    item: Annotated[list[str], typer.Option("--item", help="Item id; may be given several times.")],
    users: UsersOption = None,
    store: StoreOption = None,
    version: VersionOption = "",
    histories: HistoriesOption = "file",
    user: UserOption = "",
    k: KOption = None,
    filter_: FilterOption = "",
    exclude_seen: SeenOption = "",
    max_per_prefix: PrefixOption = None,
    rules: RulesOption = "",
    placement: PlacementOption = "",
    shard_size: SizeOption = SHARD_SIZE,
    processes: ProcessesOption = 0,
    ray: RayOption = "",
    as_json: JsonOption = False,
) -> None:
    """Find the users who would see an item: those among whose k recommendations it is."""
    settings = _settings(store)
    request = read_rules(
        settings,
        k=k,
        filter_=filter_,
        exclude_seen=exclude_seen,
        max_per_prefix=max_per_prefix,
        placement=placement,
        rules=rules,
    )
    asked, file = _ask_for_users("audience", settings, version, request, users, user, histories, shard_size, item)
    _run(out, asked, file, settings, _runner(settings, processes, ray), as_json)


@app.command("similar", epilog=EXIT_CODES)
def similar(
    out: OutOption,
    store: StoreOption = None,
    version: VersionOption = "",
    k: KOption = None,
    shard_size: SizeOption = SHARD_SIZE,
    processes: ProcessesOption = 0,
    ray: RayOption = "",
    as_json: JsonOption = False,
) -> None:
    """Find the k most similar items of every visible item, as GET /items/{item_id}/similar would."""
    settings = _settings(store)
    asked = Asked(
        kind="similar",
        version=version,
        request=read_rules(settings, k=k),
        shard_size=shard_size,
        is_live=settings.redis_url is not None,
        settings=deciding_settings(settings),
    )
    _run(out, asked, None, settings, _runner(settings, processes, ray), as_json)


def _settings(store: str | None) -> Settings:
    settings = Settings.load(**({} if store is None else {"store": store}))
    set_up_logs(settings.log_level)
    return settings


def _ask_for_users(
    kind: Kind,
    settings: Settings,
    version: str,
    request: RecommendRequest,
    users: Path | None,
    user_column: str,
    histories: str,
    shard_size: int,
    items: list[str] | None = None,
) -> tuple[Asked, UsersFile | None]:
    """Return what was asked, and the users file, which is checked."""
    source = _history_source(histories)
    file = None if users is None else UsersFile(users, user_column)
    if file is None and source != "training":
        raise ConfigError(f"--histories {source} needs --users", "give a Parquet file with one row for each user")
    if file is not None and source == "file" and not file.has_histories:
        raise ConfigError(
            f"{file.path.name} has no column {HISTORY!r}",
            "add it, a list of item ids for each user, oldest first, or take histories from elsewhere:"
            " --histories store or --histories training",
        )

    asked = Asked(
        kind=kind,
        version=version,
        request=request,
        histories=source,
        users_sha256="" if file is None else _sha256(file.path),
        items=tuple(dict.fromkeys(items or ())),
        shard_size=shard_size,
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


def _run(
    out: Path, asked: Asked, users: UsersFile | None, settings: Settings, runner: ShardRunner, as_json: bool
) -> None:
    folder = RunFolder(out)
    with folder.lock():
        plan = folder.read_plan()
        if plan is None:
            plan = asyncio.run(prepare(folder, asked, users, settings))
        else:
            plan.asked.require_same(asked, out)
        for note in plan.notes:
            say(note)
        result = finish_run(folder, plan, runner, say)
    _show(plan, result, out, as_json)


def _show(plan: Plan, result: RunResult, out: Path, as_json: bool) -> None:
    if as_json:
        print_json({**result.__dict__, "seconds": round(result.seconds, 3), "notes": plan.notes})
        return
    what = "items" if plan.asked.kind == "similar" else "users"
    typer.echo(f"{result.rows:,} {what} in {result.shards:,} files in {out}, answered by {result.version}")
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
