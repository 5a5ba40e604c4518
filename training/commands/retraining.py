"""Commands of retraining: one pass, or passes by the clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SigningKey
from model_store.console import print_json
from model_store.namespace import configured_namespace, place_of
from model_store.option_groups import with_option_groups
from model_store.replication.redis_address import TlsFiles
from model_store.replication.redis_keys import prefix_of
from model_store.tracing.interface import Tracing, opened_tracing
from training.commands.data_options import DataOptions
from training.commands.options import (
    PROGRAM,
    CreateOption,
    EventsOption,
    GainOption,
    JsonOption,
    KeyOption,
    PlausibleOption,
    RedisOption,
    StoreOption,
    TracingOption,
    WarmOption,
    WorkOption,
    event_log_of,
    open_model_store,
)
from training.config import TrainingConfig
from training.loop.progress import progress_for
from training.retraining.retrain import Retrainer
from training.retraining.schedule import run_schedule


@with_option_groups()
def retrain(
    source: DataOptions,
    work: WorkOption = Path("runs/retrain"),
    store: StoreOption = None,
    redis_url: RedisOption = None,
    events: EventsOption = None,
    once: Annotated[bool, typer.Option("--once", help="Run one pass, the default; `schedule` repeats passes.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Train even if there are no new interactions.")] = False,
    max_gain: GainOption = None,
    plausible_gain: PlausibleOption = None,
    warm: WarmOption = None,
    signing_key: KeyOption = None,
    create_store: CreateOption = False,
    tracing: TracingOption = False,
    json: JsonOption = False,
) -> None:
    """Drain events, train a candidate, and promote it if it is not worse than the live version.

    What a person rolled back is neither promoted nor trained again from the same data and settings.
    """
    config = _retraining_config(source, max_gain, plausible_gain, warm)
    target = open_model_store(store, create_store)
    with opened_tracing(PROGRAM, is_on=tracing) as traces:
        retrainer = _retrainer(source, config, work, target, redis_url, events, signing_key, traces)
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
    cron: Annotated[str, typer.Option(help="Times of retraining: five cron fields, in UTC.")] = "0 3 * * *",
    work: WorkOption = Path("runs/retrain"),
    store: StoreOption = None,
    redis_url: RedisOption = None,
    events: EventsOption = None,
    max_gain: GainOption = None,
    plausible_gain: PlausibleOption = None,
    warm: WarmOption = None,
    signing_key: KeyOption = None,
    create_store: CreateOption = False,
    tracing: TracingOption = False,
) -> None:
    """Train a first model if no version is live, then retrain on a schedule until SIGTERM."""
    config = _retraining_config(source, max_gain, plausible_gain, warm)
    target = open_model_store(store, create_store)
    with opened_tracing(PROGRAM, is_on=tracing) as traces:
        run_schedule(_retrainer(source, config, work, target, redis_url, events, signing_key, traces), cron)


def _retraining_config(
    source: DataOptions, max_gain: float | None, plausible_gain: float | None, warm: bool | None
) -> TrainingConfig:
    """Return the configuration with the settings of retraining that have options of their own."""
    given = {"gate.max_gain": max_gain, "gate.plausible_gain": plausible_gain, "warm.start": warm}
    overrides = [f"{key}={str(value).lower()}" for key, value in given.items() if value is not None]
    return replace(source, overrides=[*source.overrides, *overrides]).load_config()


def _retrainer(
    source: DataOptions,
    config: TrainingConfig,
    work: Path,
    target: ModelStore,
    redis_url: str | None,
    events: Path | None,
    signing_key: Path | None,
    tracing: Tracing,
) -> Retrainer:
    namespace = configured_namespace()
    log = event_log_of(target, redis_url, events)
    key = SigningKey.load(signing_key) if signing_key else None
    return Retrainer(
        source.data,
        config,
        target,
        log,
        Path(place_of(namespace, str(work))),
        progress_for(),
        key,
        tracing,
        prefix=prefix_of(namespace),
        tls=TlsFiles.configured(),
    )
