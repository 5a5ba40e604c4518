"""Report of a run as files: one HTML page, and each chart as PNG."""

from __future__ import annotations

from model_store.catalogue.code_names import CodeNames
from training.artefacts import BUNDLE
from training.pipeline import Pipeline
from training.report.accuracy import accuracy_charts
from training.report.codes import code_charts
from training.report.contents import Contents, gather
from training.report.learning import learning_charts
from training.report.page import render_page
from training.report.style import Chart, draw_png
from training.user_ranks import UserRanks

PAGE = "index.html"
FOLDER = "report"
"""Folder of the report, in a run and in a bundle."""


def report_files(pipeline: Pipeline, names: CodeNames | None = None) -> dict[str, bytes]:
    """Return the files of a run's report by name; missing stages are run first."""
    pipeline.evaluate()
    contents = gather(pipeline, UserRanks.read(pipeline.run), names)
    drawn = [(chart, draw_png(chart.figure)) for chart in all_charts(contents)]
    return {PAGE: render_page(contents, drawn)} | {f"{chart.name}.png": image for chart, image in drawn}


def all_charts(contents: Contents) -> list[Chart]:
    """Return all charts for which the run has data, in the order of the page."""
    return [*accuracy_charts(contents), *learning_charts(contents), *code_charts(contents)]


def write_report(pipeline: Pipeline, names: CodeNames | None = None) -> dict[str, bytes]:
    """Write the report into the run folder, and into the run's bundle if it has been exported.

    Args:
        pipeline: The finished run.
        names: Names of code prefixes; if not given, those of the run's bundle, or of the trained items before there is
            one.

    Returns:
        The files by path in the bundle, ``report/index.html`` and so on.
    """
    run = pipeline.run
    files = {f"{FOLDER}/{name}": data for name, data in report_files(pipeline, names).items()}
    prefixes = ("", f"{BUNDLE}/") if run.has(f"{BUNDLE}/golden.json") else ("",)
    for prefix in prefixes:
        for name, data in files.items():
            run.write_bytes(f"{prefix}{name}", data)
    return files
