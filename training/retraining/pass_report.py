"""Report of a pass of retraining: what came of it as plain values, and the page of the gate's verdict."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.artefacts import BUNDLE
from training.pipeline import Pipeline
from training.report.build import FOLDER
from training.retraining.drift import Drift
from training.retraining.gate import Judgement
from training.retraining.gate_page import render_gate_page
from training.retraining.merged_data import MergedData

GATE_PAGE = "gate.html"
GATE_FIGURES = "gate.json"
"""Files of the gate's verdict, in the report of a run and of a bundle."""


@dataclass(frozen=True)
class RetrainReport:
    """Result of one pass, with the reason.

    Attributes:
        promoted: Whether a new version is live now.
        reason: One sentence for people.
        version: The version that is live after the pass.
        held_back: The version that was published and waits for a person, because its gain is implausible.
        events: Interactions drained so far that are part of the data.
        rejected: The other drained events by reason: "type left out", "unknown item", "duplicate", or "below the
            filters", which are kept until their user and item have enough.
        new_items: Items that the base data alone would not train and that have enough interactions now.
        changed_items: Items of the base data whose content has changed.
        candidate: Test metrics of the candidate; empty if none was trained.
        incumbent: Test metrics of the version that was live before; empty if there was none.
        started_from: The version that the training went on from; ``None`` if it was a full one.
        warnings: What a person must know about the candidate, such as that popularity is as good.
        gate: The verdict with every figure that led to it; empty if no candidate was trained.
        drift: What moved since the live version was trained; empty if that was not measured.
        page: The page with the verdict for people, a path; ``None`` if no candidate was trained.
    """

    promoted: bool
    reason: str
    version: str | None
    held_back: str | None
    events: int
    rejected: dict[str, int]
    new_items: int
    changed_items: int
    candidate: dict[str, float]
    incumbent: dict[str, float]
    started_from: str | None
    warnings: list[str]
    gate: dict[str, Any]
    drift: dict[str, Any]
    page: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """What a pass came to; see the attributes of the same names of :class:`RetrainReport`."""

    reason: str
    promoted: str | None = None
    held_back: str | None = None
    candidate: dict[str, float] = field(default_factory=dict)
    incumbent: dict[str, float] = field(default_factory=dict)
    started_from: str | None = None
    warnings: list[str] = field(default_factory=list)
    gate: Judgement | None = None
    drift: Drift | None = None
    page: str | None = None


def pass_report(data: MergedData, outcome: Outcome, live: str | None) -> RetrainReport:
    """Return the report of a pass; ``live`` is the version that is live after it."""
    return RetrainReport(
        promoted=outcome.promoted is not None,
        reason=outcome.reason,
        version=live,
        held_back=outcome.held_back,
        events=data.accepted,
        rejected=data.rejected,
        new_items=data.new_items,
        changed_items=data.changed_items,
        candidate=outcome.candidate,
        incumbent=outcome.incumbent,
        started_from=outcome.started_from,
        warnings=outcome.warnings,
        gate=outcome.gate.as_dict() if outcome.gate else {},
        drift=outcome.drift.as_dict() if outcome.drift else {},
        page=outcome.page,
    )


def write_judgement(
    candidate: Pipeline, incumbent: str | None, judgement: Judgement, drift: Drift | None, warnings: list[str]
) -> Path:
    """Write the verdict beside the report of the run and, to be published with it, of its bundle; return the page.

    Args:
        candidate: The run, which has been exported.
        incumbent: The version that is live, if there is one.
        judgement: The verdict.
        drift: What moved since the live version was trained, if that was measured.
        warnings: What a person must know about the candidate.
    """
    data = candidate.dataset
    live = f"The live version is {incumbent}." if incumbent else "No version is live."
    counts = f"{data.users:,} users, {data.n_items:,} items, {data.interactions:,} interactions"
    page = render_gate_page(data.name, judgement, [f"{data.name}: {counts}. {live}"], warnings, drift)
    plain = judgement.as_dict() | {"drift": drift.as_dict() if drift else {}}
    figures = (json.dumps(plain, indent=1, allow_nan=False) + "\n").encode()

    for folder in (f"{BUNDLE}/{FOLDER}", FOLDER):
        candidate.run.write_bytes(f"{folder}/{GATE_FIGURES}", figures)
        candidate.run.write_bytes(f"{folder}/{GATE_PAGE}", page)
    return candidate.run.path / FOLDER / GATE_PAGE
