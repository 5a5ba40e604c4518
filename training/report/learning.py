"""Charts of the training: validation metric, losses, changes of the codes, and time per stage."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from training.report.contents import Contents, Curve
from training.report.style import (
    FAINT,
    LOSSES,
    PALETTE,
    Chart,
    colour_and_marker,
    model_name,
    new_figure,
    show_percent,
    show_whole_numbers,
    sort_rows,
    tidy,
)

VALIDATION = "valid_ndcg@10"
NO_LOSSES = {"epoch", "tokenizer_phase", "codes_changed"}


def learning_charts(contents: Contents) -> list[Chart]:
    """Return the charts for which the run recorded data."""
    charts = (validation(contents), losses(contents), code_changes(contents), stage_seconds(contents))
    return [chart for chart in charts if chart]


def validation(contents: Contents) -> Chart | None:
    """Return the chart of every model's validation NDCG@10 by epoch."""
    curves = {row: curve for row, curve in contents.curves.items() if curve.points(VALIDATION)[0]}
    if not curves:
        return None

    question = "Has training converged?"
    figure = new_figure(question, 3.8)
    axes = figure.subplots()
    for row in sort_rows(curves):
        colour, marker = colour_and_marker(row)
        axes.plot(*curves[row].points(VALIDATION), color=colour, marker=marker, markersize=4, label=model_name(row))
    if "generative" in curves:
        _mark_phases(axes, curves["generative"])
    tidy(axes, "epoch of the model's own training", "NDCG@10, validation sample")
    show_whole_numbers(axes)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)

    sentences = [_describe_best_epoch(row, curves[row]) for row in sort_rows(curves)]
    return Chart("validation", question, " ".join(sentences), figure)


def losses(contents: Contents) -> Chart | None:
    """Return one chart per loss, with every model by epoch."""
    names = list(dict.fromkeys(name for curve in contents.curves.values() for name in _loss_names(curve)))
    if not names:
        return None

    rows = -(-len(names) // 2)  # rounded up
    question = "What did each loss do?"
    figure = new_figure(question, 0.6 + 2.3 * rows)
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, name in zip(grid, names, strict=False):
        _plot_loss(axes, contents.curves, name)
    grid[0].legend(frameon=False, fontsize=8)
    for axes in grid[len(names) :]:
        axes.set_visible(False)

    sentences = [_describe_losses(row, contents.curves[row]) for row in sort_rows(contents.curves)]
    return Chart("losses", question, " ".join(part for part in sentences if part), figure)


def _plot_loss(axes: Axes, curves: Mapping[str, Curve], name: str) -> None:
    for row in sort_rows(curves):
        epochs, values = curves[row].points(name)
        if epochs:
            colour, marker = colour_and_marker(row)
            axes.plot(epochs, values, color=colour, marker=marker, markersize=3, label=model_name(row))
    if name in _loss_names(curves.get("generative", Curve([]))):
        _mark_phases(axes, curves["generative"])

    axes.set_title(LOSSES.get(name, name), fontsize=9)
    tidy(axes, "epoch", "mean loss")
    axes.ticklabel_format(axis="y", useOffset=False)
    longest = max(len(curve.epochs) for curve in curves.values())
    axes.set_xlim(0.5, longest + 0.5)  # the same scale for all losses, so that their phases are aligned
    show_whole_numbers(axes)


def code_changes(contents: Contents) -> Chart | None:
    """Return the chart of the items that changed their semantic ID in each tokenizer epoch."""
    curve = contents.curves.get("generative", Curve([]))
    epochs, changed = curve.points("codes_changed")
    if not epochs:
        return None

    items = len(contents.codes)
    question = "Have the codes settled?"
    figure = new_figure(question, 3.0)
    axes = figure.subplots()
    bars = axes.bar(epochs, [count / items for count in changed], color=PALETTE[0])
    axes.bar_label(bars, labels=[f"{int(count):,}" for count in changed], fontsize=9)
    axes.set_ylim(0, max(0.01, 1.15 * max(changed) / items))
    tidy(axes, "epoch that trained the tokenizer", "items that changed code")
    show_whole_numbers(axes)
    show_percent(axes)

    answer = (
        f"In the last tokenizer epoch {int(changed[-1]):,} of {items:,} items ({changed[-1] / items:.1%}) changed "
        f"their semantic ID; in the first, {int(changed[0]):,}."
    )
    return Chart("code_changes", question, answer, figure)


def stage_seconds(contents: Contents) -> Chart | None:
    """Return the chart of the seconds that each stage took."""
    seconds = contents.evaluation.seconds
    total = sum(seconds.values())
    if not total:
        return None

    question = "Where did the time go?"
    figure = new_figure(question, 1.1 + 0.28 * len(seconds))
    axes = figure.subplots()
    bars = axes.barh(list(seconds), list(seconds.values()), color=PALETTE[0])
    axes.bar_label(bars, labels=[f" {value:,.1f} s" for value in seconds.values()], fontsize=9)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    tidy(axes, "seconds", "stage", grid="x")

    longest = max(seconds, key=lambda stage: seconds[stage])
    answer = f"Of {total:,.0f} seconds, {seconds[longest] / total:.0%} went to {longest}."
    return Chart("seconds", question, answer, figure)


def _loss_names(curve: Curve) -> list[str]:
    names = dict.fromkeys(name for values in curve.epochs for name in values)
    return [name for name in names if name not in NO_LOSSES and not name.startswith("valid_")]


def _mark_phases(axes: Axes, curve: Curve) -> None:
    """Draw grey bands for tokenizer epochs, and a line at the start of fine-tuning."""
    for number, epoch in enumerate(curve.tokenizer_epochs):
        axes.axvspan(epoch - 0.5, epoch + 0.5, color=FAINT, zorder=0, label="" if number else "tokenizer epoch")
    if curve.finetune_from:
        axes.axvline(curve.finetune_from - 0.5, color="black", linestyle=":", linewidth=1, label="fine-tuning begins")


def _describe_best_epoch(row: str, curve: Curve) -> str:
    epochs, values = curve.points(VALIDATION)
    best = max(range(len(values)), key=lambda index: values[index])
    return f"{model_name(row)} was best in epoch {epochs[best]} of {len(curve.epochs)}: {values[best]:.4f}."


def _describe_losses(row: str, curve: Curve) -> str:
    parts = []
    for name in _loss_names(curve):
        _, values = curve.points(name)
        parts.append(f"{LOSSES.get(name, name).partition(':')[0]} went from {values[0]:.3g} to {values[-1]:.3g}")
    return f"{model_name(row)}: {', '.join(parts)}." if parts else ""
