"""Commands of studies: the ablation, and items that come after training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model_store.console import print_json, table_console
from model_store.option_groups import with_option_groups
from training.commands.data_options import DataOptions
from training.commands.options import DeviceOption, JsonOption
from training.loop.progress import progress_for
from training.studies.ablation import Ablation
from training.studies.ablation_rows import ROWS, chosen_rows
from training.studies.new_items import NewItems


@with_option_groups()
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


@with_option_groups()
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
