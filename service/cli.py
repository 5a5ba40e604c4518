"""The command ``etegrec-serve``: its options, the process around the server, the port."""

from __future__ import annotations

import gc
import ipaddress
import socket
import sys
from functools import partial
from typing import Annotated, Any

import structlog
import typer
import uvicorn

from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import EVERYONE
from model_store.console import EXIT_CODES, new_app, run
from model_store.errors import ConfigError
from service.app import create_app
from service.http.connections import Connections, affordable_limit
from service.http.protocol import BoundedHttp
from service.http.server import Server
from service.settings import ENV_PREFIX, EngineName, Settings
from service.telemetry import Telemetry, set_up_logs

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


@app.command(epilog=EXIT_CODES)
def serve(
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
    given = {name: value for name, value in locals().items() if value is not None}  # options are named as settings
    settings = Settings.load(**given)
    if settings.store != Settings.model_fields["store"].default:
        ModelStore(settings.store, trust=EVERYONE).require()  # a mistyped path would be waited for in vain
    run_service(settings)


def run_service(settings: Settings) -> None:
    """Serve until a signal ends the process; return after an orderly shutdown."""
    set_up_logs(settings.log_level)
    sys.setswitchinterval(SWITCH_S)
    application = create_app(settings)
    _collect_garbage_rarely()
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


def _collect_garbage_rarely() -> None:
    """Exclude everything created so far from garbage collection for good, and collect the rest less often.

    A visit of what exists so far takes a tenth of a second, in which no thread runs Python. Models are loaded later,
    and those that were replaced are collected when their engine closes.
    """
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
