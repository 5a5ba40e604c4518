"""A model store with one large, untrained version that can place new items.

Its networks have the paper's shape, its items are generated and have vectors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import save

from benchmarks.large_catalogue import large_catalogue
from model_store.bundle.golden import Golden, goldens_to_json
from model_store.bundle.manifest import DataSummary, Description
from model_store.bundle.parts import CODE_NAMES
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.bundle.vector_file import EMBEDDINGS, VECTORS
from model_store.catalogue.code_names import CodeNames
from model_store.network.recommender import Recommender
from model_store.network.tokenizer import Tokenizer
from model_store.new_items.features import extract_features
from model_store.new_items.item_encoder import CONTENT_GRAPH, SIMILAR_ITEMS
from model_store.new_items.similar_items import SimilarItems
from service.engines.onnx_engine import GRAPH, OnnxEngine
from training.config import load_config
from training.content.content_model import ContentModel
from training.export.onnx_export import export_content, export_search, export_tokenizer

Ids = npt.NDArray[np.int64]

FEATURES_OF_AN_ITEM = 8
"""Features of an item by which new ones find it, at most."""

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
    known = _known_features()
    vectors = torch.nn.functional.normalize(torch.randn(items, width), dim=1)
    golden = Golden(
        history=tuple(catalogue.item_ids[:3]), items=(catalogue.item_ids[3],), score=(-1.0,), log_prob=(-1.0,)
    )

    weights = {f"tokenizer.{name}": value.contiguous() for name, value in tokenizer.state_dict().items()}
    files = {
        "weights.safetensors": save(weights),
        GRAPH: export_search(Recommender(config).eval()),
        "tokenizer.onnx": export_tokenizer(tokenizer),
        CONTENT_GRAPH: export_content(_content(known, width)),
        SIMILAR_ITEMS: _similar_items(known, items, width),
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


def _content(known: Ids, width: int) -> ContentModel:
    return ContentModel(known, torch.randn(len(known), width), torch.randn(width), torch.tensor(1.0))


def _similar_items(known: Ids, items: int, width: int) -> bytes:
    """Return an index in which every item has some of the features that new items have, drawn by chance."""
    random = np.random.default_rng(0)
    has = random.integers(0, len(known), (items, FEATURES_OF_AN_ITEM))
    slot, row = np.divmod(np.unique(has * items + np.arange(items)[:, None]), items)
    index = SimilarItems(
        known=known,
        rarity=np.ones(len(known), dtype=np.float32),
        start=np.searchsorted(slot, np.arange(len(known) + 1)),
        item=row.astype(np.int32),
        weight=np.full(len(row), FEATURES_OF_AN_ITEM**-0.5, dtype=np.float16),
        directions=random.integers(1, 128, (items, width), dtype=np.int8),
        learned_length=1.0,
        content_length=0.0,
    )
    packed: bytes = save_arrays(index.arrays())
    return packed


def _known_features() -> Ids:
    """Return the features of some new items, ascending."""
    items = [new_item(number) for number in range(2000)]
    ids = [extract_features(item["title"], item["categories"], item["attributes"]).ids for item in items]
    return np.unique(np.concatenate(ids))
