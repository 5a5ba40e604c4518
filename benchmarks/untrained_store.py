"""A model store with one large, untrained version that can place new items.

Its networks have the paper's shape, its items are generated and have vectors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from benchmarks.large_catalogue import large_catalogue
from model_store.bundle.bundle import CODE_NAMES, EMBEDDINGS, VECTORS
from model_store.bundle.golden import Golden, goldens_to_json
from model_store.bundle.manifest import DataSummary, Description
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.catalogue.code_names import CodeNames
from model_store.network.recommender import Recommender
from model_store.network.tokenizer import Tokenizer
from model_store.new_items.features import extract_features
from service.engines.onnx_engine import GRAPH, OnnxEngine
from training.config import load_config
from training.content.content_model import ContentModel
from training.export.onnx_export import export_content, export_search, export_tokenizer

MODEL = [
    'model.collisions="reassign"',
    'model.recommender.history_tokens="code"',
    "sasrec.embedding_dim=64",
    "model.tokenizer.embedding_dim=64",
]


class UntrainedEngine(OnnxEngine):
    """The real search. Goldens are not replayed: an untrained network has no right answers."""

    checks_goldens = False


def publish_large(folder: Path, items: int, overrides: list[str]) -> ModelStore:
    """Publish and promote a version with ``items`` items; overrides are those of the paper preset."""
    config = load_config("paper", [*MODEL, *overrides]).model
    torch.manual_seed(0)
    tokenizer = Tokenizer(config.tokenizer).eval()
    width = config.tokenizer.embedding_dim

    catalogue = large_catalogue(items)
    vectors = torch.nn.functional.normalize(torch.randn(items, width), dim=1)
    golden = Golden(
        history=tuple(catalogue.item_ids[:3]), items=(catalogue.item_ids[3],), score=(-1.0,), log_prob=(-1.0,)
    )

    weights = {f"tokenizer.{name}": value.contiguous() for name, value in tokenizer.state_dict().items()}
    files = {
        "weights.safetensors": save(weights),
        GRAPH: export_search(Recommender(config).eval()),
        "tokenizer.onnx": export_tokenizer(tokenizer),
        "content.onnx": export_content(_content(width)),
        EMBEDDINGS: save({"embeddings": vectors[:1].clone(), VECTORS: vectors}),
        "catalogue.parquet": catalogue.to_parquet(),
        CODE_NAMES: CodeNames.none().to_parquet(),
        "golden.json": goldens_to_json([golden]),
        "report/index.md": b"# Made for a benchmark\n",
    }

    store = ModelStore(str(folder))
    data = DataSummary(name="generated", fingerprint="0" * 64, counts={"items": items})
    store.promote(publish(store, files, Description(config=config, data=data)))
    return store


def new_item(number: int) -> dict[str, Any]:
    """Return what a shop sends for a new item."""
    return {
        "title": f"Title {number} word{number % 997} word{number % 101}",
        "categories": [f"category {number % 300}"],
        "attributes": {"year": 1950 + number % 76, "price": number % 5000 / 100},
    }


def _content(width: int) -> ContentModel:
    items = [new_item(number) for number in range(2000)]
    ids = [extract_features(item["title"], item["categories"], item["attributes"]).ids for item in items]
    known = np.unique(np.concatenate(ids))
    return ContentModel(known, torch.randn(len(known), width), torch.randn(width), torch.tensor(1.0))
