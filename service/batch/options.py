"""Options that the commands of ``etegrec-batch`` share: of the run, of its users, and of the rules of answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from service.batch.users import HISTORY

_RUN = "Run"
_USERS = "Users"
ANSWERS = "Answers"
"""Heading in the help of a command for options that decide answers."""

KOption = Annotated[
    int | None, typer.Option("--k", help="Answers for each user.", show_default="10", rich_help_panel=ANSWERS)
]
PlacementOption = Annotated[
    str,
    typer.Option(
        "--placement",
        help="Placement in the store, whose rules hold where no option is given, as they are when the run begins.",
        show_default="none",
        rich_help_panel=ANSWERS,
    ),
]
RayOption = Annotated[
    str,
    typer.Option(
        "--ray",
        help="Address of a Ray cluster that computes the shards, `auto` on one of its machines.",
        show_default="this machine",
        rich_help_panel=_RUN,
    ),
]


@dataclass(frozen=True)
class RunOptions:
    """Options of a run: its place, the version that answers, and how the work is divided."""

    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder of the run: plan, Parquet files, manifest. Where it is resumed, too.",
            rich_help_panel=_RUN,
        ),
    ]
    store: Annotated[
        str | None,
        typer.Option(
            "--store", help="Model store (ETEGREC_STORE, default ./models).", show_default=False, rich_help_panel=_RUN
        ),
    ] = None
    version: Annotated[
        str,
        typer.Option(
            "--version",
            help="Version that answers.",
            show_default="the live version when the run begins",
            rich_help_panel=_RUN,
        ),
    ] = ""
    shard_size: Annotated[
        int, typer.Option("--shard-size", min=1, help="Users or items of a file.", rich_help_panel=_RUN)
    ] = 10_000
    """About a minute of a core, which is what a killed process loses."""
    processes: Annotated[
        int,
        typer.Option(
            "--processes",
            min=0,
            envvar="ETEGREC_BATCH_PROCESSES",
            help="Processes; 0: one for each core, or one with the torch engine.",
            rich_help_panel=_RUN,
        ),
    ] = 0
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON instead of text.", rich_help_panel=_RUN)
    ] = False


@dataclass(frozen=True)
class UserOptions:
    """Who gets answers, and where their histories come from."""

    users: Annotated[
        Path | None,
        typer.Option(
            "--users",
            help=f"Parquet file with one row for each user: the id, and `{HISTORY}`, a list of item ids, oldest first.",
            show_default="with --histories training: all of them",
            rich_help_panel=_USERS,
        ),
    ] = None
    histories: Annotated[
        str,
        typer.Option(
            "--histories",
            help=f"Where histories come from: file (column `{HISTORY}`), store (what the service recorded), or training"
            " (the version's training data).",
            rich_help_panel=_USERS,
        ),
    ] = "file"
    user: Annotated[
        str,
        typer.Option("--user", help="Column of the user id.", show_default="the usual names", rich_help_panel=_USERS),
    ] = ""


@dataclass(frozen=True)
class RuleOptions:
    """Rules of every answer; an option that is not given leaves the rule to the placement."""

    k: KOption = None
    filter_: Annotated[
        str, typer.Option("--filter", help="JSON of a filter, as in POST /recommend.", rich_help_panel=ANSWERS)
    ] = ""
    exclude_seen: Annotated[
        str,
        typer.Option(
            "--exclude-seen",
            help="true, false, or types of events, as in POST /recommend.",
            show_default="true",
            rich_help_panel=ANSWERS,
        ),
    ] = ""
    max_per_prefix: Annotated[
        int | None,
        typer.Option(
            "--max-per-prefix",
            help="Answers that may share their first code.",
            show_default="any",
            rich_help_panel=ANSWERS,
        ),
    ] = None
    rules: Annotated[
        str,
        typer.Option(
            "--rules",
            help="JSON object with boosts, pins, steer, max_per_prefix or exploration, as in POST /recommend. Boosts"
            " apply or not by the time when the run begins.",
            show_default="none",
            rich_help_panel=ANSWERS,
        ),
    ] = ""
    placement: PlacementOption = ""
