"""A batch run from its plan to its last shard: computes what is missing, keeps the manifest, reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from model_store.errors import BatchIncomplete, ConfigError, DataError, EtegrecError, ModelStoreError
from model_store.shards.runners import ATTEMPTS, ShardRunner
from service.batch.plan import Plan
from service.batch.progress import TOLD_EVERY_S, Progress, Say
from service.batch.run_folder import FinishedShard, RunFolder
from service.batch.shards import shard_computer

SHOWN_FAILURES = 5
"""Failed shards whose reason is shown."""


@dataclass(frozen=True)
class RunResult:
    """What a run has done, resumed parts included."""

    version: str
    rows: int
    shards: int
    resumed_shards: int  # finished by an earlier process
    counts: Mapping[str, int]  # users or items by how they were answered
    seconds: float = field(compare=False)


def finish_run(
    folder: RunFolder, plan: Plan, runner: ShardRunner, say: Say, tell_every_s: float = TOLD_EVERY_S
) -> RunResult:
    """Compute every shard that is not in the manifest yet.

    Args:
        folder: The folder of the run.
        plan: Its plan.
        runner: Where shards are computed.
        say: Takes messages for people; it may be called from another thread.
        tell_every_s: Seconds between two messages about progress.

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
    with progress.told_regularly(tell_every_s):
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
