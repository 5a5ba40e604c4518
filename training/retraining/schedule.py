"""``etegrec-train schedule``: a first model at once if there is none, then retraining by the clock, in one process.

Passes run in the main thread: a signal ends them at any point, and the next start goes on from the last finished stage.
Only the clock comes from APScheduler; its job executors would keep a stopped process alive until training ends.
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

    A failed pass is reported, and the next one comes as planned. While no model is live, passes are repeated sooner.

    Raises:
        ConfigError: The cron expression is not valid.
        LockHeld: Another schedule runs in the same work folder.
    """
    trigger = parse_cron(cron)
    signal.signal(signal.SIGTERM, _leave)
    retrainer.work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(retrainer.work / ".schedule.lock").acquire(timeout=0):
            _first_model(retrainer)
            while True:
                _sleep_until(trigger, retrainer)
                attempt(retrainer)
    except Timeout as cause:
        raise LockHeld(f"another schedule runs in {retrainer.work}", "stop it first, or give another --work") from cause


def parse_cron(cron: str) -> CronTrigger:
    """A trigger in UTC. Weekdays are names, or numbers of which 0 and 7 are Sunday.

    Raises:
        ConfigError: The expression is not valid, or never comes true.
    """
    try:
        *others, weekday = cron.split()
        # cron counts weekdays from Sunday, APScheduler from Monday: names mean the same day to both
        named = re.sub(r"(?<![/\d])[0-7](?!\d)", lambda day: _WEEKDAYS[int(day.group())], weekday)
        trigger = CronTrigger.from_crontab(" ".join([*others, named]), timezone=UTC)
    except ValueError as cause:
        raise ConfigError(f"--cron {cron!r} is not valid: {cause}", "five fields, such as '0 3 * * *'") from cause
    if trigger.get_next_fire_time(None, datetime.now(UTC)) is None:
        raise ConfigError(f"--cron {cron!r} names a time that never comes", "check day and month")
    return trigger


def attempt(retrainer: Retrainer) -> bool:
    """One pass; an expected failure (Redis away, disk full …) is reported and does not end the schedule."""
    try:
        retrainer.run_once()
    except (EtegrecError, OSError) as error:
        hint = error.hint if isinstance(error, EtegrecError) else ""
        retrainer.progress.say(f"this pass failed: {error}" + (f" (fix: {hint})" if hint else ""))
        return False
    return True


def _first_model(retrainer: Retrainer) -> None:
    wait = FIRST_RETRY_S
    while retrainer.store.live() is None and not attempt(retrainer):
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_RETRY_S)


def _sleep_until(trigger: CronTrigger, retrainer: Retrainer) -> None:
    due = trigger.get_next_fire_time(None, datetime.now(UTC))
    retrainer.progress.say(f"next pass at {due:%Y-%m-%d %H:%M} UTC")
    # In slices: a suspended machine, or a changed clock, must not shift the schedule.
    while (left := (due - datetime.now(UTC)).total_seconds()) > 0:
        time.sleep(min(left, 30.0))


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
