"""One run of all stages with its report: training it takes longer than all tests of the report together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.reported_runs import etegrec_train, write_items
from tests.support.tiny import CONTENT, set_options, write_cycle
from training.loop.progress import SilentProgress
from training.pipeline import Pipeline
from training.report.build import all_charts
from training.report.contents import Contents, gather
from training.report.style import Chart
from training.run_folder import RunFolder
from training.user_ranks import UserRanks


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all stages with both baselines."""
    folder = tmp_path_factory.mktemp("run")
    items = write_items(folder / "items.csv")
    columns = ["data.columns.item=item", "data.columns.title=title", "data.columns.categories=categories"]
    overrides = [f'data.items_file="{items}"', *columns, f"content.dim={CONTENT}", "tokenizer.epochs=30"]
    arguments = ("--preset", "demo", "--out", folder / "run", "--baseline", "tiger", "--tensorboard")
    assert etegrec_train("run", "--data", write_cycle(folder / "cycle.txt"), *arguments, *set_options(overrides)) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def pipeline(finished: Path) -> Pipeline:
    return Pipeline(RunFolder.open(finished), SilentProgress())


@pytest.fixture(scope="session")
def contents(pipeline: Pipeline) -> Contents:
    return gather(pipeline, UserRanks.read(pipeline.run))


@pytest.fixture(scope="session")
def charts(contents: Contents) -> dict[str, Chart]:
    return {chart.name: chart for chart in all_charts(contents)}
