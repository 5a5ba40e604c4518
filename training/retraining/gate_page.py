"""Page of a pass of retraining, to be read in a minute: the verdict, why, every line of the gate, and drift."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from training.report.html_parts import html_page, table
from training.retraining.drift import Drift
from training.retraining.gate import Check, Judgement

VERDICTS = {"promote": "Promote", "hold back": "Hold back for a person", "drop": "Drop"}
"""Verdicts as headings."""


def render_gate_page(
    data: str, judgement: Judgement, facts: Sequence[str], warnings: Sequence[str], drift: Drift | None
) -> bytes:
    """Render the page.

    Args:
        data: Name of the data set.
        judgement: The verdict with its lines.
        facts: What the pass was about, a sentence each.
        warnings: What a person must know, a sentence each.
        drift: What moved since the live version was trained, if that was measured.
    """
    body = [
        f"<h1>{escape(VERDICTS[judgement.verdict])}</h1>",
        f"<p>{escape(judgement.reason)}.</p>",
        *(f"<p>{escape(fact)}</p>" for fact in facts),
        *(f'<p class="warning">{escape(warning)}</p>' for warning in warnings),
        "<h2>Does the candidate keep its limits?</h2>",
        checks_table(judgement.checks),
        "<h2>Has anything shifted since the live version was trained?</h2>",
        drift_table(drift) if drift else "<p>It was not measured: too little is new, or there is no live version.</p>",
    ]
    return html_page(f"Retraining on {data}: {judgement.verdict}", body)


def checks_table(checks: Sequence[Check]) -> str:
    """Render the lines of the gate; those that are not kept are bold."""
    lines = []
    for check in checks:
        result = escape(check.result)
        shown = result if check.result in ("pass", "not judged") else f'<span class="best">{result}</span>'
        cells = (check.name, check.value, check.live, check.limit)
        lines.append([*map(escape, cells), shown, escape(check.note)])
    heads = ["what", "candidate", "live version", "limit", "verdict", "note"]
    return table("Candidate and live version, on the same users and items", heads, lines, "words")


def drift_table(drift: Drift) -> str:
    """Render the comparisons of new interactions with older ones; shifts are bold."""
    lines = []
    for name, shift in drift.shifts.items():
        verdict = '<span class="best">shifted</span>' if shift.is_found else "as before"
        lines.append([escape(name), f"{shift.psi:.3f}", f"{shift.limit:.3f}", verdict, escape(shift.note)])
    heads = ["distribution of", "PSI", "limit", "verdict", "moved most"]
    return table(f"{drift.interactions:,} new interactions beside those before", heads, lines, "words")
