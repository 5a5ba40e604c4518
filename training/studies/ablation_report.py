"""Report of an ablation: mean and spread over seeds, and each row's paired difference to the full row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from rich.console import RenderableType
from rich.table import Table

from training.evaluation.metrics import CUTOFFS

Metrics = Mapping[str, Mapping[str, float]]
"""Values by model (``generative``, ``fused``) and by metric."""

SHOWN = tuple(f"{name}@{k}" for name in ("recall", "ndcg") for k in CUTOFFS)
"""Metrics of the table, in the order of the paper's table; JSON has all metrics."""

COMPARED = "ndcg@10"
"""Metric of the paired comparison in the table."""


class Outcome(NamedTuple):
    """Result of one row with one seed."""

    row: str
    seed: int
    recommender_epochs: int
    tokenizer_epochs: int
    valid: Metrics
    test: Metrics
    unseen: Metrics  # empty if no users were left out


@dataclass(frozen=True)
class Figure:
    """One metric of one row over its seeds. A single seed has no spread (``None``)."""

    mean: float
    std: float | None  # sample standard deviation, n - 1
    difference: float | None  # mean of row minus full row over the seeds that both have; None for the full row
    standard_error: float | None  # of that difference, paired by seed


Figures = dict[str, dict[str, Figure]]


@dataclass(frozen=True)
class RowSummary:
    """Line of the table."""

    row: str
    title: str
    seeds: int
    recommender_epochs: int
    tokenizer_epochs: int
    valid: Figures
    test: Figures
    unseen: Figures


@dataclass(frozen=True)
class Budget:
    """Training budget and data that all rows share. Lists have one entry per seed."""

    definition: str
    recommender_epochs: int
    targets_per_epoch: list[int]
    seen_users: list[int]
    unseen_users: list[int]


@dataclass(frozen=True)
class AblationReport:
    """Result of ``etegrec-train ablate``."""

    ablation: list[RowSummary]
    budget: Budget

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def tables(self) -> list[RenderableType]:
        """Return tables for people: one for each kind of answer, one of seen and unseen users, and the budget."""
        if not self.ablation:
            return ["no row is finished"]
        models = list(self.ablation[0].test)
        shown: list[RenderableType] = [_metrics_table(self.ablation, model) for model in models]
        shown += [_unseen_table(self.ablation, model, self.budget) for model in self.ablation[0].unseen]
        return [*shown, f"Budget: {self.budget.definition}"]


def summarise(outcomes: Sequence[Outcome], titles: Mapping[str, str], full: str, budget: Budget) -> AblationReport:
    """Combine outcomes into a report, rows in the order of ``titles``; rows without an outcome are left out.

    Args:
        outcomes: At most one for each row and seed.
        titles: Title by row.
        full: Key of the row that the others are compared with.
        budget: Budget for the report.
    """
    by_row = {key: {found.seed: found for found in outcomes if found.row == key} for key in titles}
    base = by_row[full]
    rows = [
        _summary(title, list(by_row[key].values()), {} if key == full else base)
        for key, title in titles.items()
        if by_row[key]
    ]
    return AblationReport(rows, budget)


def _summary(title: str, found: list[Outcome], base: Mapping[int, Outcome]) -> RowSummary:
    def figures(part: str) -> Figures:
        own = {outcome.seed: getattr(outcome, part) for outcome in found}
        other = {seed: getattr(outcome, part) for seed, outcome in base.items()}
        return _figures(own, other)

    first = found[0]
    epochs = first.recommender_epochs, first.tokenizer_epochs
    return RowSummary(first.row, title, len(found), *epochs, figures("valid"), figures("test"), figures("unseen"))


def _figures(own: Mapping[int, Metrics], base: Mapping[int, Metrics]) -> Figures:
    first = next(iter(own.values()))
    return {
        model: {
            metric: compute_figure(
                {seed: values[model][metric] for seed, values in own.items()},
                {seed: values[model][metric] for seed, values in base.items()},
            )
            for metric in metrics
        }
        for model, metrics in first.items()
    }


def compute_figure(own: Mapping[int, float], base: Mapping[int, float]) -> Figure:
    """Compute mean and spread of a row's values by seed, and the paired difference to another row."""
    differences = [own[seed] - base[seed] for seed in own if seed in base]
    spread = _spread(differences)
    return Figure(
        statistics.fmean(own.values()),
        _spread(list(own.values())),
        statistics.fmean(differences) if differences else None,
        None if spread is None else spread / math.sqrt(len(differences)),
    )


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _metrics_table(rows: Sequence[RowSummary], model: str) -> Table:
    table = Table(title=f"Ablation, {model} answers, test users: mean ± standard deviation over seeds")
    for heading in ("row", "seeds", "epochs: recommender", "tokenizer"):
        table.add_column(heading)
    for metric in (*SHOWN, f"{COMPARED} minus full ± its standard error"):
        table.add_column(metric, justify="right")

    for row in rows:
        figures = row.test[model]
        epochs = str(row.recommender_epochs), str(row.tokenizer_epochs)
        cells = [_with_spread(figures[metric]) for metric in SHOWN]
        table.add_row(row.title, str(row.seeds), *epochs, *cells, _difference(figures[COMPARED]))
    return table


def _unseen_table(rows: Sequence[RowSummary], model: str, budget: Budget) -> Table:
    counts = f"{sum(budget.unseen_users):,} of {sum(budget.unseen_users) + sum(budget.seen_users):,} over the seeds"
    table = Table(title=f"{COMPARED} of {model} answers for users seen in training and users left out of it ({counts})")
    table.add_column("row")
    for heading in ("seen", "unseen", "seen minus full", "unseen minus full"):
        table.add_column(heading, justify="right")

    for row in rows:
        seen = row.test[model][COMPARED]
        unseen = row.unseen[model][COMPARED]
        cells = _with_spread(seen), _with_spread(unseen), _difference(seen), _difference(unseen)
        table.add_row(row.title, *cells)
    return table


def _with_spread(found: Figure) -> str:
    return f"{found.mean:.4f}" + ("" if found.std is None else f" ± {found.std:.4f}")


def _difference(found: Figure) -> str:
    if found.difference is None:
        return "-"
    return f"{found.difference:+.4f}" + ("" if found.standard_error is None else f" ± {found.standard_error:.4f}")
