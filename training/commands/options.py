"""Options that several commands have, and what they stand for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SIGNING_ENV
from model_store.errors import ConfigError
from model_store.secret_files import FOLDER_VARIABLE, read_secrets

PROGRAM = "etegrec-train"

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON on standard output.")]
StoreOption = Annotated[
    str | None, typer.Option(help="Model store: folder or URL. Default: ETEGREC_STORE, or ./models.")
]
CreateOption = Annotated[
    bool, typer.Option("--create-store", help="Begin a new model store if --store names a folder that does not exist.")
]
RunArgument = Annotated[Path, typer.Argument(help="Run folder: the --out of `etegrec-train run`.")]
REDIS_VARIABLE = "ETEGREC_REDIS_URL"
RedisOption = Annotated[
    str | None, typer.Option(envvar=REDIS_VARIABLE, help="Redis with the events. Default: the embedded event log.")
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--signing-key", envvar=SIGNING_ENV, help="Private key that signs the version. Default: none."),
]
DrainedOption = Annotated[
    Path, typer.Option("--events", help="Folder of drained events: WORK/events of `etegrec-train retrain`.")
]
KeyFolderOption = Annotated[
    Path | None, typer.Option(help="Folder of the embedded event log, for its key. Default: STORE/events.")
]
DeviceOption = Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:1 …")]
ResumeOption = Annotated[
    bool | None,
    typer.Option(
        "--resume/--no-resume",
        help="Require a run to resume in --out, or require that there is none. Default: either is fine.",
    ),
]


def open_model_store(store: str | None, create: bool) -> ModelStore:
    """Open the model store; one that was named must exist, unless it is to be created."""
    target = ModelStore(store)
    if store is not None and not create:
        target.require()
    return target


def event_log_of(target: ModelStore, redis_url: str | None, folder: Path | None) -> str | Path:
    """Return where events are recorded: the URL of a Redis, or the folder of the embedded event log.

    Raises:
        ConfigError: Nothing says it.
    """
    log = redis_url or secret(REDIS_VARIABLE) or folder or (target.root.local and target.root.local / "events")
    if log is None:
        raise ConfigError(
            f"the event log is unknown: the model store {target.url} is not on a local disk",
            "set ETEGREC_REDIS_URL, or name the folder of the embedded event log",
        )
    return log


def secret(variable: str) -> str:
    """Return a setting from the files of secrets; empty if they do not bring it."""
    return read_secrets(os.environ.get(FOLDER_VARIABLE, "")).get(variable, "")
