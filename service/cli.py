"""The command ``etegrec-serve``: its options, the process around the server, the port."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
import uvicorn

from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import EVERYONE, Trust
from model_store.console import EXIT_CODES, new_app, print_json, run, say
from model_store.errors import ConfigError, LockHeld
from model_store.source_files.column_names import Columns
from service.app import create_app, open_store_of
from service.histories.by_hand import ImportResult, import_all, import_version
from service.histories.history_file import read_history_file
from service.http.connections import Connections, affordable_limit
from service.http.protocol import BoundedHttp
from service.http.server import Server
from service.settings import ENV_PREFIX, EngineName, Settings
from service.store.base import Store
from service.telemetry.logs import set_up_logs
from service.telemetry.telemetry import Telemetry

SWITCH_S = 0.0005
"""Longest time that one Python thread keeps another waiting. The threads that prepare and finish batches delay the
event loop, and it delays the start of a batch on all cores: with Python's 5 ms, every answer takes visibly longer."""

YOUNG_OBJECTS = 20_000
"""Number of new objects that starts a garbage collection. Reference counting frees nearly everything that requests
leave; at Python's default, collections under load visit the same waiting requests again and again, while all threads
stop."""

BACKLOG = 2048
"""Largest number of connections that wait to be accepted; the system may allow fewer."""

app = new_app("Serve the promoted model of a model store over HTTP. Every setting is also an ETEGREC_* variable.")


def _option(name: str) -> Any:
    """Return an option with the meaning and default of a setting. Not given, the variable or the default counts."""
    field = Settings.model_fields[name]
    shown = f"{field.description} ({ENV_PREFIX}{name.upper()}, default {field.default})"
    return typer.Option(f"--{name.replace('_', '-')}", help=shown, show_default=False)


@app.callback(invoke_without_command=True, no_args_is_help=False, epilog=EXIT_CODES)
def serve(
    context: typer.Context,
    store: Annotated[str | None, _option("store")] = None,
    host: Annotated[str | None, _option("host")] = None,
    port: Annotated[int | None, _option("port")] = None,
    engine: Annotated[EngineName | None, _option("engine")] = None,
    threads: Annotated[int | None, _option("threads")] = None,
    max_batch: Annotated[int | None, _option("max_batch")] = None,
    batch_wait_ms: Annotated[float | None, _option("batch_wait_ms")] = None,
    queue_size: Annotated[int | None, _option("queue_size")] = None,
    deadline_ms: Annotated[float | None, _option("deadline_ms")] = None,
    reload_s: Annotated[float | None, _option("reload_s")] = None,
    log_level: Annotated[str | None, _option("log_level")] = None,
) -> None:
    """Listen until SIGTERM or Ctrl-C. Without a promoted model, wait for one."""
    # options are named as settings
    context.obj = {name: value for name, value in locals().items() if value is not None and name != "context"}
    if store is not None:
        ModelStore(store, trust=EVERYONE).require()  # a mistyped path would be waited for in vain
    if context.invoked_subcommand is None:
        run_service(Settings.load(**context.obj))


@app.command("import-history", epilog=EXIT_CODES)
def import_history(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Interactions: separated text with a header, Parquet or JSON lines, as for etegrec-train.",
            show_default="the histories of a version",
        ),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Version whose histories to import.", show_default="the live version")
    ] = None,
    store: Annotated[str | None, _option("store")] = None,
    user: Annotated[str, typer.Option(help="Column of the user id.", show_default="the usual names")] = "",
    item: Annotated[str, typer.Option(help="Column of the item id.", show_default="the usual names")] = "",
    timestamp: Annotated[str, typer.Option(help="Column of the time.", show_default="the usual names")] = "",
    event: Annotated[str, typer.Option(help="Column of the type.", show_default="the usual names")] = "",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip lines that cannot be used.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of text.")] = False,
) -> None:
    """Import past interactions into the histories of users, from a file or from a version's training data.

    The settings must be those of the service. Interactions that are there already, and those of erased users, are left
    out, so it may be repeated. Services import the live version's histories by themselves.
    """
    settings = Settings.load(**(context.obj | ({"store": store} if store else {})))
    if file is not None and version is not None:
        raise ConfigError("a file and --version exclude each other", "name a file or use --version")

    if file is None:
        trust = Trust.at(settings.trusted_keys_file)
        bundle = ModelStore(settings.store, trust=trust, namespace=settings.namespace).bundle(version)
        result = _import(settings, lambda opened: import_version(opened, bundle, say))
    else:
        columns = Columns(user=user, item=item, timestamp=timestamp, event=event)
        read = read_history_file(file, columns, skip_bad)
        for note in read.notes:
            say(note)
        histories = read.histories(settings.history_cap)
        result = _import(settings, lambda opened: import_all(opened, histories, len(read.user_ids), say))

    if as_json:
        print_json(result._asdict())
    else:
        typer.echo(
            f"{result.written_interactions:,} interactions came into the histories of {result.written_users:,} of"
            f" {result.users:,} users; the others had them already, or were erased"
        )


def _import(settings: Settings, work: Callable[[Store], Awaitable[ImportResult]]) -> ImportResult:
    """Open the store, import and close it.

    Raises:
        LockHeld: The service has the embedded store open.
    """

    async def import_and_close() -> ImportResult:
        try:
            opened = open_store_of(settings)
        except LockHeld as cause:
            raise LockHeld(
                f"the service runs and has the embedded store open: {cause}",
                "stop it during the import, or let it use Redis (ETEGREC_REDIS_URL); the live version's histories it"
                " imports by itself",
            ) from cause

        try:
            return await work(opened)
        finally:
            await opened.close()

    return asyncio.run(import_and_close())


def run_service(settings: Settings) -> None:
    """Serve until a signal ends the process; return after an orderly shutdown."""
    set_up_logs(settings.log_level)
    application = create_app(settings)
    tune_interpreter()
    _warn_if_exposed(settings.host, is_open=application.state.service.gate.is_open)
    connections = _open_table(settings, application.state.service.telemetry)

    config = uvicorn.Config(
        application,
        host=settings.host,
        port=settings.port,
        lifespan="on",
        ws="none",
        http=partial(BoundedHttp, connections),  # type: ignore[arg-type]  # uvicorn only calls it
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_s)),
    )

    with listen(settings.host, settings.port) as listener:
        server = Server(config, application.state.service.begin_drain, settings.shutdown_delay_s)
        server.run(sockets=[listener])


def tune_interpreter() -> None:
    """Let threads of this process take turns as a service needs it, and collect its garbage less often.

    Everything created so far is excluded from collection for good: a visit of it takes a tenth of a second, in which no
    thread runs Python. Models are loaded later, and those that were replaced are collected when their engine closes.
    """
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def _open_table(settings: Settings, telemetry: Telemetry) -> Connections:
    """Return the table of connections, with as many as the process may have files open."""
    limit = affordable_limit(settings.max_connections)
    if limit < settings.max_connections:
        structlog.get_logger().warning(
            "fewer_connections",
            limit=limit,
            max_connections=settings.max_connections,
            fix="raise the limit of open files (ulimit -n), or lower ETEGREC_MAX_CONNECTIONS",
        )
    return Connections(limit, settings.max_connections_per_address, telemetry)


def listen(host: str, port: int) -> socket.socket:
    """Open the port before anything is loaded, so that a mistake shows at once.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as cause:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {cause.strerror or cause}",
            "stop the program that uses the port, or choose another --port or --host",
        ) from cause


def _warn_if_exposed(host: str, *, is_open: bool) -> None:
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"

    if is_open and not is_loopback:
        structlog.get_logger().warning(
            "open_to_everyone", host=host, fix="set ETEGREC_READ_KEYS and ETEGREC_WRITE_KEYS"
        )


def main() -> None:
    """Entry point of ``etegrec-serve``."""
    sys.exit(run(app, "etegrec-serve"))
