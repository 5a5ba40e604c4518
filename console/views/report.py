"""View of an experiment's report: what to do, differences with their intervals, sizes, guardrails and days."""

from __future__ import annotations

from collections.abc import Sequence

from etegrec_client.types import ComparisonReport, ExperimentReportResponse, GuardrailReport, VariantReport
from nicegui import ui

from console.advice.card import show_advice
from console.advice.experiment import advice_of
from console.advice.report_words import (
    FIGURES,
    VERDICTS,
    difference_words,
    figure_words,
    is_value,
    mean_words,
    outcome_words,
)
from console.parts import Text, heading, note, number, share, table
from console.views.charts import Interval, interval_chart, line_chart


def show_report(report: ExperimentReportResponse, placements: Sequence[str]) -> None:
    """Add a report.

    Args:
        report: The report.
        placements: Names of the placements that name the experiment.
    """
    show_advice(advice_of(report, placements), report["verdict"])
    _show_differences(report)
    _show_variants(report)
    _show_versions(report)
    _show_sample_ratio(report)
    _show_guardrails(report["guardrails"])
    _show_days(report)


def _show_differences(report: ExperimentReportResponse) -> None:
    heading(2, "Differences to the control")
    control = report["control"]
    for outcome in dict.fromkeys(each["outcome"] for each in report["comparisons"]):
        compared = [each for each in report["comparisons"] if each["outcome"] == outcome]
        heading(3, outcome_words(outcome, report["goal"])).style("margin-top: 0.75rem")
        _show_intervals(compared, outcome)
        rows = [
            (
                each["variant"],
                mean_words(each["control_mean"], outcome),
                mean_words(each["mean"], outcome),
                difference_words(each),
                VERDICTS[each["verdict"]],
            )
            for each in compared
        ]
        columns = ("Variant", f"In {control}", "In the variant", "Difference, with its 95 % interval", "Verdict")
        table("By user or session; the intervals hold however often you look", columns, rows)


def _show_intervals(compared: Sequence[ComparisonReport], outcome: str) -> None:
    factor = 1 if is_value(outcome) else 100
    intervals = [
        Interval(
            each["variant"],
            factor * each["difference"]["low"],
            factor * each["difference"]["difference"],
            factor * each["difference"]["high"],
        )
        for each in compared
        if each["difference"] is not None
    ]
    if not intervals:
        note("An interval shows from 100 users and sessions in each variant on, ten of whom did it.")
        return
    unit = "difference in value by user" if is_value(outcome) else "difference, percentage points"
    chart = ui.echart(interval_chart(intervals, unit), renderer="svg").classes("card chart axes").props('role="img"')
    chart.style(f"height: {6 + 2.5 * len(intervals):.1f}rem")
    chart.props["aria-label"] = "Differences to the control with their intervals; the table below says the same"


def _show_variants(report: ExperimentReportResponse) -> None:
    heading(2, "What the answers led to")
    rows = [
        (
            _variant_name(each["name"], report["control"]),
            share(each["share"]),
            number(each["subjects"]),
            number(each["answers"]),
            f"{number(each['clickers'])} ({number(each['clicks'])})",
            f"{number(each['achievers'])} ({number(each['goals'])})",
            _values(each),
        )
        for each in report["variants"]
    ]
    columns = ("Variant", "Share", "Users, sessions", "Answers", "Clicked", f"Reached: {report['goal']}", "Value")
    table("Users and sessions who did it; in brackets, how often", columns, rows)


def _show_versions(report: ExperimentReportResponse) -> None:
    """Add which versions answered; one version in all variants goes without saying."""
    variants = report["variants"]
    if len({each["version"] for variant in variants for each in variant["versions"]}) <= 1:
        return
    rows = [
        (
            _variant_name(variant["name"], report["control"]),
            each["version"],
            number(each["answers"]),
            share(each["answers"] / variant["answers"]) if variant["answers"] else "–",
        )
        for variant in variants
        for each in variant["versions"]
    ]
    heading(3, "Versions").style("margin-top: 0.75rem")
    table("Which versions answered", ("Variant", "Version", "Answers", "Of its answers"), rows)
    fallen = [f"{each['name']} {number(each['fallbacks'])}" for each in variants if each["fallbacks"]]
    if fallen:
        note(f"Answered by the live model because the variant's own did not: {', '.join(fallen)}.")


def _show_sample_ratio(report: ExperimentReportResponse) -> None:
    ratio = report["sample_ratio"]
    heading(2, "Can it be trusted?")
    if ratio["is_as_designed"]:
        Text("p", "Yes: the variants have the sizes that their shares give them.").classes("good")
    else:
        Text("p", "No: the variants have other sizes than their shares give them.").classes("bad")
    note(f"Check of the sample ratio: p = {ratio['p_value']:.3g}; below 0.01, assignment or counting is broken.")


def _show_guardrails(guardrails: Sequence[GuardrailReport]) -> None:
    if not guardrails:
        return
    heading(2, "Guardrails")
    rows = [
        (
            each["variant"],
            FIGURES[each["figure"]],
            figure_words(each["control"], each["figure"]),
            figure_words(each["value"], each["figure"]),
            {True: "holds", False: "fails", None: "too few answers so far"}[each["holds"]],
        )
        for each in guardrails
    ]
    caption = "What no variant should make worse; from 100 answers each on"
    table(caption, ("Variant", "Figure", "In the control", "In the variant", "Verdict"), rows)


def _show_days(report: ExperimentReportResponse) -> None:
    days = report["days"]
    if not days:
        return
    heading(2, "By day")
    names = [each["name"] for each in report["variants"]]
    by_day = [{each["name"]: each for each in day["variants"]} for day in days]
    lines = {
        f"{name}, % of answers with {report['goal']}": [
            _percent(day[name]["goals"], day[name]["answers"]) if name in day else None for day in by_day
        ]
        for name in names
    }
    chart = ui.echart(line_chart([day["day"] for day in days], lines, with_points=True), renderer="svg")
    chart.classes("card chart axes").props('role="img"')
    chart.props["aria-label"] = "Goals of each 100 answers by day and variant; the table below says the same"
    rows = [
        (day["day"], each["name"], number(each["answers"]), number(each["clicks"]), number(each["goals"]))
        for day in days
        for each in day["variants"]
    ]
    table("By day of the answer, UTC", ("Day", "Variant", "Answers", "Clicks", f"Reached: {report['goal']}"), rows)


def _variant_name(name: str, control: str) -> str:
    return f"{name} (control)" if name == control and name != "control" else name


def _values(variant: VariantReport) -> str:
    sums = [
        f"{number(value['total'], 2)} {'' if currency == '-' else currency}".strip()
        for currency, value in variant["values"].items()
    ]
    return ", ".join(sums) or "–"


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 3) if whole else None
