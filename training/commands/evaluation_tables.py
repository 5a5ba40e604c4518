"""Tables of an evaluation, for people who read the output of a command."""

from __future__ import annotations

from rich.table import Table

from model_store.console import print_json, table_console
from training.evaluation.metrics import SEEN_EXCLUDED
from training.report.notes import INTERVAL, coverage_note, ranker_note, search_note, show_interval, warnings
from training.report.style import model_name, sort_rows
from training.run_evaluation import Evaluation


def show_evaluation(evaluation: Evaluation, json: bool) -> None:
    """Print an evaluation with what to know about it, as tables or as one line of JSON."""
    known = warnings(evaluation)
    if json:
        print_json(evaluation.as_dict() | {"warnings": known})
        return
    console = table_console()
    for suffix, title in (("", "history items may be answers"), (SEEN_EXCLUDED, "history items excluded")):
        console.print(evaluation_table(evaluation, suffix, title))
    for note in filter(None, (search_note(evaluation), ranker_note(evaluation))):
        console.print(note)
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
