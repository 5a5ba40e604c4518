"""A model store with two small versions whose answers differ: real graphs, untrained, with content models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from benchmarks.served_store import answer_alone, golden_of
from model_store.bundle.golden import goldens_to_json
from model_store.bundle.key_files import create_keys
from model_store.bundle.manifest import DataSummary, Description
from model_store.bundle.parts import CODE_NAMES
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SigningKey, Trust
from model_store.bundle.vector_file import EMBEDDINGS, VECTORS
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.code_names import CodeNames
from model_store.config import ModelConfig
from model_store.network.recommender import Recommender
from model_store.network.tokenizer import Tokenizer
from model_store.new_items.features import extract_features
from service.engines.base import SearchResult
from service.engines.onnx_engine import GRAPH, OnnxEngine
from training.config import load_config
from training.content.content_model import ContentModel
from training.export.onnx_export import export_content, export_search, export_tokenizer

ITEMS = 500
WIDTH = 16
SHAPE = [
    'model.collisions="reassign"',
    'model.recommender.history_tokens="code"',
    f"sasrec.embedding_dim={WIDTH}",
    f"model.tokenizer.embedding_dim={WIDTH}",
    "model.tokenizer.hidden_dims=[32]",
    "model.tokenizer.codebook_dim=8",
    "model.tokenizer.codebook_size=16",
    "model.recommender.d_model=32",
    "model.recommender.d_ff=64",
    "model.recommender.heads=2",
    "model.recommender.head_dim=16",
    "model.recommender.encoder_layers=1",
    "model.recommender.decoder_layers=1",
]


@dataclass(frozen=True)
class AttackedModels:
    """The model store, whose versions are signed (the first one is live), and what each answers to some histories."""

    store: ModelStore
    trusted_keys: Path
    versions: tuple[str, ...]
    histories: list[list[str]]
    answers: dict[str, list[list[str]]]  # item ids by version, for each history

    @property
    def folder(self) -> Path:
        """Folder of the model store."""
        return Path(self.store.url)


def attacked_models(folder: Path, users: int = 16) -> AttackedModels:
    """Open keys and model store in a folder; build them first, which takes a minute or two, if it holds none."""
    private = folder / "signing.pem"
    if not private.exists():
        folder.mkdir(parents=True, exist_ok=True)
        create_keys(private)
    trusted = private.with_suffix(".pem.pub")
    store = ModelStore(str(folder / "models"), trust=Trust.at(str(trusted)))
    if store.live() is None:
        _build(store, SigningKey.load(private))
    versions = tuple(store.versions())
    histories = _histories(store.bundle(versions[0]).catalogue(), users, seed=3)
    answers = {version: _answers(store, version, histories) for version in versions}
    return AttackedModels(store, trusted, versions, histories, answers)


def new_item(number: int) -> dict[str, Any]:
    """Return what a shop sends for a new item."""
    return {
        "title": f"Title {number} word{number % 97}",
        "categories": [f"category-{number % 9}"],
        "attributes": {"year": 1990 + number % 30},
    }


def _build(store: ModelStore, key: SigningKey) -> None:
    torch.set_num_threads(1)
    config = load_config("paper", SHAPE).model
    torch.manual_seed(0)
    recommender = Recommender(config).eval()
    tokenizer = Tokenizer(config.tokenizer).eval()
    shared = {
        "weights.safetensors": save(
            {f"tokenizer.{name}": value.contiguous() for name, value in tokenizer.state_dict().items()}
        ),
        GRAPH: export_search(recommender),
        "tokenizer.onnx": export_tokenizer(tokenizer),
        "content.onnx": export_content(_content()),
        "report/index.md": b"# Made to be attacked\n",
    }

    for number in range(2):
        catalogue = _catalogue(config, number)
        assert catalogue.vectors is not None
        engine = OnnxEngine(shared[GRAPH], config, threads=1)
        files = shared | {
            EMBEDDINGS: save({VECTORS: torch.from_numpy(catalogue.vectors)}),
            "catalogue.parquet": catalogue.to_parquet(),
            CODE_NAMES: CodeNames.none().to_parquet(),
            "golden.json": goldens_to_json(
                [golden_of(engine, catalogue, each, config.beam_width) for each in _histories(catalogue, 4, seed=1)]
            ),
        }
        engine.close()
        data = DataSummary(name="generated", fingerprint="0" * 64, counts={"items": len(catalogue)})
        created = datetime(2026, 1, 1, 0, number, tzinfo=UTC)
        publish(store, files, Description(config=config, data=data), created, key)
    store.promote(store.versions()[0])


def _catalogue(config: ModelConfig, number: int) -> Catalogue:
    """Return the items with codes and vectors that no other version gives them."""
    random = np.random.default_rng(number)
    shape = (config.tokenizer.codebook_size,) * config.code_length
    flat = random.choice(int(np.prod(shape)), ITEMS, replace=False)
    vectors = random.normal(size=(ITEMS, WIDTH)).astype(np.float32)
    items = [new_item(row) for row in range(ITEMS)]
    return Catalogue(
        codebook_size=config.tokenizer.codebook_size,
        item_ids=[f"item-{row}" for row in range(ITEMS)],
        codes=np.stack(np.unravel_index(flat, shape), axis=1).astype(np.int16),
        titles=[str(item["title"]) for item in items],
        categories=[tuple(item["categories"]) for item in items],
        attributes=[item["attributes"] for item in items],
        popularity=random.integers(1, 100, size=ITEMS),
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
    )


def _content() -> ContentModel:
    items = [new_item(row) for row in range(ITEMS)]
    ids = [extract_features(item["title"], item["categories"], item["attributes"]).ids for item in items]
    known = np.unique(np.concatenate(ids))
    torch.manual_seed(1)
    return ContentModel(known, torch.randn(len(known), WIDTH), torch.randn(WIDTH), torch.tensor(1.0))


def _histories(catalogue: Catalogue, count: int, seed: int) -> list[list[str]]:
    rows = np.random.default_rng(seed).integers(0, len(catalogue), (count, 6)).tolist()
    return [[catalogue.item_ids[row] for row in each] for each in rows]


def _answers(store: ModelStore, version: str, histories: Sequence[list[str]]) -> list[list[str]]:
    bundle = store.bundle(version)
    catalogue = bundle.catalogue()
    engine = OnnxEngine(bundle.read(GRAPH), bundle.config, threads=1)
    try:
        found = [answer_alone(engine, catalogue, each, bundle.config.beam_width) for each in histories]
    finally:
        engine.close()
    return [_ids(each, catalogue) for each in found]


def _ids(found: SearchResult, catalogue: Catalogue) -> list[str]:
    return [catalogue.item_ids[row] for row in found.rows.tolist()]
