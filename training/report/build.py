"""Building the report of a run: one page, and its charts as files."""

from __future__ import annotations

from training.pipeline import BUNDLE, Pipeline
from training.report.accuracy import accuracy_charts
from training.report.codes import code_charts
from training.report.contents import Contents, gather
from training.report.learning import learning_charts
from training.report.page import page
from training.report.style import Chart, png
from training.user_ranks import TestRanks

PAGE = "index.html"
FOLDER = "report"
"""Folder of the report, in a run and in a bundle."""


def report_files(pipeline: Pipeline) -> dict[str, bytes]:
    """The files of a run's report by name; stages that are missing are done first."""
    pipeline.evaluate()
    contents = gather(pipeline, TestRanks.read(pipeline.run))
    drawn = [(chart, png(chart.figure)) for chart in all_charts(contents)]
    return {PAGE: page(contents, drawn)} | {f"{chart.name}.png": image for chart, image in drawn}


def all_charts(contents: Contents) -> list[Chart]:
    """All charts that the run has data for, in the order of the page."""
    return [*accuracy_charts(contents), *learning_charts(contents), *code_charts(contents)]


def write_report(pipeline: Pipeline) -> dict[str, bytes]:
    """Write the report into the run folder, and into its bundle if that is exported already.

    Returns:
        Its files by path in the bundle, ``report/index.html`` and so on.
    """
    run = pipeline.run
    files = {f"{FOLDER}/{name}": data for name, data in report_files(pipeline).items()}
    prefixes = ("", f"{BUNDLE}/") if run.has(f"{BUNDLE}/golden.json") else ("",)
    for prefix in prefixes:
        for name, data in files.items():
            run.write_bytes(f"{prefix}{name}", data)
    return files
