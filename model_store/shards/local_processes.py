"""Runner of shards in processes of this machine, each of which computes one shard at a time."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from model_store.shards.runners import ComputeShard, Outcome, ShardFailed, ShardRunner, T, try_shard

DEATH_HINT = "it may have run out of memory: give fewer --processes, or a smaller --shard-size"


@dataclass(eq=False)
class _Process:
    """A process and this end of the connection to it."""

    process: SpawnProcess
    connection: Connection
    shard: int = -1  # the one that it computes

    def end(self) -> None:
        """Kill the process: what it has not finished is repeated some day."""
        self.connection.close()
        self.process.kill()
        self.process.join()


class LocalProcesses(ShardRunner):
    """Runner in so many processes. A process that dies is replaced, and its shard, no other, has failed."""

    def __init__(self, processes: int) -> None:
        self._count = processes
        self._context = multiprocessing.get_context("spawn")

    def run(self, compute: ComputeShard[T], shards: Sequence[int]) -> Iterator[Outcome[T]]:
        """See :meth:`model_store.shards.runners.ShardRunner.run`."""
        waiting = deque(shards)
        running: dict[Connection, _Process] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self._count:
                    started = self._start(compute)
                    running[started.connection] = started
                    _send(started, waiting.popleft())

                for ready in wait(list(running)):
                    process = running[ready]  # type: ignore[index]  # they are the connections that were given
                    outcome: Outcome[T] = _receive(process)
                    if waiting and process.process.is_alive():
                        _send(process, waiting.popleft())
                    else:
                        del running[process.connection]
                        process.end()
                    yield outcome
        finally:
            for process in running.values():
                process.end()

    def _start(self, compute: ComputeShard[Any]) -> _Process:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, compute), daemon=True)
        process.start()
        theirs.close()  # so that the connection ends with the process
        return _Process(process, ours)


def _send(process: _Process, shard: int) -> None:
    process.shard = shard
    try:
        process.connection.send(shard)
    except BrokenPipeError:
        return  # the process has died: receiving will tell


def _receive(process: _Process) -> Outcome[Any]:
    """Return what became of the shard that the process computes."""
    try:
        outcome: Outcome[Any] = process.connection.recv()
    except (EOFError, ConnectionResetError):
        process.process.join()
        code = process.process.exitcode or 0
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return Outcome(process.shard, None, ShardFailed(f"the process that computed it {ended}", DEATH_HINT))
    return outcome


def _work(connection: Connection, compute: ComputeShard[Any]) -> None:
    """Compute shards until the other process closes the connection, or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the other process, which ends this one itself
    while True:
        try:
            shard = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            connection.send(try_shard(compute, shard))
        except BrokenPipeError:
            return
