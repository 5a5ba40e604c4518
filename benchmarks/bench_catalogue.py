"""Search time, memory and start-up time by the size of the catalogue (``make bench-catalogue``).

Catalogues of three sizes are generated (seeded, see :mod:`benchmarks.large_catalogue`). Search times come from the
exported ONNX graph of an untrained model of the paper's size and the service's own engine: one batch from history to
ranked rows, sizes alternating. Memory is the growth of the resident set of a fresh process that loads the catalogue
and touches everything that a replica's copy keeps; titles are left out, attributes hold a year. Loading from Redis goes
through the service's store and a real server on this machine. The masking step is timed on its own beside a trie of
nested dicts, on the same prefixes, and results are compared. All figures are medians of ``--repeats``, those of
start-up of at most 3.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar
from uuid import uuid4

import numpy as np
import pyarrow as pa
import typer

from benchmarks.catalogue_search import BATCH, export_graph, mask_ratio, median_s, search_s
from benchmarks.large_catalogue import CODEBOOK_SIZE, large_catalogue, skewed_codes
from model_store.bundle.manifest import FileSeal
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.packed import PackedStrings
from model_store.semantic_ids.trie import Trie
from service.ranking.filters import RuleCompiler
from service.store.change_stream import START, Snapshot
from service.store.redis_store import RedisStore
from tests.support.redis_server import RedisServer

T = TypeVar("T")


def run_in_new_process(work: Callable[..., T], *arguments: object) -> T:
    """Call a function in a process of its own, so that its memory can be measured."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *arguments).result()


def build_s(items: int, seed: int, repeats: int) -> float:
    """Return the seconds to build the trie from codes ``[items, L]``."""
    codes = skewed_codes(np.random.default_rng(seed), items)
    return median_s(lambda: Trie.build(codes, CODEBOOK_SIZE), repeats)


def load_bundle_s(path: Path, repeats: int) -> float:
    """Return the seconds from the file in a bundle to a checked catalogue with its trie."""
    return median_s(lambda: _from_bundle(path), repeats)


def _from_bundle(path: Path) -> Catalogue:
    data = path.read_bytes()
    FileSeal.of(data)
    return Catalogue.from_parquet(data)


class Memory(NamedTuple):
    """Bytes an item, of the trie and of everything that a replica keeps."""

    trie: float
    replica: float


def memory(path: Path) -> Memory:
    """Measure the memory of a replica's catalogue: the growth of this process."""
    release_memory()
    before = resident_bytes()
    catalogue = _from_bundle(path)
    rules = RuleCompiler(catalogue, 1)
    _ = catalogue.row_of, catalogue.by_popularity, catalogue.trie.parents, catalogue.trie.item_leaf

    release_memory()
    titles = PackedStrings.of(catalogue.titles).ragged.nbytes
    replica = (resident_bytes() - before - titles) / len(catalogue)
    assert not rules.everything.is_empty
    return Memory(catalogue.trie.nbytes / len(catalogue), replica)


def release_memory() -> None:
    """Give freed memory back to the system, so that the resident set is what is in use."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    """Return the resident set of this process, on Linux."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def load_redis_s(path: Path, folder: Path, repeats: int) -> float:
    """Return the seconds from the snapshot in Redis to a checked catalogue with its trie."""
    server = RedisServer(folder)
    server.start()
    try:
        return asyncio.run(_load_redis_s(server.url, Catalogue.from_parquet(path.read_bytes()), repeats))
    finally:
        server.kill()


async def _load_redis_s(url: str, catalogue: Catalogue, repeats: int) -> float:
    store = RedisStore(url, background_timeout_s=600, lock_ttl_s=600)

    async def make() -> Snapshot:
        return Snapshot(START, uuid4().hex, "0" * 64, catalogue.arrays())

    taken = []
    try:
        if await store.catalogue.save_snapshot("bench", make) is None:
            raise RuntimeError("the snapshot was not stored")

        for _ in range(repeats):
            started = time.perf_counter()
            snapshot = await store.catalogue.load_snapshot("bench")
            if snapshot is None:
                raise RuntimeError("the snapshot is gone")
            loaded = Catalogue.from_arrays(snapshot.arrays)
            taken.append(time.perf_counter() - started)

        if loaded.digest() != catalogue.digest():
            raise RuntimeError("what came out of Redis is another catalogue")
    finally:
        await store.close()
    return statistics.median(taken)


def measure(work: Path, items: tuple[int, int, int], seed: int, repeats: int, overrides: list[str]) -> dict[str, Any]:
    """Return all figures, as the benchmark prints them."""
    paths = [work / f"{number}.parquet" for number in range(len(items))]
    for count, path in zip(items, paths, strict=True):
        path.write_bytes(large_catalogue(count, seed).to_parquet())
    graph = work / "search.onnx"
    server = work / "redis"
    server.mkdir()

    config = export_graph(graph, overrides)
    few = min(repeats, 3)
    used = run_in_new_process(memory, paths[2])
    taken = search_s(graph, config, paths, seed, repeats)
    smallest, middle, largest = taken.by_size

    figures = {
        "ratio_1m": middle / smallest,
        "ratio_10m": largest / smallest,
        "trie_bytes_item": used.trie,
        "live_bytes_item": used.replica,
        "build_s_10m": build_s(items[2], seed, few),
        "load_bundle_s_10m": load_bundle_s(paths[2], few),
        "load_redis_s_10m": load_redis_s(paths[2], server, few),
        "filter_overhead_1m": taken.filtered / middle - 1,
        "dict_trie_mask_ratio": mask_ratio(paths[1], seed, repeats),
    }

    return {
        "bench": "catalogue",
        **{name: _rounded(figure) for name, figure in figures.items()},
        "search_ms": [_rounded(1000 * seconds) for seconds in (*taken.by_size, taken.filtered)],
        "items": items,
        "batch": BATCH,
        "repeats": repeats,
        "threads": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }


def _rounded(figure: float) -> float:
    return float(f"{figure:.3g}")


def main(
    items: Annotated[
        tuple[int, int, int], typer.Option(help="Three sizes. Names of figures stay those of the default.")
    ] = (10_000, 1_000_000, 10_000_000),
    repeats: Annotated[int, typer.Option(min=1)] = 7,
    seed: int = 0,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Overrides of the paper preset.")] = None,
    folder: Annotated[str, typer.Option(help="Folder for the data; default: the system's temporary folder.")] = "",
) -> None:
    work = Path(tempfile.mkdtemp(prefix="bench-catalogue-", dir=folder or None))
    try:
        typer.echo(json.dumps(measure(work, items, seed, repeats, overrides or [])))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    typer.run(main)
