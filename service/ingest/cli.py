"""The command ``etegrec-ingest``: brings events from where they are into the store, as ``POST /events`` does."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import structlog
import typer
from prometheus_client import start_http_server

from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import Trust
from model_store.console import EXIT_CODES, new_app, print_json, run
from model_store.errors import ConfigError, DataError, LockHeld
from model_store.tracing.interface import opened_tracing
from service.app import open_store_of
from service.async_tasks import cancel_and_wait
from service.attribution.key_ring import KeyRing
from service.attribution.recorder import EventRecorder
from service.attribution.sealed_codes import SealedCodes
from service.ingest.checks import FIELDS, FieldRules, RecordCheck
from service.ingest.dead_letters import DeadLetters
from service.ingest.feed import Feed, FeedReport
from service.ingest.metrics import IngestMetrics
from service.ingest.source import Source
from service.settings import Settings
from service.store.base import Store
from service.store.client import StoreClient
from service.telemetry.logs import set_up_logs
from service.telemetry.telemetry import Telemetry

PROGRAM = "etegrec-ingest"

log = structlog.get_logger()

app = new_app(
    "Feed events into the store, as POST /events records them: same checks, same effect. The settings are those of the"
    " service (ETEGREC_*)."
)

DeadLettersOption = Annotated[
    Path,
    typer.Option(
        envvar="ETEGREC_INGEST_DEAD_LETTERS", help="File for records that are no events, with place and reason."
    ),
]
MetricsPortOption = Annotated[
    int,
    typer.Option(
        min=0, max=65_535, envvar="ETEGREC_INGEST_METRICS_PORT", help="Port for Prometheus, on all addresses; 0: none."
    ),
]
RenameOption = Annotated[
    list[str] | None,
    typer.Option(help="Read a field under another name, such as user_id=visitor. May be repeated."),
]
DropOption = Annotated[
    bool,
    typer.Option("--drop-unknown", help="Leave out fields that events do not have, instead of refusing the record."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as one line of JSON on standard output.")]


@app.command("kafka", epilog=EXIT_CODES)
def from_kafka(
    topic: Annotated[str, typer.Argument(help="Topic whose messages are events, one JSON object each.")],
    brokers: Annotated[
        str, typer.Option(envvar="ETEGREC_INGEST_BROKERS", help="Addresses of brokers, comma-separated.")
    ] = "localhost:9092",
    group: Annotated[str, typer.Option(envvar="ETEGREC_INGEST_GROUP", help="Consumer group.")] = "etegrec",
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="ETEGREC_INGEST_KAFKA_CONFIG",
            help="File with further properties of librdkafka, name=value a line, such as sasl.password.",
        ),
    ] = None,
    dead_letters: DeadLettersOption = Path("dead-letters.jsonl"),
    metrics_port: MetricsPortOption = 0,
    rename: RenameOption = None,
    drop_unknown: DropOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read a topic until SIGTERM. Offsets are committed once the store holds the events."""
    from service.ingest.kafka import KafkaSource, read_properties

    properties = read_properties(config)
    report = _run(
        lambda settings: KafkaSource(topic, brokers, group, properties, settings.max_body_bytes),
        dead_letters,
        metrics_port,
        _rules(rename, drop_unknown),
    )
    _print(report, as_json)


@app.command("files", epilog=EXIT_CODES)
def from_files(
    url: Annotated[
        str, typer.Argument(help="File, folder, or pattern with *: a path or an fsspec URL (s3://…, gs://…).")
    ],
    follow: Annotated[bool, typer.Option("--follow", help="Wait for new files and lines until SIGTERM.")] = False,
    progress: Annotated[
        str,
        typer.Option(envvar="ETEGREC_INGEST_PROGRESS", help="File that remembers what is recorded: a path or a URL."),
    ] = "ingest-progress.json",
    dead_letters: DeadLettersOption = Path("dead-letters.jsonl"),
    metrics_port: MetricsPortOption = 0,
    rename: RenameOption = None,
    drop_unknown: DropOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read JSON lines and Parquet, each record once; go on where the last run stopped.

    Exit code 4 says that records were refused or files not read, and that all others are recorded.
    """
    from service.ingest.files import FilesSource
    from service.ingest.progress import Progress

    report = _run(
        lambda settings: FilesSource(url, Progress(progress, url), follow, settings.max_body_bytes),
        dead_letters,
        metrics_port,
        _rules(rename, drop_unknown),
    )
    _print(report, as_json)
    _end_unclean(report, dead_letters)


@app.command("stdin", epilog=EXIT_CODES)
def from_standard_input(
    dead_letters: DeadLettersOption = Path("dead-letters.jsonl"),
    metrics_port: MetricsPortOption = 0,
    rename: RenameOption = None,
    drop_unknown: DropOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read JSON lines from standard input until it ends. Exit code 4 says that some were refused."""
    from service.ingest.standard_input import StandardInput

    report = _run(
        lambda settings: StandardInput(settings.max_body_bytes),
        dead_letters,
        metrics_port,
        _rules(rename, drop_unknown),
    )
    _print(report, as_json)
    _end_unclean(report, dead_letters)


def _rules(renames: list[str] | None, drops_unknown: bool) -> FieldRules:
    """Read ``--rename``.

    Raises:
        ConfigError: One is not ``ours=theirs``, or names no field of events.
    """
    found: dict[str, str] = {}
    for pair in renames or ():
        ours, sign, theirs = pair.partition("=")
        if not sign or not theirs or ours not in FIELDS:
            raise ConfigError(
                f"--rename {pair!r} is not understood", f"write FIELD=NAME, with FIELD one of {', '.join(FIELDS)}"
            )
        found[theirs] = ours
    return FieldRules(found, drops_unknown)


def _run(
    open_source: Callable[[Settings], Source], dead_letters: Path, metrics_port: int, rules: FieldRules
) -> FeedReport:
    """Open everything, feed, and close everything.

    Raises:
        LockHeld: The service has the embedded store open.
    """
    settings = Settings.load()
    set_up_logs(settings.log_level)
    metrics = IngestMetrics()
    letters = DeadLetters(dead_letters)
    try:
        source = open_source(settings)
        try:
            _serve_metrics(metrics_port, metrics)
            with opened_tracing(PROGRAM, is_on=settings.tracing) as tracing:
                telemetry = Telemetry(tracing)
                return asyncio.run(_feed(settings, source, rules, letters, metrics, telemetry))
        finally:
            source.close()
    finally:
        letters.close()


def _serve_metrics(port: int, metrics: IngestMetrics) -> None:
    """Serve the metrics, if there is a port for them.

    Raises:
        ConfigError: It is taken, or may not be opened.
    """
    if not port:
        return
    try:
        start_http_server(port, registry=metrics.registry)
    except OSError as cause:
        raise ConfigError(
            f"the port {port} of --metrics-port cannot be opened: {cause.strerror}",
            "name a free one with --metrics-port (ETEGREC_INGEST_METRICS_PORT), or 0 for none",
        ) from cause


async def _feed(
    settings: Settings,
    source: Source,
    rules: FieldRules,
    letters: DeadLetters,
    metrics: IngestMetrics,
    telemetry: Telemetry,
) -> FeedReport:
    store = _open_store(settings)
    client = StoreClient(store, telemetry, settings.live_check_s)
    check = RecordCheck(settings, rules)
    keys = KeyRing(settings, store.counters)
    recorder = EventRecorder(client, keys, settings.attribution_ttl_s, telemetry, _open_codes(settings))
    feed = Feed(source, recorder, check, letters, metrics, telemetry.tracing, settings.max_events)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, feed.stop)
    upkeep = asyncio.create_task(client.watch())  # trims what the store keeps, and watches its memory
    try:
        return await feed.run()
    finally:
        await cancel_and_wait(upkeep)
        await store.close()
        log.info("feed_ended", **feed.report()._asdict())


def _open_store(settings: Settings) -> Store:
    try:
        return open_store_of(settings)
    except LockHeld as cause:
        raise LockHeld(
            f"the service runs and has the embedded store open: {cause}",
            "let both use Redis (ETEGREC_REDIS_URL), stop the service meanwhile, or send POST /events",
        ) from cause


def _open_codes(settings: Settings) -> SealedCodes | None:
    """Return the codes of items; ``None`` where the model store cannot be opened: clicks count without a code then."""
    try:
        trust = Trust.at(settings.trusted_keys_file)
        return SealedCodes(ModelStore(settings.store, trust=trust, namespace=settings.namespace))
    except ConfigError as cause:
        log.warning("codes_not_found", cause=str(cause), fix=cause.hint)
        return None


def _print(report: FeedReport, as_json: bool) -> None:
    if as_json:
        print_json(report._asdict())
        return
    typer.echo(
        f"{report.accepted:,} events recorded, {report.duplicates:,} were known already,"
        f" {report.refused:,} records refused"
    )
    if report.ignored_attributions:
        typer.echo(f"{report.ignored_attributions:,} attributions did not verify and were left out")


def _end_unclean(report: FeedReport, dead_letters: Path) -> None:
    """End with the exit code of wrong input if not everything became an event."""
    if not report.is_clean:
        raise DataError(
            f"{report.refused:,} records were refused, and {report.file_failures:,} files could not be read",
            f"{dead_letters} says where and why; the log names the files. All others are recorded",
        )


def main() -> None:
    """Entry point of ``etegrec-ingest``."""
    sys.exit(run(app, PROGRAM))
