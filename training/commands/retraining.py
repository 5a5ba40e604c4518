"""Commands of retraining: one pass, or passes by the clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from model_store.bundle.signature import SigningKey
from model_store.console import print_json
from model_store.namespace import configured_namespace, place_of
from model_store.option_groups import with_option_groups
from model_store.replication.redis_address import TlsFiles
from model_store.replication.redis_keys import prefix_of
from model_store.tracing.interface import opened_tracing
from training.commands.data_options import DataOptions
from training.commands.options import (
    PROGRAM,
    CreateOption,
    JsonOption,
    KeyOption,
    RedisOption,
    StoreOption,
    event_log_of,
    open_model_store,
)
from training.config import TrainingConfig
from training.loop.progress import progress_for
from training.retraining.retrain import Retrainer
from training.retraining.schedule import run_schedule


@dataclass(frozen=True)
class PassOptions:
    """What passes of retraining work with, whether one is run or many."""

    work: Annotated[Path, typer.Option(help="Folder for drained events, runs and reports; kept between passes.")] = (
        Path("runs/retrain")
    )
    store: StoreOption = None
    redis_url: RedisOption = None
    events: Annotated[Path | None, typer.Option(help="Folder of the embedded event log. Default: STORE/events.")] = None
    max_gain: Annotated[
        float | None,
        typer.Option(
            help="Hold a candidate back for a person if its NDCG@10 is more than so many times the live one's; 0: "
            "never. Short for --set gate.max_gain=…",
        ),
    ] = None
    plausible_gain: Annotated[
        float | None,
        typer.Option(
            help="Gain of NDCG@10 up to which no candidate is held back. Short for --set gate.plausible_gain=…",
        ),
    ] = None
    warm: Annotated[
        bool | None,
        typer.Option(
            "--warm/--full",
            help="Go on from the live version where it fits, or train from scratch. Short for --set warm.start=…",
        ),
    ] = None
    signing_key: KeyOption = None
    create_store: CreateOption = False
    tracing: Annotated[
        bool, typer.Option("--tracing", envvar="ETEGREC_TRACING", help="Trace passes by OpenTelemetry; see OTEL_*.")
    ] = False

    def configured(self, source: DataOptions) -> TrainingConfig:
        """Return the configuration with the settings of retraining that have options of their own."""
        given = {"gate.max_gain": self.max_gain, "gate.plausible_gain": self.plausible_gain, "warm.start": self.warm}
        overrides = [f"{key}={str(value).lower()}" for key, value in given.items() if value is not None]
        return replace(source, overrides=[*source.overrides, *overrides]).load_config()


@with_option_groups()
def retrain(
    source: DataOptions,
    passes: PassOptions,
    once: Annotated[bool, typer.Option("--once", help="Run one pass, the default; `schedule` repeats passes.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Train even if there are no new interactions.")] = False,
    json: JsonOption = False,
) -> None:
    """Drain events, train a candidate, and promote it if it is not worse than the live version.

    What a person rolled back is neither promoted nor trained again from the same data and settings.
    """
    with _opened(source, passes) as retrainer:
        report = retrainer.run_once(force=force)
    if json:
        print_json(report.as_dict())
    else:
        page = [f"the figures of the gate: {report.page}"] if report.page else []
        for line in (report.reason, *report.warnings, *page):
            typer.echo(line)


@with_option_groups()
def schedule(
    source: DataOptions,
    passes: PassOptions,
    cron: Annotated[str, typer.Option(help="Times of retraining: five cron fields, in UTC.")] = "0 3 * * *",
) -> None:
    """Train a first model if no version is live, then retrain on a schedule until SIGTERM."""
    with _opened(source, passes) as retrainer:
        run_schedule(retrainer, cron)


@contextmanager
def _opened(source: DataOptions, passes: PassOptions) -> Iterator[Retrainer]:
    """Open what passes need; traces are sent until the end."""
    config = passes.configured(source)
    target = open_model_store(passes.store, passes.create_store)
    namespace = configured_namespace()
    with opened_tracing(PROGRAM, is_on=passes.tracing) as tracing:
        yield Retrainer(
            source.data,
            config,
            target,
            event_log_of(target, passes.redis_url, passes.events),
            Path(place_of(namespace, str(passes.work))),
            progress_for(),
            SigningKey.load(passes.signing_key) if passes.signing_key else None,
            tracing,
            prefix=prefix_of(namespace),
            tls=TlsFiles.configured(),
        )
