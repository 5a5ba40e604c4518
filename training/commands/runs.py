"""Commands of one run: prepare, validate, run, evaluate, report, export, publish."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from model_store.bundle.signature import SigningKey
from model_store.console import print_json, say
from model_store.errors import ConfigError
from model_store.option_groups import with_option_groups
from training.commands.data_options import DataOptions
from training.commands.evaluation_tables import show_evaluation
from training.commands.options import (
    CreateOption,
    DeviceOption,
    JsonOption,
    KeyOption,
    ResumeOption,
    RunArgument,
    StoreOption,
    open_model_store,
)
from training.data.prepare import Machines
from training.data.prepare import prepare as prepare_data
from training.data.validate import validate as validate_data
from training.export.bundle import export_bundle, publish_run
from training.loop import distributed
from training.loop.progress import progress_for
from training.pipeline import Pipeline
from training.report.build import write_report
from training.report.notes import warnings
from training.run_folder import RunFolder
from training.run_mirror import mirrored

PARTITIONS = 64
"""Parts of the users in a preparation on a Ray cluster, unless others are asked for."""


@with_option_groups()
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
    partitions: Annotated[
        int | None, typer.Option(min=1, help="With --ray: parts of the users.", show_default=str(PARTITIONS))
    ] = None,
    json: JsonOption = False,
) -> None:
    """Read, filter and number interactions; equal input is prepared only once."""
    if partitions is not None and not ray:
        raise ConfigError(
            "--partitions needs --ray: one process does not divide the users", "leave it out, or give both"
        )
    machines = None
    if ray:
        from model_store.shards.ray_cluster import RayCluster  # importing Ray takes a second

        machines = Machines(RayCluster(ray), partitions or PARTITIONS)
    dataset = prepare_data(source.data, out, source.load_config().data, say, fetch_again=True, machines=machines)
    counts = {"users": dataset.users, "items": dataset.n_items, "interactions": dataset.interactions}
    if json:
        left_out = {"untrained_items": len(dataset.untrained_items), "set_aside": len(dataset.set_aside)}
        print_json({"name": dataset.name, "fingerprint": dataset.fingerprint, **counts, **left_out})
    else:
        typer.echo(f"{dataset.name}: " + ", ".join(f"{count:,} {kind}" for kind, count in counts.items()))


@with_option_groups(data="")
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


@with_option_groups()
def run_all(
    source: DataOptions,
    out: Annotated[Path, typer.Option(help="Run folder. An unfinished run with the same configuration is resumed.")],
    baseline: Annotated[list[str], typer.Option(help="Baseline to train as well: tiger.")] = [],  # noqa: B006
    device: DeviceOption = "cpu",
    resume: ResumeOption = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write learning curves to OUT/tensorboard as they come.")
    ] = False,
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Folder in a bucket that keeps a copy of the run; a new machine resumes from it.",
        ),
    ] = None,
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

    with ExitStack() as until_the_end:
        with distributed.process_group(device) as place:
            is_first = distributed.is_first()
            with distributed.first_then_others():
                open_run = partial(RunFolder.create_or_resume, out, config, source.data, resume if is_first else None)
                if mirror is not None and is_first:
                    folder = until_the_end.enter_context(mirrored(out, mirror, open_run, say))
                else:
                    folder = open_run()
            folder.require_shared()
            pipeline = Pipeline(folder, progress_for(quiet=not is_first), place, tensorboard)
            _ = pipeline.dataset  # opened even if the run is finished: changed data must be refused
            pipeline.train(tiger)

        # From here on one process is enough.
        if is_first:
            pipeline.evaluate(tiger)
            export_bundle(pipeline)
            show_evaluation(pipeline.evaluate(), json)


def evaluate(run_folder: RunArgument, device: DeviceOption = "cpu", json: JsonOption = False) -> None:
    """Print the metrics of a run, all models under both protocols; missing stages are run first."""
    show_evaluation(Pipeline(RunFolder.open(run_folder), progress_for(), device).evaluate(), json)


def report(run_folder: RunArgument, device: DeviceOption = "cpu", json: JsonOption = False) -> None:
    """Rebuild the report of a run, an HTML page with charts, also in the run's bundle if it has been exported."""
    write_report(Pipeline(RunFolder.open(run_folder), progress_for(), device))
    page = run_folder / "report" / "index.html"
    if json:
        print_json({"report": str(page)})
    else:
        typer.echo(f"report written to {page}")


def export(run_folder: RunArgument, json: JsonOption = False) -> None:
    """Write the files of the bundle into the run folder, after checking that they agree with each other."""
    export_bundle(Pipeline(RunFolder.open(run_folder), progress_for()))
    if json:
        print_json({"bundle": str(run_folder / "bundle")})
    else:
        typer.echo(f"exported to {run_folder / 'bundle'}")


def publish(
    run_folder: RunArgument,
    store: StoreOption = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make the new version live.")] = False,
    create_store: CreateOption = False,
    signing_key: KeyOption = None,
    json: JsonOption = False,
) -> None:
    """Seal a run's bundle as a new version of the model store, and sign it if there is a key."""
    target = open_model_store(store, create_store)
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
