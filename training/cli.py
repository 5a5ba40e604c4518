"""The command ``etegrec-train``: train, evaluate, publish and retrain models."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.table import Table

from model_store.attribution.keys import KEYS_VARIABLE, AttributionKeys
from model_store.attribution.names import names_by_label
from model_store.bundle.histories import HISTORIES, iterate_histories
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SIGNING_ENV, SigningKey
from model_store.console import new_app, print_json, run, say, table_console
from model_store.errors import ConfigError, DataError
from model_store.namespace import configured_namespace, place_of
from model_store.replication.redis_address import TlsFiles
from model_store.replication.redis_schema import prefix_of
from model_store.secret_files import FOLDER_VARIABLE, read_secrets
from model_store.tracing.interface import Tracing, opened_tracing
from training.cli_options import DataOptions, with_data_options
from training.config import TrainingConfig
from training.data.prepare import Machines
from training.data.prepare import prepare as prepare_data
from training.data.validate import validate as validate_data
from training.evaluation.metrics import SEEN_EXCLUDED
from training.export.bundle import export_bundle, publish_run
from training.loop import distributed
from training.loop.progress import progress_for
from training.off_policy.evaluation import evaluate as evaluate_policy
from training.off_policy.logged_answers import LONGEST_HISTORY, histories_before, read_answers
from training.off_policy.other_policy import compute_answers, read_answers_of, write_histories
from training.pipeline import Pipeline
from training.report.build import write_report
from training.report.notes import INTERVAL, coverage_note, search_note, show_interval, warnings
from training.report.style import model_name, sort_rows
from training.retraining.attribution_report import attribution_report, stored_keys
from training.retraining.drain_events import read_drained
from training.retraining.retrain import Retrainer
from training.retraining.schedule import run_schedule
from training.run_evaluation import Evaluation
from training.run_folder import RunFolder
from training.studies.ablation import Ablation
from training.studies.ablation_rows import ROWS, chosen_rows
from training.studies.new_items import NewItems

PROGRAM = "etegrec-train"

app = new_app("Train ETEGRec on your own interactions and publish the result as a sealed model version.")

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON on standard output.")]
StoreOption = Annotated[
    str | None, typer.Option(help="Model store: folder or URL. Default: ETEGREC_STORE, or ./models.")
]
CreateOption = Annotated[
    bool, typer.Option("--create-store", help="Begin a new model store if --store names a folder that does not exist.")
]
RunArgument = Annotated[Path, typer.Argument(help="Run folder: the --out of `etegrec-train run`.")]
WorkOption = Annotated[Path, typer.Option(help="Folder for drained events, runs and reports; kept between passes.")]
REDIS_VARIABLE = "ETEGREC_REDIS_URL"
RedisOption = Annotated[
    str | None, typer.Option(envvar=REDIS_VARIABLE, help="Redis with the events. Default: the embedded event log.")
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--signing-key", envvar=SIGNING_ENV, help="Private key that signs the version. Default: none."),
]
TracingOption = Annotated[
    bool, typer.Option("--tracing", envvar="ETEGREC_TRACING", help="Trace passes by OpenTelemetry; see OTEL_*.")
]
GainOption = Annotated[
    float | None,
    typer.Option(
        help="Hold a candidate back for a person if its NDCG@10 is more than so many times the live one's; 0: never. "
        "Short for --set gate.max_gain=…",
    ),
]
PlausibleOption = Annotated[
    float | None,
    typer.Option(
        help="Gain of NDCG@10 up to which no candidate is held back. Short for --set gate.plausible_gain=…",
    ),
]
WarmOption = Annotated[
    bool | None,
    typer.Option(
        "--warm/--full",
        help="Go on from the live version where it fits, or train from scratch. Short for --set warm.start=…",
    ),
]
EventsOption = Annotated[Path | None, typer.Option(help="Folder of the embedded event log. Default: STORE/events.")]
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


@app.command()
@with_data_options()
def prepare(
    source: DataOptions,
    out: Annotated[Path, typer.Option(help="Folder for the prepared data set.")],
    ray: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Read on a Ray cluster, whose machines see source and --out under the same paths; auto: on one of "
            "its machines.",
        ),
    ] = "",
    partitions: Annotated[int, typer.Option(min=1, help="With --ray: parts of the users.")] = 64,
    json: JsonOption = False,
) -> None:
    """Read, filter and number interactions; equal input is prepared only once."""
    machines = None
    if ray:
        from model_store.shards.ray_cluster import RayCluster  # importing Ray takes a second

        machines = Machines(RayCluster(ray), partitions)
    dataset = prepare_data(source.data, out, source.load_config().data, say, fetch_again=True, machines=machines)
    counts = {"users": dataset.users, "items": dataset.n_items, "interactions": dataset.interactions}
    if json:
        left_out = {"untrained_items": len(dataset.untrained_items), "set_aside": len(dataset.set_aside)}
        print_json({"name": dataset.name, "fingerprint": dataset.fingerprint, **counts, **left_out})
    else:
        typer.echo(f"{dataset.name}: " + ", ".join(f"{count:,} {kind}" for kind, count in counts.items()))


@app.command()
@with_data_options("")
def validate(
    source: DataOptions,
    interactions: Annotated[str, typer.Argument(metavar="DATA", help="The same as --data.", show_default=False)] = "",
    json: JsonOption = False,
) -> None:
    """Check interactions and items as `prepare` reads them, without writing anything.

    Prints PASS, NOTE or FAIL for each check; exit code 1 if any fails. NOTE is what `prepare` handles by itself, with
    the number of rows that it drops.
    """
    source = replace(source, data=source.data or interactions)
    checks = []
    for check in validate_data(source.data, source.load_config().data, say):
        checks.append(check)
        if not json:
            typer.echo(f"{check.outcome.upper()}  {check.name}: {check.detail}")
            for row in check.rows:
                typer.echo(f"      {row}")

    passed = all(check.passed for check in checks)
    if json:
        print_json({"passed": passed, "checks": [check.as_dict() for check in checks]})
    if not passed:
        raise typer.Exit(1)


@app.command("run")
@with_data_options()
def run_all(
    source: DataOptions,
    out: Annotated[Path, typer.Option(help="Run folder. An unfinished run with the same configuration is resumed.")],
    baseline: Annotated[list[str], typer.Option(help="Baseline to train as well: tiger.")] = [],  # noqa: B006
    device: DeviceOption = "cpu",
    resume: ResumeOption = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write learning curves to OUT/tensorboard as they come.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Run all stages: prepare, embed, tokenizer, joint, fine-tune, evaluate, export.

    A run that was killed resumes from its last checkpoint. Under torchrun, all processes train together, on one machine
    or several that share the folder.
    """
    if unknown := set(baseline) - {"tiger"}:
        raise typer.BadParameter(f"there is no baseline {min(unknown)!r}, only tiger", param_hint="--baseline")
    config = source.load_config()
    tiger = "tiger" in baseline

    with distributed.process_group(device) as place:
        is_first = distributed.is_first()
        with distributed.first_then_others():
            folder = RunFolder.create_or_resume(out, config, source.data, resume if is_first else None)
        folder.require_shared()
        pipeline = Pipeline(folder, progress_for(quiet=not is_first), place, tensorboard)
        _ = pipeline.dataset  # opened even if the run is finished: changed data must be refused
        pipeline.train(tiger)

    # From here on one process is enough.
    if not is_first:
        return
    pipeline.evaluate(tiger)
    export_bundle(pipeline)
    _report(pipeline.evaluate(), json)


@app.command()
def evaluate(run_folder: RunArgument, device: DeviceOption = "cpu", json: JsonOption = False) -> None:
    """Print the metrics of a run, all models under both protocols; missing stages are run first."""
    _report(Pipeline(RunFolder.open(run_folder), progress_for(), device).evaluate(), json)


@app.command()
@with_data_options()
def ablate(
    source: DataOptions,
    out: Annotated[
        Path, typer.Option(help="Folder of the ablation. An unfinished one with the same settings is resumed.")
    ],
    seeds: Annotated[
        int, typer.Option(min=1, help="Number of seeds; the first is the configuration's, the others follow it.")
    ] = 3,
    rows: Annotated[
        str,
        typer.Option(
            help=f"Rows to train, separated by commas: {', '.join(row.key for row in ROWS)}. full is always included."
        ),
    ] = "",
    unseen_users: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of users to leave out of training, drawn anew for each seed.")
    ] = 0.05,
    finished_only: Annotated[
        bool, typer.Option("--finished-only", help="Show the finished rows without training.")
    ] = False,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Train the method without each of its parts, at an equal budget over several seeds, and compare the results."""
    chosen = chosen_rows([key.strip() for key in rows.split(",") if key.strip()])
    ablation = Ablation(out, source.load_config(), source.data, chosen, seeds, unseen_users, progress_for(), device)
    report = ablation.report() if finished_only else ablation.run()

    if json:
        print_json(report.as_dict())
        return
    console = table_console()
    for table in report.tables():
        console.print(table)


@app.command("new-items")
@with_data_options()
def new_items(
    source: DataOptions,
    out: Annotated[
        Path, typer.Option(help="Folder of the study. An unfinished one with the same settings is resumed.")
    ],
    share: Annotated[float, typer.Option(min=0, max=0.5, help="Share of the items to leave out of training.")] = 0.05,
    json: JsonOption = False,
) -> None:
    """Train without some items, add them by their content alone as the service does, and measure recommendations."""
    found = NewItems(out, source.load_config(), source.data, share, progress_for()).run()
    if json:
        print_json(found.as_dict())
        return
    console = table_console()
    for table in found.tables():
        console.print(table)


@app.command()
def report(run_folder: RunArgument, device: DeviceOption = "cpu", json: JsonOption = False) -> None:
    """Rebuild the report of a run, an HTML page with charts, also in the run's bundle if it has been exported."""
    write_report(Pipeline(RunFolder.open(run_folder), progress_for(), device))
    page = run_folder / "report" / "index.html"
    if json:
        print_json({"report": str(page)})
    else:
        typer.echo(f"report written to {page}")


@app.command()
def export(run_folder: RunArgument, json: JsonOption = False) -> None:
    """Write the files of the bundle into the run folder, after checking that they agree with each other."""
    export_bundle(Pipeline(RunFolder.open(run_folder), progress_for()))
    if json:
        print_json({"bundle": str(run_folder / "bundle")})
    else:
        typer.echo(f"exported to {run_folder / 'bundle'}")


@app.command()
def publish(
    run_folder: RunArgument,
    store: StoreOption = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make the new version live.")] = False,
    create_store: CreateOption = False,
    signing_key: KeyOption = None,
    json: JsonOption = False,
) -> None:
    """Seal a run's bundle as a new version of the model store, and sign it if there is a key."""
    target = _open_store(store, create_store)
    key = SigningKey.load(signing_key) if signing_key else None
    if promote:
        target.trust.check_publisher(key)
    pipeline = Pipeline(RunFolder.open(run_folder), progress_for())
    version = publish_run(pipeline, target, key=key)
    if promote:
        target.promote(version)

    known = warnings(pipeline.evaluate())
    if json:
        print_json({"version": version, "live": promote, "warnings": known})
    else:
        for line in (f"published {version}" + (", now live" if promote else ""), *known):
            typer.echo(line)


@app.command()
@with_data_options()
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
    target = _open_store(store, create_store)
    with opened_tracing(PROGRAM, is_on=tracing) as traces:
        retrainer = _retrainer(source, config, work, target, redis_url, events, signing_key, traces)
        report = retrainer.run_once(force=force)
    if json:
        print_json(report.as_dict())
    else:
        page = [f"the figures of the gate: {report.page}"] if report.page else []
        for line in (report.reason, *report.warnings, *page):
            typer.echo(line)


@app.command()
@with_data_options()
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
    target = _open_store(store, create_store)
    with opened_tracing(PROGRAM, is_on=tracing) as traces:
        run_schedule(_retrainer(source, config, work, target, redis_url, events, signing_key, traces), cron)


def _retraining_config(
    source: DataOptions, max_gain: float | None, plausible_gain: float | None, warm: bool | None
) -> TrainingConfig:
    """Return the configuration with the settings of retraining that have options of their own."""
    given = {"gate.max_gain": max_gain, "gate.plausible_gain": plausible_gain, "warm.start": warm}
    overrides = [f"{key}={str(value).lower()}" for key, value in given.items() if value is not None]
    return replace(source, overrides=[*source.overrides, *overrides]).load_config()


@app.command()
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
    target = _open_store(store, create=False)
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


@app.command("off-policy")
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
    target = _open_store(store, create=False)
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
    keys = AttributionKeys.configured(os.environ.get(KEYS_VARIABLE) or _secret(KEYS_VARIABLE), namespace)
    return keys or stored_keys(_event_log(target, redis_url, log), namespace, TlsFiles.configured())


def _shown_events(row: dict[str, Any]) -> str:
    """Return events by type in words, with the sums of their values."""
    parts = []
    for kind, count in row["events"].items():
        sums = ", ".join(f"{value:g} {currency}" for currency, value in row["values"].get(kind, {}).items())
        parts.append(f"{kind} {count:,}" + (f" ({sums})" if sums else ""))
    return "  ".join(parts)


def _open_store(store: str | None, create: bool) -> ModelStore:
    """Open the model store; one that was named must exist, unless it is to be created."""
    target = ModelStore(store)
    if store is not None and not create:
        target.require()
    return target


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
    log = _event_log(target, redis_url, events)
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


def _event_log(target: ModelStore, redis_url: str | None, folder: Path | None) -> str | Path:
    """Return where events are recorded: the URL of a Redis, or the folder of the embedded event log.

    Raises:
        ConfigError: Nothing says it.
    """
    log = redis_url or _secret(REDIS_VARIABLE) or folder or (target.root.local and target.root.local / "events")
    if log is None:
        raise ConfigError(
            f"the event log is unknown: the model store {target.url} is not on a local disk",
            "set ETEGREC_REDIS_URL, or name the folder of the embedded event log",
        )
    return log


def _secret(variable: str) -> str:
    """Return a setting from the files of secrets; empty if they do not bring it."""
    return read_secrets(os.environ.get(FOLDER_VARIABLE, "")).get(variable, "")


def _report(evaluation: Evaluation, json: bool) -> None:
    known = warnings(evaluation)
    if json:
        print_json(evaluation.as_dict() | {"warnings": known})
        return
    console = table_console()
    for suffix, title in (("", "history items may be answers"), (SEEN_EXCLUDED, "history items excluded")):
        console.print(evaluation_table(evaluation, suffix, title))
    console.print(search_note(evaluation))
    console.print("seconds: " + ", ".join(f"{stage} {seconds:g}" for stage, seconds in evaluation.seconds.items()))
    for line in known:
        console.print(f"\n{line}", markup=False)


def evaluation_table(evaluation: Evaluation, suffix: str, title: str) -> Table:
    """Return a table of the test metrics of every model under one protocol; coverage stands below the second.

    The last column has the bootstrap intervals of NDCG@10.
    """
    names = [name for name in evaluation.test["popularity"] if name.endswith(SEEN_EXCLUDED) == bool(suffix)]
    caption = coverage_note(evaluation) if suffix else ""
    table = Table(title=f"Test users, full ranking; {title}", caption=caption or None, caption_justify="left")
    table.add_column("model")
    for name in names:
        table.add_column(name.removesuffix(suffix), justify="right")
    table.add_column(INTERVAL, justify="right")
    for row in sort_rows(evaluation.test):
        metrics = (f"{evaluation.test[row][name]:.4f}" for name in names)
        table.add_row(model_name(row), *metrics, show_interval(evaluation.intervals["test"][row], suffix))
    return table


def main() -> None:
    """Run the command."""
    sys.exit(run(app, PROGRAM))


if __name__ == "__main__":
    main()
