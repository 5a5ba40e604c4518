"""Gate of retraining: it promotes a candidate, holds it back for a person to look at, or drops it.

A candidate is dropped if it is worse than the live version, and held back if it breaks another limit of
:class:`~training.config.GateConfig`. Whether it is worse is judged on the same users by the paired bootstrap of
NDCG@10: it is good enough if 95 % of samples say that it is not worse by more than a margin (a test of
non-inferiority), or if it is not worse at all in the users at hand. The first rule lets a large shop go on with fresh
models although chance makes one or the other look a little worse; the second lets a small one, whose few users cannot
show so much, promote as well.

One that is better by more than models improve is held back: then the answers of the evaluation have most likely reached
the histories, and it would be no better in service.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from training.config import GateConfig
from training.evaluation.bootstrap import mean_interval
from training.retraining.figures import HEADS, Comparison, Figures

GATE_METRIC = "ndcg@10"
"""Metric by which candidate and incumbent are compared."""

CONFIDENCE = 0.95
"""Share of samples that must say that a candidate is not worse by more than the margin."""

FEWEST_NEW_TARGETS = 30
"""Users whose choice is a new item, below which the exposure of new items is not judged."""

MOST_REASONS = 2
"""Broken limits that the reason names; the others stand in the report only."""

Verdict = Literal["promote", "hold back", "drop"]
Result = Literal["pass", "hold back", "drop", "not judged"]


@dataclass(frozen=True)
class Check:
    """One line of the gate: a figure of the candidate beside its limit.

    Attributes:
        name: What is measured.
        value: The candidate's, as text.
        live: That of the live version, as text; empty if there is none.
        limit: What the value must keep, as text.
        result: Whether it does, and what happens if not.
        note: What a person should know about it; mostly empty.
    """

    name: str
    value: str
    live: str
    limit: str
    result: Result
    note: str = ""


@dataclass(frozen=True)
class Judgement:
    """The verdict on a candidate, why in the words of a sentence, and all lines that led to it."""

    verdict: Verdict
    reason: str
    checks: tuple[Check, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"verdict": self.verdict, "reason": self.reason, "checks": [asdict(check) for check in self.checks]}


class Gate:
    """Judge of candidates.

    Args:
        limits: What a candidate must keep.
        seed: Seed of the bootstrap.
    """

    def __init__(self, limits: GateConfig, seed: int = 0) -> None:
        self._limits = limits
        self._seed = seed

    def judge(self, compared: Comparison) -> Judgement:
        """Judge a candidate beside the live version; the first model only has to answer its goldens."""
        goldens = self._goldens(compared)
        new = compared.candidate
        old = compared.incumbent
        if old is None:
            return _verdict([*_first_model(new), goldens], f"the first model, {GATE_METRIC} {_metric(new):.4f}")

        compares = f"{GATE_METRIC} {_metric(new):.4f} against {_metric(old):.4f}"
        checks = [
            self._accuracy(new, old, compares),
            self._gain(new, old, compares),
            self._coverage(new, old),
            *self._heads(new, old),
            self._new_items(compared, new, old),
            self._collisions(new, old),
            self._codes_moved(compared),
            self._calibration(new, old),
            self._size(new, old),
            self._search_time(new, old),
            goldens,
        ]
        return _verdict(checks, f"not worse, {compares}")

    def _accuracy(self, new: Figures, old: Figures, compares: str) -> Check:
        """Compare the gains of the same users."""
        difference = new.gains - old.gains
        mean = float(difference.mean())
        low, high = mean_interval(difference, self._seed, 2 * CONFIDENCE - 1)
        margin = self._limits.margin * _metric(old)

        is_shown = low >= -margin
        is_good = is_shown or mean >= 0  # NaN is worse than anything
        tail = f"{1 - CONFIDENCE:.0%}"
        note = f"{len(difference):,} users: {tail} of samples lie below {low:+.4f}, as many above {high:+.4f}"
        if not is_good:
            note = f"the candidate is worse, {compares}; {note}"
        elif not is_shown:
            note += "; too few users to rule out a loss beyond the margin, so only the mean counts"
        return Check(
            f"{GATE_METRIC}, difference",
            f"{mean:+.4f}",
            "",
            f"at least 0, or in {CONFIDENCE:.0%} of samples at least {-margin:.4f}",
            "pass" if is_good else "drop",
            note,
        )

    def _gain(self, new: Figures, old: Figures, compares: str) -> Check:
        """Doubt a gain that models do not make."""
        value = _metric(new)
        before = _metric(old)
        most = self._limits.max_gain
        plausible = self._limits.plausible_gain
        is_implausible = bool(most) and value > most * before and value - before > plausible
        note = (
            f"implausible gain, {compares}: more than {most:g} times as good, "
            "as if answers of the evaluation were among the histories"
        )
        return Check(
            GATE_METRIC,
            f"{value:.4f}",
            f"{before:.4f}",
            f"at most {most:g} times, or {plausible:g} above" if most else "any",
            "hold back" if is_implausible else "pass",
            note if is_implausible else "",
        )

    def _coverage(self, new: Figures, old: Figures) -> Check:
        least = (1 - self._limits.max_coverage_loss) * old.coverage
        return _held(
            "coverage of the catalogue",
            f"{new.coverage:.1%}",
            f"{old.coverage:.1%}",
            f"at least {least:.1%}",
            new.coverage >= least,
        )

    def _heads(self, new: Figures, old: Figures) -> list[Check]:
        checks = []
        for share, value, before in zip(HEADS, new.heads, old.heads, strict=True):
            most = before + self._limits.max_head_rise
            name = f"answers from the most popular {share:.0%}"
            checks.append(_held(name, f"{value:.1%}", f"{before:.1%}", f"at most {most:.1%}", value <= most))
        return checks

    def _new_items(self, compared: Comparison, new: Figures, old: Figures) -> Check:
        name = "answers that are new items"
        wanted = compared.new_targets / len(new.gains)
        least = self._limits.min_new_exposure * wanted
        limit = f"at least {least:.2%}"
        values = (f"{new.new_exposure:.2%}", f"{old.new_exposure:.2%}")
        if compared.new_targets < FEWEST_NEW_TARGETS:
            note = f"{compared.new_targets} users chose new items, {FEWEST_NEW_TARGETS} are needed"
            return Check(name, *values, limit, "not judged", note)
        return _held(name, *values, limit, new.new_exposure >= least, f"{wanted:.1%} of users chose new items")

    def _collisions(self, new: Figures, old: Figures) -> Check:
        return _risen(
            "items whose codes collide", new.collision_rate, old.collision_rate, self._limits.max_collision_rise, ".1%"
        )

    def _codes_moved(self, compared: Comparison) -> Check:
        moved = compared.codes_moved
        limit = f"at most {self._limits.max_codes_moved:.0%}"
        if moved is None:
            return Check("known items with other codes", "", "", limit, "not judged", "no item is known to both")
        return _held("known items with other codes", f"{moved:.1%}", "", limit, moved <= self._limits.max_codes_moved)

    def _calibration(self, new: Figures, old: Figures) -> Check:
        return _risen("calibration error", new.calibration, old.calibration, self._limits.max_calibration_rise, ".4f")

    def _size(self, new: Figures, old: Figures) -> Check:
        most = self._limits.max_size * old.size
        return _held("bytes", f"{new.size:,}", f"{old.size:,}", f"at most {most:,.0f}", new.size <= most)

    def _search_time(self, new: Figures, old: Figures) -> Check:
        most = self._limits.max_search_time * old.search_ms
        values = (f"{new.search_ms:.2f} ms", f"{old.search_ms:.2f} ms")
        limit = f"at most {most:.2f} ms"
        if not old.search_ms:
            note = "the live version knows no item of the histories"
            return Check("time of a search", values[0], "", "", "not judged", note)
        return _held("time of a search", *values, limit, new.search_ms <= most)

    def _goldens(self, compared: Comparison) -> Check:
        replay = compared.goldens
        value = "another answer" if replay.problem else f"all {replay.goldens}"
        note = f"the exported search does not answer its goldens, {replay.problem}" if replay.problem else ""
        result: Result = "drop" if replay.problem else "pass"
        return Check("goldens answered as in training", value, "", f"all {replay.goldens}", result, note)


def _metric(figures: Figures) -> float:
    return figures.metrics[GATE_METRIC]


def _held(name: str, value: str, live: str, limit: str, is_kept: bool, note: str = "") -> Check:
    """Return a line that holds a candidate back if its limit is not kept."""
    broken = f"{name}: {value}, {limit}" + (f" (live: {live})" if live else "")
    return Check(name, value, live, limit, "pass" if is_kept else "hold back", note if is_kept else broken)


def _risen(name: str, value: float | None, before: float | None, most_rise: float, form: str) -> Check:
    """Return a line that holds a candidate back if a value has risen too much; not judged if one is missing."""
    if value is None or before is None or math.isnan(value) or math.isnan(before):
        shown = ["" if one is None else format(one, form) for one in (value, before)]
        return Check(name, shown[0], shown[1], "", "not judged", "it was not measured in both")
    most = before + most_rise
    return _held(name, format(value, form), format(before, form), f"at most {format(most, form)}", value <= most)


def _first_model(figures: Figures) -> list[Check]:
    """Return the lines of a model that nothing is compared with."""
    heads = [
        (f"answers from the most popular {share:.0%}", f"{value:.1%}")
        for share, value in zip(HEADS, figures.heads, strict=True)
    ]
    values = [
        (GATE_METRIC, f"{_metric(figures):.4f}"),
        ("coverage of the catalogue", f"{figures.coverage:.1%}"),
        *heads,
        ("items whose codes collide", "" if figures.collision_rate is None else f"{figures.collision_rate:.1%}"),
        ("calibration error", "" if figures.calibration is None else f"{figures.calibration:.4f}"),
        ("bytes", f"{figures.size:,}"),
        ("time of a search", f"{figures.search_ms:.2f} ms"),
    ]
    return [Check(name, value, "", "", "not judged", "there is no live version") for name, value in values]


def _verdict(checks: list[Check], otherwise: str) -> Judgement:
    """Return the verdict of all lines: the worst of theirs, with the notes of those that led to it."""
    for verdict in ("drop", "hold back"):
        notes = [check.note for check in checks if check.result == verdict]
        if notes:
            return Judgement(verdict, _joined(notes), tuple(checks))
    return Judgement("promote", otherwise, tuple(checks))


def _joined(notes: list[str]) -> str:
    """Join notes to a reason that is short enough to be remembered with a version that is held back."""
    more = len(notes) - MOST_REASONS
    return "; ".join(notes[:MOST_REASONS]) + (f"; and {more} more" if more > 0 else "")
