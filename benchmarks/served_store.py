"""Model store whose live version is the model of the search benchmarks, for benchmarks of the service."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from benchmarks.paper_model import ServedModel, served_model
from model_store.bundle.golden import Golden, goldens_to_json
from model_store.bundle.manifest import DataSummary, Description
from model_store.bundle.parts import CODE_NAMES
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.bundle.vector_file import EMBEDDINGS
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.code_names import CodeNames
from model_store.network.tokenizer import Tokenizer
from service.engines.base import Engine, SearchRequest, SearchResult
from service.engines.onnx_engine import EIGHT_BIT_GRAPH, GRAPH, OnnxEngine
from training.export.int8 import eight_bit_search
from training.export.onnx_export import export_search, export_tokenizer

HISTORY = 20
K = 10


def open_store(folder: Path, items: int = 12_000) -> ModelStore:
    """Return the model store in a folder. Without a live version, build and promote one, which takes minutes."""
    store = ModelStore(str(folder))
    if store.live() is None:
        torch.set_num_threads(1)
        store.promote(_publish(store, served_model(items)))
    return store


def histories(catalogue: Catalogue, count: int, seed: int = 0) -> list[list[str]]:
    """Return item ids of users who saw :data:`HISTORY` items each, no two users alike."""
    rows = np.random.default_rng(seed).integers(0, len(catalogue), (count, HISTORY)).tolist()
    return [[catalogue.item_ids[row] for row in each] for each in rows]


def answer_alone(engine: Engine, catalogue: Catalogue, item_ids: list[str], beam_width: int) -> SearchResult:
    """Return the model's answer to one history that is computed alone."""
    history = catalogue.rows(item_ids)
    request = SearchRequest(history, K, beam_width, catalogue.trie.everything, history, catalogue)
    return engine.answer([request], catalogue)[0]


def _publish(store: ModelStore, served: ServedModel) -> str:
    catalogue = served.catalogue
    config = served.config
    rng = np.random.default_rng(0)

    graph = export_search(served.recommender, has_dense=False)
    engine = OnnxEngine(graph, config, threads=1)
    weights = {f"recommender.{name}": value.contiguous() for name, value in served.recommender.state_dict().items()}
    files = {
        "weights.safetensors": save(weights),
        GRAPH: graph,
        EIGHT_BIT_GRAPH: eight_bit_search(graph, served.recommender),
        "tokenizer.onnx": export_tokenizer(Tokenizer(config.tokenizer).eval()),
        EMBEDDINGS: save({"embeddings": torch.from_numpy(rng.normal(size=(len(catalogue), 8))).float()}),
        "catalogue.parquet": catalogue.to_parquet(),
        CODE_NAMES: CodeNames.none().to_parquet(),
        "golden.json": goldens_to_json(
            [golden_of(engine, catalogue, each, 20) for each in histories(catalogue, 4, seed=1)]
        ),
        "report/index.md": b"# Made for a benchmark\n",
    }

    data = DataSummary(name="generated", fingerprint="0" * 64, counts={"items": len(catalogue)})
    return publish(store, files, Description(config=config, data=data))


def golden_of(engine: Engine, catalogue: Catalogue, item_ids: list[str], beam_width: int) -> Golden:
    """Return the golden of one history: what the engine answers if nothing is left out."""
    nothing = np.empty(0, dtype=np.int64)
    request = SearchRequest(catalogue.rows(item_ids), K, beam_width, catalogue.trie.everything, nothing, catalogue)
    [found] = engine.answer([request], catalogue)
    return Golden(
        history=tuple(item_ids),
        items=tuple(catalogue.item_ids[row] for row in found.rows.tolist()),
        score=tuple(found.score.tolist()),
        log_prob=tuple(found.log_prob.tolist()),
    )
