"""Deterministic item coder without weights: the same text has the same latent, everywhere and for ever."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.bundle.bundle import Bundle
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.resemblances import Records
from model_store.errors import ItemRefused
from model_store.new_items.placement import Codebooks, Placement
from model_store.replication.item_payload import NewItem
from service.replication.catalogue_source import ItemCoder
from service.settings import Settings
from tests.support.resemblances import random_records

WIDTH = 4

RESEMBLED_ITEMS = 3
"""New items resemble some of the first so many trained ones."""


class HashEncoded(NamedTuple):
    """Vector, latent and resemblance of an item."""

    vector: npt.NDArray[np.float32]
    latent: npt.NDArray[np.float32]
    resemblance: Records


class HashCoder:
    """Coder by hash. It refuses items with the title "refused" and embeddings that are not ``WIDTH`` long.

    Attributes:
        encoded: Number of items encoded so far.
    """

    def __init__(self, levels: int = 3, codebook_size: int = 8, seed: int = 0) -> None:
        codes = np.random.default_rng(seed).normal(size=(levels, codebook_size, WIDTH))
        self._codebooks = Codebooks.of(codes)
        self.encoded = 0

    def encode_all(self, items: Sequence[NewItem]) -> list[HashEncoded | ItemRefused]:
        return [self._encoded(item) for item in items]

    def _encoded(self, item: NewItem) -> HashEncoded | ItemRefused:
        if item.title == "refused":
            return ItemRefused("title", "is refused by this model")
        if item.embedding is not None and len(item.embedding) != WIDTH:
            return ItemRefused("embedding", f"holds {len(item.embedding)} numbers, this model takes {WIDTH}")
        self.encoded += 1
        text = json.dumps([item.title, list(item.categories), item.attributes, item.embedding], sort_keys=True)
        random = np.random.default_rng(int.from_bytes(sha256(text.encode()).digest()[:8], "little"))
        latent = random.normal(size=WIDTH).astype(np.float32)
        return HashEncoded(latent / np.linalg.norm(latent), latent, random_records(random, RESEMBLED_ITEMS, 1))

    def placement(self, catalogue: Catalogue) -> Placement:
        return Placement(catalogue, self._codebooks, "reassign")


def hash_coder(bundle: Bundle, _: Settings) -> ItemCoder:
    """Open the coder of a version; each version has its own codebooks."""
    shape = bundle.config.tokenizer
    return HashCoder(shape.levels, shape.codebook_size, seed=bundle.manifest.created_at.minute)
