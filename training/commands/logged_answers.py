"""Commands about logged answers: what they led to, and what other answers would have led to."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from model_store.attribution.keys import KEYS_VARIABLE, AttributionKeys
from model_store.attribution.names import names_by_label
from model_store.bundle.histories import HISTORIES, iterate_histories
from model_store.bundle.registry import ModelStore
from model_store.console import print_json
from model_store.errors import DataError
from model_store.namespace import configured_namespace
from model_store.replication.redis_address import TlsFiles
from training.commands.options import (
    DrainedOption,
    JsonOption,
    KeyFolderOption,
    RedisOption,
    StoreOption,
    event_log_of,
    open_model_store,
    secret,
)
from training.off_policy.evaluation import evaluate as evaluate_policy
from training.off_policy.logged_answers import LONGEST_HISTORY, histories_before, read_answers
from training.off_policy.other_policy import compute_answers, read_answers_of, write_histories
from training.retraining.attribution_report import attribution_report, stored_keys
from training.retraining.drain_events import read_drained


def attribution(
    drained: DrainedOption = Path("runs/retrain/events"),
    store: StoreOption = None,
    redis_url: RedisOption = None,
    log: KeyFolderOption = None,
    json: JsonOption = False,
) -> None:
    """Count what answers led to from the drained events, as `GET /attribution` counts it live.

    Answers are no events: how many there were, and so click-through, only the service knows. Experiments stand under
    the hash that their report gives.
    """
    target = open_model_store(store, create=False)
    found = attribution_report(read_drained(drained), _attribution_keys(target, redis_url, log))
    document = found.as_dict(names_by_label(target.versions()))
    if json:
        print_json(document)
        return
    for day in document["days"]:
        for row in (*day["versions"], *day["placements"]):
            typer.echo(f"{day['day']}  {row['name']}  {_shown_events(row)}")
    for label, variants in document["experiments"].items():
        for row in variants:
            active = ", ".join(f"{count:,} with {kind}" for kind, count in row["active"].items())
            typer.echo(f"experiment {label}, variant {row['variant']}: users and sessions: {active}")
    typer.echo(f"{found.attributed:,} attributed events, {found.unverified:,} that none of the keys signed")


def off_policy(
    drained: DrainedOption = Path("runs/retrain/events"),
    store: StoreOption = None,
    redis_url: RedisOption = None,
    log: KeyFolderOption = None,
    logged: Annotated[str, typer.Option(help="Placement whose logged answers count. Default: all that explored.")] = "",
    version: Annotated[str, typer.Option(help="Version to estimate. Default: the live one.")] = "",
    placement: Annotated[str, typer.Option(help="Placement in the store to estimate.")] = "",
    placement_file: Annotated[
        Path | None, typer.Option(help="JSON file with the rules to estimate, as in PUT /placements/{name}.")
    ] = None,
    event: Annotated[str, typer.Option(help="Type of the events to count.")] = "click",
    work: Annotated[
        Path | None, typer.Option(help="New folder for histories and probabilities. Default: one that is removed.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Estimate the click-through of another version or placement from logged answers, before any experiment.

    The answers must have explored, and events must say what was shown (ETEGREC_IMPLICIT_IMPRESSIONS=false). Exit code 1
    with the reason if they say too little.
    """
    target = open_model_store(store, create=False)
    events = read_drained(drained)
    answers, left_out = read_answers(events, _attribution_keys(target, redis_url, log), logged or None, event)
    if not answers:
        reasons = (
            "; ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "no event has an attribution"
        )
        raise DataError(
            f"the log holds no answer that explored and was shown: {reasons}",
            "let placements explore (`exploration`), set ETEGREC_IMPLICIT_IMPRESSIONS=false and send impression events",
        )

    options = ["--store", target.url, *_given({"--version": version, "--placement": placement})]
    options += ["--placement-file", str(placement_file)] if placement_file else []
    bundle = target.bundle(version or None)
    earlier = iterate_histories(bundle.read(HISTORIES)) if HISTORIES in bundle else iter(())
    with nullcontext(work) if work else TemporaryDirectory() as folder:
        users = Path(folder) / "histories.parquet"
        users.parent.mkdir(parents=True, exist_ok=True)
        write_histories(users, histories_before(answers, events, earlier, LONGEST_HISTORY))
        compute_answers(users, Path(folder) / "answers", options, redis_url)
        others = read_answers_of(Path(folder) / "answers", len(answers))

    found = evaluate_policy(answers, others, event, left_out).as_dict()
    if json:
        print_json({"version": bundle.version, **found})
        return
    typer.echo(f"{event} for each item shown, {found['answers']:,} answers to {found['users']:,} users")
    for name in ("logged", "snips", "doubly_robust"):
        rate = found[name]
        typer.echo(f"  {name:14} {rate['value']:.4%}  ({rate['low']:.4%} to {rate['high']:.4%})")
    typer.echo(f"effective answers {found['effective_answers']:,}, support {found['support']:.1%}")
    for reason, count in left_out.items():
        typer.echo(f"left out: {count:,} {reason}")


def _given(options: dict[str, str]) -> list[str]:
    """Return command-line options that have a value."""
    return [part for name, value in options.items() if value for part in (name, value)]


def _attribution_keys(target: ModelStore, redis_url: str | None, log: Path | None) -> AttributionKeys:
    """Return the keys of the service: those of the settings, or the one that its store keeps."""
    namespace = configured_namespace()
    keys = AttributionKeys.configured(os.environ.get(KEYS_VARIABLE) or secret(KEYS_VARIABLE), namespace)
    return keys or stored_keys(event_log_of(target, redis_url, log), namespace, TlsFiles.configured())


def _shown_events(row: dict[str, Any]) -> str:
    """Return events by type in words, with the sums of their values."""
    parts = []
    for kind, count in row["events"].items():
        sums = ", ".join(f"{value:g} {currency}" for currency, value in row["values"].get(kind, {}).items())
        parts.append(f"{kind} {count:,}" + (f" ({sums})" if sums else ""))
    return "  ".join(parts)
