"""The command ``etegrec-train``: train, evaluate, publish and retrain models."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SIGNING_ENV, SigningKey
from model_store.console import new_app, print_json, run, say, table_console
from model_store.errors import ConfigError
from model_store.secret_files import FOLDER_VARIABLE, read_secrets
from training.cli_options import DataOptions, with_data_options
from training.data.prepare import prepare as prepare_data
from training.data.validate import validate as validate_data
from training.evaluation.metrics import SEEN_EXCLUDED
from training.export.bundle import export_bundle, publish_run
from training.loop import distributed
from training.loop.progress import progress_for
from training.pipeline import Pipeline
from training.report.build import write_report
from training.report.notes import INTERVAL, coverage_note, search_note, show_interval, warnings
from training.report.style import model_name, sort_rows
from training.retraining.gate import Gate
from training.retraining.retrain import Retrainer
from training.retraining.schedule import run_schedule
from training.run_evaluation import Evaluation
from training.run_folder import RunFolder
from training.studies.ablation import Ablation
from training.studies.ablation_rows import ROWS, chosen_rows
from training.studies.new_items import NewItems

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
GainOption = Annotated[
    float,
    typer.Option(
        help="Hold a candidate back for a person if its NDCG@10 is more than so many times the live one's; 0: never."
    ),
]
PlausibleOption = Annotated[float, typer.Option(help="Gain of NDCG@10 up to which no candidate is held back.")]
EventsOption = Annotated[Path | None, typer.Option(help="Folder of the embedded event log. Default: STORE/events.")]
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
    json: JsonOption = False,
) -> None:
    """Read, filter and number interactions; equal input is prepared only once."""
    dataset = prepare_data(source.data, out, source.load_config().data, say, fetch_again=True)
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

    A run that was killed resumes from its last checkpoint. Under torchrun, all processes train together.
    """
    if unknown := set(baseline) - {"tiger"}:
        raise typer.BadParameter(f"there is no baseline {min(unknown)!r}, only tiger", param_hint="--baseline")
    config = source.load_config()
    tiger = "tiger" in baseline

    with distributed.process_group(device) as place:
        is_first = distributed.is_first()
        with distributed.first_then_others():
            folder = RunFolder.create_or_resume(out, config, source.data, resume if is_first else None)
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
    max_gain: GainOption = Gate.max_gain,
    plausible_gain: PlausibleOption = Gate.plausible_gain,
    signing_key: KeyOption = None,
    create_store: CreateOption = False,
    json: JsonOption = False,
) -> None:
    """Drain events, train a candidate, and promote it if it is not worse than the live version.

    What a person rolled back is neither promoted nor trained again from the same data and settings.
    """
    gate = Gate(max_gain, plausible_gain)
    retrainer = _retrainer(source, work, _open_store(store, create_store), redis_url, events, signing_key, gate)
    report = retrainer.run_once(force=force)
    if json:
        print_json(report.as_dict())
    else:
        for line in (report.reason, *report.warnings):
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
    max_gain: GainOption = Gate.max_gain,
    plausible_gain: PlausibleOption = Gate.plausible_gain,
    signing_key: KeyOption = None,
    create_store: CreateOption = False,
) -> None:
    """Train a first model if no version is live, then retrain on a schedule until SIGTERM."""
    gate = Gate(max_gain, plausible_gain)
    target = _open_store(store, create_store)
    run_schedule(_retrainer(source, work, target, redis_url, events, signing_key, gate), cron)


def _open_store(store: str | None, create: bool) -> ModelStore:
    """Open the model store; one that was named must exist, unless it is to be created."""
    target = ModelStore(store)
    if store is not None and not create:
        target.require()
    return target


def _retrainer(
    source: DataOptions,
    work: Path,
    target: ModelStore,
    redis_url: str | None,
    events: Path | None,
    signing_key: Path | None,
    gate: Gate,
) -> Retrainer:
    redis = redis_url or read_secrets(os.environ.get(FOLDER_VARIABLE, "")).get(REDIS_VARIABLE)
    log: str | Path | None = redis or events or (target.root.local and target.root.local / "events")
    if log is None:
        raise ConfigError(
            f"the event log is unknown: the model store {target.url} is not on a local disk",
            "set ETEGREC_REDIS_URL, or give --events",
        )
    key = SigningKey.load(signing_key) if signing_key else None
    return Retrainer(source.data, source.load_config(), target, log, work, progress_for(), key, gate)


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
    sys.exit(run(app, "etegrec-train"))


if __name__ == "__main__":
    main()
