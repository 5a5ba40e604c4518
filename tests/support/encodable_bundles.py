"""Bundles that can encode new items: real tokenizer and content graphs, exported from small untrained networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save

from model_store.bundle.bundle import Bundle
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.config import ModelConfig, TokenizerConfig
from model_store.network.tokenizer import Tokenizer
from model_store.new_items.features import extract_features
from tests.support.bundles import NOON, bundle_files, description, small_catalogue
from training.content.content_model import ContentModel
from training.export.onnx_export import export_content, export_tokenizer

WIDTH = 6
SHAPE = TokenizerConfig(embedding_dim=WIDTH, hidden_dims=(8,), codebook_dim=4, levels=3, codebook_size=8)
KNOWN = ("t:title", "c:category-0", "c:category-1", "a:year=1995.0")


@cache
def networks() -> tuple[Tokenizer, ContentModel]:
    """Return the untrained networks of all these bundles."""
    torch.manual_seed(0)
    known = np.unique(
        np.concatenate([extract_features("Title", (f"category-{n}",), {"year": 1995}).ids for n in (0, 1)])
    )
    effects = torch.randn(len(known), WIDTH)
    mean = torch.randn(WIDTH)
    return Tokenizer(SHAPE).eval(), ContentModel(known, effects, mean, torch.tensor(2.0))


@cache
def graphs() -> tuple[bytes, bytes]:
    """Return the exported tokenizer and content model."""
    tokenizer, content = networks()
    return export_tokenizer(tokenizer), export_content(content)


def encodable_bundle(
    folder: Path,
    has_content: bool = True,
    source: Literal["sasrec", "user"] = "sasrec",
    changed: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Publish a bundle of :func:`small_catalogue` whose items have vectors.

    Args:
        folder: Folder of the model store.
        has_content: True if the bundle can predict embeddings from content.
        source: Origin of the embeddings.
        changed: Other bytes for some files, by name.
    """
    catalogue = small_catalogue()
    vectors = np.random.default_rng(1).normal(size=(len(catalogue), WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    files = bundle_files(0, replace(catalogue, vectors=vectors))
    tokenizer, content = graphs()
    weights = {f"tokenizer.{name}": value.contiguous() for name, value in networks()[0].state_dict().items()}
    files |= {"tokenizer.onnx": tokenizer, "weights.safetensors": save(weights)}
    files |= {"content.onnx": content} if has_content else {}
    files |= changed or {}

    about = description().model_copy(update={"config": ModelConfig(tokenizer=SHAPE), "embedding_source": source})
    store = ModelStore(folder)
    version = publish(store, files, about, NOON)
    store.promote(version)
    return store.bundle(version)
