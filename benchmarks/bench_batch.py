"""Batch recommendation beside the service over HTTP and beside Hugging Face ``generate`` (``make bench-batch``).

The paper-size model and a catalogue of 12,000 items; users with 20 items each, 20 beams, 10 answers, fp32, all cores.

users_s_core: users a second and core of ``etegrec-batch recommend``, from the end of each process's first shard on, so
that opening the model does not count, which a run of hours does not notice. Reading and writing of Parquet does count.

http_users_s_core: the same of ``POST /recommend/batch`` with 32 users a request, on as many connections as keep the
service busy; the load generator runs on the same cores. generate_users_s_core: of a loop of ``generate`` over batches
of 32 histories, with the faster of its two usual constraints. The three alternate; medians over the repeats.

ray_equal, killed_node_equal: whether three Ray nodes on this machine wrote the same bytes as its processes, undisturbed
and with a node killed in mid-run; null where Ray is not installed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer

from benchmarks.load import Load, encode_request
from benchmarks.peer_generate import Peer
from benchmarks.ray_nodes import KILL
from benchmarks.served_store import K, histories, open_store
from benchmarks.service_process import serving
from model_store.bundle.bundle import Bundle
from model_store.shards.local_processes import LocalProcesses
from model_store.shards.runners import ComputeShard, Outcome, ShardRunner, T
from service.batch.plan import Asked, deciding_settings
from service.batch.preparation import prepare
from service.batch.run import finish_run
from service.batch.run_folder import RunFolder
from service.batch.users import UsersFile
from service.engines.onnx_engine import usable_cores
from service.schemas.recommend import RecommendRequest
from service.settings import Settings

BEAM_WIDTH = 20
USERS_A_REQUEST = 32
CONNECTIONS = 4
"""So many requests keep the service busy; more would only wait, and be refused where other work shares the cores."""

DEADLINE_MS = 60_000
"""Longest time that the service allows for a request: the benchmark is about throughput."""


class TimedProcesses(ShardRunner):
    """Processes of this machine, and the time at which each shard ended."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self.ended: list[float] = []

    def run(self, compute: ComputeShard[T], shards: Sequence[int]) -> Iterator[Outcome[T]]:
        """Yield each shard when it has ended."""
        for outcome in LocalProcesses(self._processes).run(compute, shards):
            self.ended.append(time.perf_counter())
            yield outcome

    @property
    def shards_a_second(self) -> float:
        """Shards a second after each process has ended its first one."""
        return (len(self.ended) - self._processes) / (self.ended[-1] - self.ended[self._processes - 1])


def write_users(path: Path, users: Sequence[Sequence[str]]) -> Path:
    """Write a users file."""
    names = [f"user-{number}" for number in range(len(users))]
    pq.write_table(pa.table({"user_id": names, "history": pa.array(users, pa.list_(pa.string()))}), path)
    return path


def batch_rate(models: Path, users: Path, out: Path, shard_size: int, cores: int) -> float:
    """Return users a second of a batch run on so many processes."""
    settings = Settings.load(store=str(models))
    asked = Asked(
        kind="recommend",
        version="",
        request=RecommendRequest(k=K),
        histories="file",
        shard_size=shard_size,
        settings=deciding_settings(settings),
    )
    out.mkdir()
    folder = RunFolder(out)
    plan = asyncio.run(prepare(folder, asked, UsersFile(users), settings))
    runner = TimedProcesses(cores)
    finish_run(folder, plan, runner, lambda _: None)
    return runner.shards_a_second * shard_size


def http_rate(port: int, users: Sequence[Sequence[str]], seconds: float) -> float:
    """Return users a second of ``POST /recommend/batch``."""
    bodies = [
        json.dumps([{"history": each, "k": K} for each in users[start : start + USERS_A_REQUEST]]).encode()
        for start in range(0, len(users) - USERS_A_REQUEST + 1, USERS_A_REQUEST)
    ]
    load = Load(port, [encode_request("POST", "/recommend/batch", body) for body in bodies], CONNECTIONS)
    started = time.perf_counter()
    replies = asyncio.run(load.closed_loop(seconds))
    taken = time.perf_counter() - started
    failed = sorted({reply.status for reply in replies} - {200})
    if failed:
        raise SystemExit(f"some replies had status {failed}: the figures would mean nothing")
    return len(replies) * USERS_A_REQUEST / taken


def generate_rate(peer: Peer, bundle: Bundle, users: Sequence[Sequence[str]], batches: int) -> float:
    """Return users a second of ``generate`` with its faster constraint."""
    catalogue = bundle.catalogue()
    taken: dict[str, float] = {}
    for at in range(batches + 1):
        start = at * USERS_A_REQUEST % (len(users) - USERS_A_REQUEST + 1)
        rows = np.stack([catalogue.rows(list(each)) for each in users[start : start + USERS_A_REQUEST]])
        for name, work in peer.ways(rows).items():
            began = time.perf_counter()
            work()
            # the first batch warms up
            taken[name] = taken.get(name, 0.0) + (time.perf_counter() - began if at else 0.0)
    return batches * USERS_A_REQUEST / min(taken.values())


def is_equal_on_ray(models: Path, users: Path, local: Path, out: Path, shard_size: int, *options: str) -> bool | None:
    """Return whether three nodes wrote the same files as this machine; ``None`` without Ray."""
    if importlib.util.find_spec("ray") is None:
        return None
    given = ["--store", str(models), "--users", str(users), "--out", str(out), "--shard-size", str(shard_size)]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.ray_nodes", *options, *given, "--k", str(K)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return contents(out) == contents(local)


def contents(out: Path) -> dict[str, bytes]:
    """Return the files with answers."""
    return {path.name: path.read_bytes() for path in out.glob("*.parquet")}


def main(
    store: Annotated[
        Path | None, typer.Option(help="Folder to keep the model in; default: build it again, which takes minutes.")
    ] = None,
    users: Annotated[int, typer.Option(min=64, help="Users of a batch run.")] = 20_000,
    shard_size: Annotated[int, typer.Option(min=1)] = 500,
    seconds: Annotated[float, typer.Option(help="Seconds of each repeat over HTTP.")] = 20.0,
    generate_batches: Annotated[int, typer.Option(min=1, help="Batches of each repeat of generate.")] = 10,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    cores = usable_cores()
    torch.set_num_threads(cores)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        models = store or work / "models"
        bundle = open_store(models).bundle()
        catalogue = bundle.catalogue()
        asked = histories(catalogue, users)
        file = write_users(work / "users.parquet", asked)
        peer = Peer(bundle.config, catalogue.trie, BEAM_WIDTH, K)

        rates: dict[str, list[float]] = {"batch": [], "http": [], "generate": []}
        for repeat in range(repeats):
            rates["batch"].append(batch_rate(models, file, work / f"local-{repeat}", shard_size, cores))
            with serving(models, deadline_ms=DEADLINE_MS, result_cache_entries=0) as service:
                http_rate(service.port, asked, min(2.0, seconds))
                rates["http"].append(http_rate(service.port, asked, seconds))
            rates["generate"].append(generate_rate(peer, bundle, asked, generate_batches))

        by_core = {name: statistics.median(each) / cores for name, each in rates.items()}
        local = work / "local-0"
        ray_equal = is_equal_on_ray(models, file, local, work / "ray", shard_size)
        killed_node_equal = is_equal_on_ray(models, file, local, work / "killed", shard_size, KILL)

    typer.echo(
        json.dumps(
            {
                "bench": "batch",
                "users_s_core": round(by_core["batch"], 1),
                "http_users_s_core": round(by_core["http"], 1),
                "generate_users_s_core": round(by_core["generate"], 1),
                "over_http": round(_ratio(rates, "http"), 2),
                "over_generate": round(_ratio(rates, "generate"), 2),
                "ray_equal": ray_equal,
                "killed_node_equal": killed_node_equal,
                "users": users,
                "shard_size": shard_size,
                "cores": cores,
                "repeats": repeats,
                "load": round(os.getloadavg()[0], 2),
            }
        )
    )


def _ratio(rates: dict[str, list[float]], other: str) -> float:
    """Return how much faster the batch run is: the median over repeats."""
    return statistics.median(mine / theirs for mine, theirs in zip(rates["batch"], rates[other], strict=True))


if __name__ == "__main__":
    typer.run(main)
