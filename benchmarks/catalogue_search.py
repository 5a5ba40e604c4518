"""Timed searches of catalogues of different sizes, and timed masks of the codes that may come next."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.large_catalogue import CODEBOOK_SIZE, LEVELS
from model_store.catalogue.catalogue import Catalogue
from model_store.config import ModelConfig
from model_store.semantic_ids.trie import Trie
from service.engines.base import SearchRequest, SearchResult
from service.engines.onnx_engine import OnnxEngine
from service.ranking.filters import RuleCompiler, read_filter
from service.schemas.rules import Filter

BATCH = 32
HISTORY = 20
BEAM_WIDTH = 20
K = 10
DENIED = 100
RULES = 8
MODEL = [
    'model.collisions="reassign"',
    'model.recommender.history_tokens="code"',
    # No item vectors: their width plays no part, and the smallest one wastes no memory on them.
    "sasrec.embedding_dim=2",
    "model.tokenizer.embedding_dim=2",
]


def median_s(work: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of a call; its result is freed outside the timed part."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        kept = work()
        taken.append(time.perf_counter() - started)
        del kept
    return statistics.median(taken)


def export_graph(path: Path, overrides: list[str]) -> ModelConfig:
    """Write the search graph of an untrained model and return its configuration."""
    import torch  # here, so that the processes that only measure memory do without

    from model_store.network.recommender import Recommender
    from training.config import load_config
    from training.export.onnx_export import export_search

    torch.manual_seed(0)
    config = load_config("paper", [*MODEL, *overrides]).model
    path.write_bytes(export_search(Recommender(config).eval(), has_dense=False))
    return config


class Batch:
    """One catalogue in one engine, and histories to ask it with."""

    def __init__(self, graph: Path, config: ModelConfig, path: Path, seed: int) -> None:
        self.catalogue = Catalogue.from_parquet(path.read_bytes())
        self.rules = RuleCompiler(self.catalogue, 64)
        self._engine = OnnxEngine(graph.read_bytes(), config)
        rng = np.random.default_rng(seed)
        self._histories = rng.integers(0, len(self.catalogue), (BATCH, HISTORY))
        denied = [[self.catalogue.item_ids[row] for row in rows] for rows in self._rows(rng, DENIED)]
        self._filters = [
            Filter(categories=[f"category {number % RULES}"], deny=ids) for number, ids in enumerate(denied)
        ]

    def unfiltered(self) -> list[SearchResult]:
        """Search with no rule but that seen items are excluded."""
        return self._search([None] * BATCH)

    def filtered(self) -> list[SearchResult]:
        """Search one of a few categories, with a deny list of its own for each request."""
        return self._search(self._filters)

    def _rows(self, rng: np.random.Generator, count: int) -> list[list[int]]:
        return [rows.tolist() for rows in rng.integers(0, len(self.catalogue), (BATCH, count))]

    def _search(self, filters: Sequence[Filter | None]) -> list[SearchResult]:
        """Do what the service does between a parsed request and the rows of its answer."""
        requests = []
        for history, asked in zip(self._histories, filters, strict=True):
            key = read_filter(asked).key
            rule = self.rules.find(key) or self.rules.compile(key)
            excluded = np.append(history, self.catalogue.rows((asked and asked.deny) or ()))
            requests.append(SearchRequest(history, K, BEAM_WIDTH, rule.mask, excluded, self.catalogue))

        return self._engine.answer(requests, self.catalogue)


class Searches(NamedTuple):
    """Median seconds of a batch."""

    by_size: list[float]
    filtered: float  # at the middle size


def search_s(graph: Path, config: ModelConfig, paths: list[Path], seed: int, repeats: int) -> Searches:
    """Search all sizes in turn, and the middle one with filters."""
    batches = [Batch(graph, config, path, seed) for path in paths]
    work = [*(batch.unfiltered for batch in batches), batches[1].filtered]
    for one in work:  # warm up, compile rules
        one()
    taken = [[_seconds(one) for one in work] for _ in range(repeats)]
    *by_size, filtered = (statistics.median(column) for column in zip(*taken, strict=True))
    return Searches(by_size, filtered)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def mask_ratio(path: Path, seed: int, repeats: int) -> float:
    """Return how many times longer a trie of dicts takes to mask the next codes, for all beams of a batch."""
    catalogue = Catalogue.from_parquet(path.read_bytes())
    trie = catalogue.trie
    codes = catalogue.codes

    root: dict[int, Any] = {}
    for item in codes.tolist():
        node = root
        for code in item:
            node = node.setdefault(code, {})

    rows = np.random.default_rng(seed).integers(0, len(catalogue), BATCH * BEAM_WIDTH)
    path_nodes = trie.leaf_nodes[trie.item_leaf[rows]]
    nodes = [np.zeros(len(rows), dtype=np.int64), *path_nodes[:, :-1].T.astype(np.int64)]
    prefixes = [codes[rows, :depth].tolist() for depth in range(LEVELS)]

    for depth in range(LEVELS):
        if not np.array_equal(flat_mask(trie, depth, nodes[depth]), dict_mask(root, prefixes[depth])):
            raise RuntimeError(f"the two tries disagree at depth {depth}")

    ours = median_s(lambda: [flat_mask(trie, depth, nodes[depth]) for depth in range(LEVELS)], repeats)
    theirs = median_s(lambda: [dict_mask(root, prefixes[depth]) for depth in range(LEVELS)], repeats)
    return theirs / ours


def flat_mask(trie: Trie, depth: int, node: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return the codes that may come next ``[N, K]``, from the arrays: a window of K children for every node."""
    start = trie.child_start[depth]
    slot = np.arange(CODEBOOK_SIZE)
    first = start[node]
    exists = slot < (start[node + 1] - first)[:, None]
    code = trie.child_code[depth][first[:, None] + slot]
    mask = np.zeros(exists.shape, dtype=np.bool_)
    mask[exists.nonzero()[0], code[exists]] = True
    return mask


def dict_mask(root: dict[int, Any], prefixes: list[list[int]]) -> npt.NDArray[np.bool_]:
    """Return the same from nested dicts, as a function from prefix to allowed codes would."""
    mask = np.zeros((len(prefixes), CODEBOOK_SIZE), dtype=np.bool_)
    for row, prefix in enumerate(prefixes):
        node = root
        for code in prefix:
            node = node[code]
        mask[row, list(node)] = True
    return mask
