"""Small valid bundles from random catalogues, made without torch."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import onnx
import pyarrow as pa
import safetensors.numpy

from model_store.bundle.golden import Golden, goldens_to_json
from model_store.bundle.histories import histories_to_parquet
from model_store.bundle.manifest import DataSummary, Description
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.bundle.vector_file import VECTORS
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.code_names import CodeNames
from model_store.config import ModelConfig, TokenizerConfig

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def small_config(codebook_size: int = 8, levels: int = 3) -> ModelConfig:
    """Return a configuration whose catalogue has room for ``codebook_size ** levels`` items."""
    return ModelConfig(tokenizer=TokenizerConfig(codebook_size=codebook_size, levels=levels))


def small_catalogue(seed: int = 0, items: int = 40, codebook_size: int = 8, levels: int = 3) -> Catalogue:
    """Return a catalogue with random, distinct codes and columns that follow from the row."""
    random = np.random.default_rng(seed)
    flat = random.choice(codebook_size**levels, size=items, replace=False)
    codes = np.stack(np.unravel_index(flat, (codebook_size,) * levels), axis=1).astype(np.int16)

    return Catalogue(
        codebook_size=codebook_size,
        item_ids=[f"item-{row}" for row in range(items)],
        codes=codes,
        titles=[f"Title {row}" for row in range(items)],
        categories=[(f"category-{row % 3}",) for row in range(items)],
        attributes=[{"year": 1990 + row % 10} for row in range(items)],
        popularity=random.integers(0, 100, size=items),
    )


def small_goldens(catalogue: Catalogue, seed: int = 0, count: int = 3, k: int = 5) -> list[Golden]:
    """Return goldens with random histories, items and scores."""
    random = np.random.default_rng(seed)
    ids = np.array(catalogue.item_ids)
    found = []
    for _ in range(count):
        history = random.choice(ids, size=4)
        items = random.choice(ids, size=k, replace=False)
        score = tuple(np.sort(-random.exponential(4.0, size=k))[::-1].tolist())
        found.append(Golden(history=tuple(history.tolist()), items=tuple(items.tolist()), score=score, log_prob=score))
    return found


def bundle_files(seed: int = 0, catalogue: Catalogue | None = None) -> dict[str, bytes]:
    """Return valid content for every required file and a report; graphs are empty and run nowhere."""
    random = np.random.default_rng(seed)
    catalogue = small_catalogue(seed) if catalogue is None else catalogue
    weights = {"recommender.embedding": random.normal(size=(8, 4)).astype(np.float32)}
    embeddings = {"embeddings": random.normal(size=(len(catalogue), 4)).astype(np.float32)}
    if catalogue.vectors is not None:
        embeddings[VECTORS] = catalogue.vectors

    return {
        "weights.safetensors": safetensors.numpy.save(weights),
        "search.onnx": empty_graph(random.bytes(98).hex()[:195]),
        "tokenizer.onnx": empty_graph(random.bytes(48).hex()),
        "embeddings.safetensors": safetensors.numpy.save(embeddings),
        "catalogue.parquet": catalogue.to_parquet(),
        "code_names.parquet": small_names(catalogue).to_parquet(),
        "golden.json": goldens_to_json(small_goldens(catalogue, seed)),
        "report/index.md": f"# Model {seed}\n".encode(),
    }


def small_names(catalogue: Catalogue) -> CodeNames:
    """Return a name for every first code but the lowest: that of an item below it, ``Like Title 7`` and so on."""
    codes, rows = np.unique(catalogue.codes[:, 0], return_index=True)
    return CodeNames.of(codes[1:, None], [f"Like {catalogue.titles[row]}" for row in rows[1:]])


def empty_graph(comment: str) -> bytes:
    """Return an ONNX model without any node, which ONNX Runtime refuses to open; the comment makes it unlike others."""
    return bytes(onnx.ModelProto(graph=onnx.GraphProto(), producer_name=comment).SerializeToString())


def description(parent: str | None = None) -> Description:
    """Return what the manifest of a small bundle says."""
    return Description(
        config=small_config(),
        data=DataSummary(name="random", fingerprint="f" * 64, counts={"users": 3, "items": 40}),
        metrics={"generative": {"ndcg@10": 0.25, "recall@10": 0.5}},
        tokenizer={"collisions": 0, "codes_in_use": [8, 8, 8]},
        parent=parent,
    )


def publish_small(store: ModelStore, seed: int = 0, parent: str | None = None) -> str:
    """Publish the bundle of a seed; versions of ascending seeds ascend."""
    return publish(store, bundle_files(seed), description(parent), NOON.replace(minute=seed))


def small_histories(histories: dict[str, list[tuple[str, int, int]]]) -> bytes:
    """Return ``histories.parquet`` of users' interactions: item id, Unix time, place of the type or -1."""
    rows = [row for interactions in histories.values() for row in interactions]
    return histories_to_parquet(
        pa.array(list(histories), pa.string()),
        np.cumsum([0, *map(len, histories.values())]).astype(np.int64),
        pa.array([item_id for item_id, _, _ in rows], pa.string()),
        np.array([timestamp for _, timestamp, _ in rows], dtype=np.int64),
        np.array([kind for _, _, kind in rows], dtype=np.int8),
    )
