"""Scheduled retraining (``etegrec-train schedule``): a first model at once if needed, then by cron.

Passes run in the main thread: a signal ends them at any point, and the next start resumes after the last finished
stage. Only the cron parser of APScheduler is used; its job executors would keep a stopped process alive until training
ends.
"""

from __future__ import annotations

import re
import signal
import time
from datetime import UTC, datetime
from types import FrameType

from apscheduler.triggers.cron import CronTrigger
from filelock import FileLock, Timeout

from model_store.errors import ConfigError, EtegrecError, LockHeld
from training.retraining.retrain import Retrainer

_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
FIRST_RETRY_S = 10.0
LONGEST_RETRY_S = 600.0


def run_schedule(retrainer: Retrainer, cron: str) -> None:
    """Retrain by a cron expression (UTC) until SIGTERM, which ends the process with exit code 0.

    A failed pass is reported, and the next one starts at its time. Until a first version is live, failed passes are
    retried earlier.

    Raises:
        ConfigError: The cron expression is not valid.
        LockHeld: Another schedule runs in the same work folder.
    """
    trigger = parse_cron(cron)
    signal.signal(signal.SIGTERM, _exit)
    retrainer.work.mkdir(parents=True, exist_ok=True)

    try:
        with FileLock(retrainer.work / ".schedule.lock").acquire(timeout=0):
            _train_first_model(retrainer)
            while True:
                _sleep_until(trigger, retrainer)
                attempt(retrainer)
    except Timeout as cause:
        raise LockHeld(
            f"another schedule runs in {retrainer.work}", "stop it first, or choose another --work"
        ) from cause


def parse_cron(cron: str) -> CronTrigger:
    """Return a trigger in UTC. Weekdays are names or numbers; 0 and 7 are Sunday.

    Raises:
        ConfigError: The expression is not valid, or names a time that never comes.
    """
    try:
        *others, weekday = cron.split()
        # cron counts weekdays from Sunday, APScheduler from Monday. Names mean the same day to both.
        named = re.sub(r"(?<![/\d])[0-7](?!\d)", lambda day: _WEEKDAYS[int(day.group())], weekday)
        trigger = CronTrigger.from_crontab(" ".join([*others, named]), timezone=UTC)
    except ValueError as cause:
        raise ConfigError(f"--cron {cron!r} is not valid: {cause}", "five fields, such as '0 3 * * *'") from cause
    if trigger.get_next_fire_time(None, datetime.now(UTC)) is None:
        raise ConfigError(f"--cron {cron!r} names a time that never comes", "check day and month")
    return trigger


def attempt(retrainer: Retrainer) -> bool:
    """Run one pass, say what came of it and return whether it succeeded; say so if not (Redis away, disk full …)."""
    try:
        report = retrainer.run_once()
    except (EtegrecError, OSError) as error:
        hint = error.hint if isinstance(error, EtegrecError) else ""
        retrainer.progress.say(f"this pass failed: {error}" + (f" (fix: {hint})" if hint else ""))
        return False

    for line in (report.reason, *report.warnings):
        retrainer.progress.say(line)
    return True


def _train_first_model(retrainer: Retrainer) -> None:
    wait = FIRST_RETRY_S
    while retrainer.store.live() is None and not attempt(retrainer):
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_RETRY_S)


def _sleep_until(trigger: CronTrigger, retrainer: Retrainer) -> None:
    due = trigger.get_next_fire_time(None, datetime.now(UTC))
    retrainer.progress.say(f"next pass at {due:%Y-%m-%d %H:%M} UTC")
    # Sleep in short steps, so that a suspended machine or a changed clock does not shift the schedule.
    while (left := (due - datetime.now(UTC)).total_seconds()) > 0:
        time.sleep(min(left, 30.0))


def _exit(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
