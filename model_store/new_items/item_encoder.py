"""From what a shop says of an item to what the catalogue needs of it: a vector and a place among the semantic IDs.

The bundle's graphs do it, on ONNX Runtime and without torch: ``content.onnx`` predicts an embedding from title,
categories and attributes, ``tokenizer.onnx`` turns that into a latent, which
:class:`~model_store.new_items.placement.Placement` finds a code tuple for. What comes of an item never depends on which
others it was encoded with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from model_store.bundle.bundle import Bundle
from model_store.bundle.onnx_session import open_session
from model_store.catalogue.catalogue import Catalogue
from model_store.config import ModelConfig
from model_store.errors import BundleRefused, ItemRefused
from model_store.new_items.features import (
    CONTENT,
    CONTENT_INPUTS,
    CONTENT_OUTPUTS,
    TOKENIZER,
    TOKENIZER_OUTPUTS,
    content_features,
)
from model_store.new_items.placement import Codebooks, Placement
from model_store.replication.item_payload import NewItem

CODEBOOKS = "tokenizer.codebooks"
"""Tensor of ``weights.safetensors``, ``[levels, K, d_c]``."""

LARGEST, SHORTEST = 1e9, 1e-6
"""Number of a given embedding at most, and its length at least."""

_TOGETHER = 8
"""Rows that the tokenizer is given at once, always, zeros where items are fewer: a product of matrices may round
otherwise at other sizes. So many read its weights once; an item costs half as much as alone."""

_BLOCK = 256
"""Items that go from step to step together: each graph's weights stay in the processor's cache meanwhile."""

Float32Array = npt.NDArray[np.float32]


class Encoded(NamedTuple):
    """What a model makes of one item."""

    vector: Float32Array  # [d_s], unit length, for the catalogue's vectors
    latent: Float32Array  # [d_c], for placement


class ItemEncoder:
    """Encodes items of one model version. Thread-safe."""

    def __init__(
        self,
        config: ModelConfig,
        codebooks: Float32Array,
        tokenizer: ort.InferenceSession,
        content: ort.InferenceSession | None,
        takes_embeddings: bool,
    ) -> None:
        """Take the parts of a bundle; :meth:`open` finds them.

        Args:
            config: The model.
            codebooks: The tokenizer's, ``[levels, K, d_c]``.
            tokenizer: Runs ``tokenizer.onnx``.
            content: Runs ``content.onnx``, if the version has one.
            takes_embeddings: Whether whoever adds an item gives its embedding.
        """
        self._config, self._codebooks = config, Codebooks.of(codebooks)
        self._tokenizer, self._content = tokenizer, content
        self.takes_embeddings = takes_embeddings

    @classmethod
    def open(cls, bundle: Bundle) -> Self:
        """Open the graphs of a version, verified; takes tens of milliseconds.

        Raises:
            BundleRefused: A file is damaged, or the graphs are not those of a release that can add items.
        """
        tokenizer = open_session(TOKENIZER, bundle.read(TOKENIZER), ("embeddings",), TOKENIZER_OUTPUTS, threads=1)
        content = None
        if CONTENT in bundle:
            content = open_session(CONTENT, bundle.read(CONTENT), CONTENT_INPUTS, CONTENT_OUTPUTS, threads=1)
        codebooks, shape = bundle.weights().get(CODEBOOKS), bundle.config.tokenizer
        expected = (shape.levels, shape.codebook_size, shape.codebook_dim)
        if codebooks is None or codebooks.shape != expected:
            raise BundleRefused(f"weights.safetensors: {CODEBOOKS} must have the shape {expected}", "export it again")
        takes_embeddings = bundle.manifest.embedding_source == "user"
        return cls(bundle.config, codebooks.astype(np.float32), tokenizer, content, takes_embeddings)

    def encode(
        self,
        title: str,
        categories: Sequence[str],
        attributes: Mapping[str, Any] | str,
        embedding: Sequence[float] | None = None,
    ) -> Encoded:
        """Encode one item.

        Args:
            title: "" if unknown.
            categories: Names.
            attributes: Text, or values by key.
            embedding: Raw, ``[d_s]``, where the model was trained on embeddings of the user's.

        Raises:
            ItemRefused: The model takes no embeddings, or one of another width, or knows items by their ids alone.
        """
        [found] = self.encode_all([NewItem(title, categories, attributes, embedding)])
        if isinstance(found, ItemRefused):
            raise found
        return found

    def encode_all(self, items: Sequence[NewItem]) -> list[Encoded | ItemRefused]:
        """Encode many items, each as :meth:`encode` does; what that would raise stands in the place of an item."""
        found: list[Encoded | ItemRefused] = []
        for start in range(0, len(items), _BLOCK):
            raw = [self._raw(item) for item in items[start : start + _BLOCK]]
            encoded = iter(self._encoded([each for each in raw if not isinstance(each, ItemRefused)]))
            found += [each if isinstance(each, ItemRefused) else next(encoded) for each in raw]
        return found

    def placement(self, catalogue: Catalogue) -> Placement:
        """What gives encoded items their codes in this catalogue, one after another; cheap, for a batch of changes."""
        return Placement(catalogue, self._codebooks, self._config.collisions)

    def _raw(self, item: NewItem) -> Float32Array | ItemRefused:
        try:
            if item.embedding is not None:
                return self._given(item.embedding)
            if self._content is None:
                raise self._nothing_to_go_by()
        except ItemRefused as refused:
            return refused
        ids, weights = content_features(item.title, item.categories, item.attributes)
        inputs = dict(zip(CONTENT_INPUTS, (ids[None], weights[None]), strict=True))
        raw: Float32Array = self._content.run(list(CONTENT_OUTPUTS), inputs)[0][0]
        return raw

    def _encoded(self, raw: Sequence[Float32Array]) -> list[Encoded]:
        """From raw embeddings, ``[d_s]`` each."""
        rows = np.zeros((-(-len(raw) // _TOGETHER) * _TOGETHER, self._config.tokenizer.embedding_dim), np.float32)
        found: list[Encoded] = []
        for start in range(0, len(raw), _TOGETHER):
            part = rows[start : start + _TOGETHER]
            for row, each in zip(part, raw[start:], strict=False):
                row[:] = each
            [latents] = self._tokenizer.run(["latents"], {"embeddings": part})
            lengths = np.sqrt(np.square(part).sum(axis=1))
            given = range(min(_TOGETHER, len(raw) - start))
            found += [Encoded(part[row] / lengths[row], latents[row]) for row in given]
        return found

    def _given(self, embedding: Sequence[float]) -> Float32Array:
        width = self._config.tokenizer.embedding_dim
        if not self.takes_embeddings:
            raise ItemRefused(
                "embedding", "this model makes its own embeddings", "leave it out: title, categories and attributes do"
            )
        if len(embedding) != width:
            raise ItemRefused("embedding", f"holds {len(embedding)} numbers, this model takes {width}")
        exact = np.asarray(embedding, dtype=np.float64)
        if not (np.abs(exact) <= LARGEST).all() or np.linalg.norm(exact) < SHORTEST:  # NaN is refused, too
            raise ItemRefused("embedding", f"must be numbers of at most {LARGEST:g} and not all 0")
        return exact.astype(np.float32)

    def _nothing_to_go_by(self) -> ItemRefused:
        if self.takes_embeddings:
            return ItemRefused("embedding", "is missing: this model was trained on embeddings that its user supplies")
        return ItemRefused(
            "item_id",
            "is not known to this model, which was trained on bare ids and cannot place new items",
            "train on data with titles, categories or attributes (--items)",
        )
