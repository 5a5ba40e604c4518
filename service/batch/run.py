"""A batch run from its plan to its last shard: computes what is missing, keeps the manifest, reports."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from model_store.errors import BatchIncomplete, ConfigError, DataError, EtegrecError, ModelStoreError
from model_store.shards.runners import ATTEMPTS, ShardRunner
from service.batch.plan import Plan
from service.batch.run_folder import FinishedShard, RunFolder
from service.batch.shards import shard_computer

SHOWN_FAILURES = 5
"""Failed shards whose reason is shown."""

SAID_EVERY_S = 5.0
"""Seconds between two messages about progress."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """What a run has done, resumed parts included."""

    version: str
    rows: int
    shards: int
    resumed_shards: int  # finished by an earlier process
    counts: Mapping[str, int]  # users or items by how they were answered
    seconds: float = field(compare=False)


class Progress:
    """Messages about progress, at most one every few seconds.

    Args:
        rows: Users or items of the whole run.
        done: Those that are finished already.
        say: Takes a message.
        clock: Returns seconds.
    """

    def __init__(self, rows: int, done: int, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self._rows = rows
        self._done = done
        self._before = done
        self._say = say
        self._clock = clock
        self._started = clock()
        self._said = self._started

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    def add(self, rows: int) -> None:
        """Count finished users or items, and say how long the rest will take."""
        self._done += rows
        now = self._clock()
        if now - self._said < SAID_EVERY_S:
            return

        self._said = now
        rate = (self._done - self._before) / max(self.seconds, 1e-9)
        left = _duration((self._rows - self._done) / max(rate, 1e-9))
        self._say(
            f"{self._done:,} of {self._rows:,} ({self._done / self._rows:.0%}), {rate:,.0f} a second, {left} left"
        )


def finish_run(folder: RunFolder, plan: Plan, runner: ShardRunner, say: Say) -> RunResult:
    """Compute every shard that is not in the manifest yet.

    Args:
        folder: The folder of the run.
        plan: Its plan.
        runner: Where shards are computed.
        say: Takes messages for people.

    Raises:
        BatchIncomplete: Shards failed :data:`~model_store.shards.runners.ATTEMPTS` times; the others are done.
        DataError: The run was finished, and has lost files since.
        ModelStoreError, ConfigError: The model cannot be opened; no shard was computed.
    """
    finished = folder.finished()
    resumed = len(finished)
    folder.remove_leftovers()
    if resumed < plan.shards and not folder.inputs.exists():
        raise DataError(
            f"{plan.shards - resumed:,} files of a finished run are gone from {folder.path}, and its inputs with them",
            "begin another run with another --out",
        )
    if resumed:
        say(f"{resumed:,} of {plan.shards:,} shards are done already")

    progress = Progress(plan.rows, sum(each.rows for each in finished.values()), say)
    failed: dict[int, EtegrecError] = {}
    for _ in range(ATTEMPTS):
        missing = [shard for shard in range(plan.shards) if shard not in finished]
        if missing:
            failed = _compute(folder, runner, missing, finished, progress, say)

    if failed:
        raise _incomplete(folder, plan, failed)
    folder.remove_inputs()

    counts = sum((Counter(each.counts) for each in finished.values()), Counter[str]())
    return RunResult(plan.version, plan.rows, plan.shards, resumed, dict(sorted(counts.items())), progress.seconds)


def _compute(
    folder: RunFolder,
    runner: ShardRunner,
    shards: Sequence[int],
    finished: dict[int, FinishedShard],
    progress: Progress,
    say: Say,
) -> dict[int, EtegrecError]:
    """Compute shards once; add to ``finished`` and to the manifest what came; return the errors of the others."""
    failed: dict[int, EtegrecError] = {}
    for shard, result, error in runner.run(shard_computer(folder), shards):
        if result is not None:
            folder.record(result)
            finished[shard] = result
            progress.add(result.rows)
            continue

        assert error is not None
        if not finished and isinstance(error, ModelStoreError | ConfigError):
            raise error  # nothing can be computed: no need to hear so from every shard
        failed[shard] = error
        say(f"shard {shard} failed: {error}")
    return failed


def _incomplete(folder: RunFolder, plan: Plan, failed: Mapping[int, EtegrecError]) -> BatchIncomplete:
    shown = "; ".join(f"shard {shard}: {error}" for shard, error in list(failed.items())[:SHOWN_FAILURES])
    hints = " · ".join(dict.fromkeys(error.hint for error in failed.values() if error.hint))
    repeat = f"the other {plan.shards - len(failed):,} are in {folder.path}; repeat the command to try these again"
    return BatchIncomplete(
        f"{len(failed):,} of {plan.shards:,} shards failed {ATTEMPTS} times: {shown}",
        f"{hints}; {repeat}" if hints else repeat,
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
