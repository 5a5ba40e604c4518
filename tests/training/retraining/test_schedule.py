"""The schedule: a first model at once, then passes at their times, whatever becomes of the one before."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from filelock import FileLock

from model_store.errors import ConfigError, DataError, LockHeld
from training.retraining import schedule
from training.retraining.retrain import Retrainer

START = datetime(2026, 1, 1, 1, 0, 30, tzinfo=UTC)


class Clock(datetime):
    """The time, which passes only while somebody sleeps."""

    passed = timedelta()
    naps: ClassVar[list[float]] = []

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return START + cls.passed

    @classmethod
    def sleep(cls, seconds: float) -> None:
        assert seconds > 0
        cls.naps.append(seconds)
        cls.passed += timedelta(seconds=seconds)


@dataclass
class Report:
    """What a pass reports."""

    reason: str = "promoted"
    warnings: tuple[str, ...] = ("one event was rejected",)


@dataclass
class Passes:
    """Stands in for retraining, whose passes take minutes: notes when they run, and ends the schedule after some."""

    work: Path
    live_after: int
    failures: tuple[int, ...] = ()
    last: int = 4
    at: list[datetime] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def store(self) -> Passes:
        return self

    @property
    def progress(self) -> Passes:
        return self

    def live(self) -> str | None:
        return "v1" if len(self.at) >= self.live_after else None

    def say(self, words: str) -> None:
        self.said.append(words)

    def run_once(self) -> Report:
        self.at.append(Clock.now())
        Clock.passed += timedelta(seconds=1)
        if len(self.at) == self.last:
            raise SystemExit(0)
        if len(self.at) in self.failures:
            raise DataError("no interactions", "send some")
        return Report()

    @property
    def times(self) -> list[str]:
        return [f"{each:%d %H:%M:%S}" for each in self.at]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Clock.passed, Clock.naps = timedelta(), []
    monkeypatch.setattr(schedule, "datetime", Clock)
    monkeypatch.setattr("training.retraining.schedule.time.sleep", Clock.sleep)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(passes: Passes, cron: str = "0 3 * * *") -> None:
    with pytest.raises(SystemExit):
        schedule.run_schedule(cast(Retrainer, passes), cron)


def test_passes_run_at_their_times_after_a_first_one_at_once(tmp_path: Path) -> None:
    passes = Passes(tmp_path / "work", live_after=1)
    run(passes)
    assert passes.times == ["01 01:00:30", "01 03:00:00", "02 03:00:00", "03 03:00:00"]
    assert passes.said[:3] == ["promoted", "one event was rejected", "next pass at 2026-01-01 03:00 UTC"]
    assert max(Clock.naps) == 30.0, "a machine that was suspended notices soon"


def test_a_model_that_is_live_waits_for_its_time(tmp_path: Path) -> None:
    passes = Passes(tmp_path, live_after=0, last=1)
    run(passes)
    assert passes.times == ["01 03:00:00"]


def test_until_a_model_is_live_failed_passes_are_repeated_ever_later(tmp_path: Path) -> None:
    passes = Passes(tmp_path, live_after=9, failures=tuple(range(1, 9)), last=9)
    run(passes)
    gaps = [(later - earlier).total_seconds() for earlier, later in zip(passes.at, passes.at[1:], strict=False)]
    assert gaps == [11, 21, 41, 81, 161, 321, 601, 601], "and a second each"
    assert passes.said[0] == "this pass failed: no interactions (fix: send some)"


def test_a_failed_pass_does_not_move_the_next_one(tmp_path: Path) -> None:
    passes = Passes(tmp_path, live_after=1, failures=(2,))
    run(passes)
    assert passes.times[1:] == ["01 03:00:00", "02 03:00:00", "03 03:00:00"]


def test_one_schedule_runs_in_a_work_folder(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".schedule.lock"), pytest.raises(LockHeld, match="another schedule runs in"):
        schedule.run_schedule(cast(Retrainer, Passes(tmp_path, live_after=0)), "0 3 * * *")


def test_a_signal_ends_it_with_success(tmp_path: Path) -> None:
    run(Passes(tmp_path, live_after=0, last=1))
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 0


@pytest.mark.parametrize("cron", ["", "hourly", "0 3 * *", "99 3 * * *", "0 0 30 2 *"])
def test_a_time_that_is_none_is_refused_before_anything_runs(cron: str, tmp_path: Path) -> None:
    passes = Passes(tmp_path, live_after=0)
    with pytest.raises(ConfigError, match="--cron"):
        schedule.run_schedule(cast(Retrainer, passes), cron)
    assert not passes.at
