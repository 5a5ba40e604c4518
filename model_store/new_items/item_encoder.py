"""The encoder of new items: from a shop's description of an item to its vector and its place among semantic IDs.

It runs the bundle's graphs on ONNX Runtime, without torch: ``content.onnx`` predicts an embedding from title,
categories and attributes, and ``tokenizer.onnx`` turns the embedding into a latent, for which
:class:`~model_store.new_items.placement.Placement` finds a code tuple. The result for an item never depends on the
items that are encoded together with it.

The prediction is a regression, which blurs what only few items have in common. So the learned part of an embedding is
mostly that of the trained items with the most similar words (:mod:`model_store.new_items.similar_items`):

    learned = mean of similar items at unit length + PREDICTED * prediction at unit length

It gets the length that trained items have. Predictions are shorter, the shorter the less certain they are, and an item
with such a vector would hardly be recommended to anyone.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from model_store.bundle.bundle import Bundle
from model_store.bundle.onnx_session import open_session
from model_store.bundle.parts import Read, read_tensors
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.resemblances import Records, nothing_known
from model_store.config import ModelConfig
from model_store.errors import BundleRefused, GraphRefused, ItemRefused
from model_store.new_items.features import extract_features
from model_store.new_items.placement import Codebooks, Placement
from model_store.new_items.similar_items import Similar, SimilarItems, at_unit_length
from model_store.replication.item_payload import NewItem

CONTENT_GRAPH = "content.onnx"
"""File of a bundle with the graph that maps features to an embedding."""

CONTENT_INPUTS = ("features", "weights")
CONTENT_OUTPUTS = ("embeddings",)

TOKENIZER_GRAPH = "tokenizer.onnx"
"""File of a bundle with the graph that maps ``embeddings`` to codes."""

TOKENIZER_INPUTS = ("embeddings",)
TOKENIZER_OUTPUTS = ("codes", "distances", "latents")

SIMILAR_ITEMS = "similar_items.safetensors"
"""File of a bundle with the index of trained items by what they say."""

PREDICTED = 0.5
"""Weight of the content model's prediction beside what similar items were learned to be."""

CODEBOOKS = "tokenizer.codebooks"
"""Tensor of ``weights.safetensors``, ``[levels, K, d_c]``."""

MAX_EMBEDDING_VALUE = 1e9
"""Largest absolute value in an embedding that a client gives."""

MIN_EMBEDDING_LENGTH = 1e-6
"""Smallest length of an embedding that a client gives."""

_TOKENIZER_BATCH = 8
"""Rows of every tokenizer run, padded with zeros. The size is fixed because a matrix product may round differently at
another size. Eight rows read the weights once, so an item costs half as much as alone."""

_BLOCK = 256
"""Items that pass both graphs together, so that each graph's weights stay in the processor's cache."""

Float32Array = npt.NDArray[np.float32]


class EncodedItem(NamedTuple):
    """The output of a model for one item."""

    vector: Float32Array  # [d_s], unit length, for the catalogue's vectors
    latent: Float32Array  # [d_c], for placement
    resemblance: Records  # [1], what the catalogue keeps of it beside these


class _Embedded(NamedTuple):
    """Output of the first graph for an item, and the item's resemblance."""

    raw: Float32Array  # [d_s]
    resemblance: Records  # [1]


class ItemEncoder:
    """The item encoder of one model version. Thread-safe."""

    def __init__(
        self,
        config: ModelConfig,
        codebooks: Float32Array,
        tokenizer: ort.InferenceSession,
        content: ort.InferenceSession | None,
        takes_embeddings: bool,
        similar_items: SimilarItems | None = None,
    ) -> None:
        """Take the parts of a bundle; :meth:`open` finds them.

        Args:
            config: The model.
            codebooks: The tokenizer's, ``[levels, K, d_c]``.
            tokenizer: Runs ``tokenizer.onnx``.
            content: Runs ``content.onnx``, if the version has one.
            takes_embeddings: Whether clients give an embedding with every new item.
            similar_items: The trained items by what they say, if the version has an index of them.
        """
        self._config = config
        self._codebooks = Codebooks.of(codebooks)
        self._tokenizer = tokenizer
        self._content = content
        self._similar_items = similar_items
        self.takes_embeddings = takes_embeddings

    @classmethod
    def open(cls, bundle: Bundle) -> Self:
        """Open the verified graphs of a version; takes tens of milliseconds.

        Raises:
            BundleRefused: A file is damaged.
            GraphRefused: The graphs cannot run here, or are not those of a release that can add items.
        """
        takes_embeddings = bundle.manifest.embedding_source == "user"
        return cls.of_files(bundle.read, bundle.manifest.files, bundle.config, takes_embeddings)

    @classmethod
    def of_files(cls, read: Read, names: Container[str], config: ModelConfig, takes_embeddings: bool) -> Self:
        """Open the graphs of files that may not be a bundle yet.

        Args:
            read: Returns the bytes of a file by name.
            names: All files.
            config: The model that they belong to.
            takes_embeddings: Whether clients give an embedding with every new item.

        Raises:
            BundleRefused, GraphRefused: See :meth:`open`.
        """
        graph = read(TOKENIZER_GRAPH)
        tokenizer = open_session(TOKENIZER_GRAPH, graph, TOKENIZER_INPUTS, TOKENIZER_OUTPUTS, threads=1)

        content = None
        if CONTENT_GRAPH in names:
            graph = read(CONTENT_GRAPH)
            content = open_session(CONTENT_GRAPH, graph, CONTENT_INPUTS, CONTENT_OUTPUTS, threads=1)

        similar_items = None
        if SIMILAR_ITEMS in names:
            similar_items = SimilarItems.from_arrays(read_tensors(read, SIMILAR_ITEMS))
            _check_width(similar_items, config.tokenizer.embedding_dim)

        shape = config.tokenizer
        expected = (shape.levels, shape.codebook_size, shape.codebook_dim)
        codebooks = read_tensors(read, "weights.safetensors").get(CODEBOOKS)
        if codebooks is None or codebooks.shape != expected:
            raise GraphRefused(f"weights.safetensors: {CODEBOOKS} must have the shape {expected}", "export it again")
        return cls(config, codebooks.astype(np.float32), tokenizer, content, takes_embeddings, similar_items)

    def encode(
        self,
        title: str,
        categories: Sequence[str],
        attributes: Mapping[str, Any] | str,
        embedding: Sequence[float] | None = None,
    ) -> EncodedItem:
        """Encode one item.

        Args:
            title: "" if unknown.
            categories: Names.
            attributes: Text, or values by key.
            embedding: Raw, ``[d_s]``, if the model was trained on the user's own embeddings.

        Raises:
            ItemRefused: The model takes no embeddings, or one of another width, or knows items by their ids alone.
        """
        [found] = self.encode_all([NewItem(title, categories, attributes, embedding)])
        if isinstance(found, ItemRefused):
            raise found
        return found

    def encode_all(self, items: Sequence[NewItem]) -> list[EncodedItem | ItemRefused]:
        """Encode many items, each as :meth:`encode` does; an error takes the place of a refused item."""
        found: list[EncodedItem | ItemRefused] = []
        for start in range(0, len(items), _BLOCK):
            embedded = [self._embed(item) for item in items[start : start + _BLOCK]]
            encoded = iter(self._tokenize([each for each in embedded if not isinstance(each, ItemRefused)]))
            found += [each if isinstance(each, ItemRefused) else next(encoded) for each in embedded]
        return found

    def placement(self, catalogue: Catalogue) -> Placement:
        """Return a placement that gives encoded items their codes in this catalogue; cheap, for a batch of changes."""
        return Placement(catalogue, self._codebooks, self._config.collisions)

    def _embed(self, item: NewItem) -> _Embedded | ItemRefused:
        """Return the raw embedding of an item, given or predicted from its content, and what it resembles."""
        try:
            if item.embedding is not None:
                return _Embedded(self._check_embedding(item.embedding), nothing_known(1))
            if self._content is None:
                raise self._no_content_refusal()
        except ItemRefused as refused:
            return refused

        features = extract_features(item.title, item.categories, item.attributes)
        inputs = dict(zip(CONTENT_INPUTS, (features.ids[None], features.weights[None]), strict=True))
        raw: Float32Array = self._content.run(list(CONTENT_OUTPUTS), inputs)[0][0]
        if self._similar_items is None:
            return _Embedded(raw, nothing_known(1))
        similar = self._similar_items.find(features)
        resemblance = self._similar_items.resemblance(features, similar)
        return _Embedded(_learn_from(self._similar_items, similar, raw), resemblance)

    def _tokenize(self, embedded: Sequence[_Embedded]) -> list[EncodedItem]:
        """Encode raw embeddings in batches of a fixed size."""
        batches = -(-len(embedded) // _TOKENIZER_BATCH)
        rows = np.zeros((batches * _TOKENIZER_BATCH, self._config.tokenizer.embedding_dim), np.float32)

        found: list[EncodedItem] = []
        for start in range(0, len(embedded), _TOKENIZER_BATCH):
            part = rows[start : start + _TOKENIZER_BATCH]
            items = embedded[start : start + _TOKENIZER_BATCH]  # the other rows are padding
            for row, each in zip(part, items, strict=False):
                row[:] = each.raw
            [latents] = self._tokenizer.run(["latents"], {"embeddings": part})
            lengths = np.sqrt(np.square(part).sum(axis=1))
            found += [
                EncodedItem(part[row] / lengths[row], latents[row], each.resemblance) for row, each in enumerate(items)
            ]
        return found

    def _check_embedding(self, embedding: Sequence[float]) -> Float32Array:
        """Return a given embedding as an array, or raise :class:`ItemRefused`."""
        if not self.takes_embeddings:
            raise ItemRefused(
                "embedding",
                "this model makes its own embeddings",
                "leave it out; title, categories and attributes are enough",
            )
        width = self._config.tokenizer.embedding_dim
        if len(embedding) != width:
            raise ItemRefused("embedding", f"holds {len(embedding)} numbers, this model takes {width}")

        exact = np.asarray(embedding, dtype=np.float64)
        is_in_range = (np.abs(exact) <= MAX_EMBEDDING_VALUE).all()  # NaN is not
        if not is_in_range or np.linalg.norm(exact) < MIN_EMBEDDING_LENGTH:
            raise ItemRefused("embedding", f"must be numbers of at most {MAX_EMBEDDING_VALUE:g} and not all 0")
        return exact.astype(np.float32)

    def _no_content_refusal(self) -> ItemRefused:
        """Return the error for an item without embedding where the version has no content model."""
        if self.takes_embeddings:
            return ItemRefused("embedding", "is missing: this model was trained on embeddings that its user supplies")
        return ItemRefused(
            "item_id",
            "is not known to this model, which was trained on bare ids and cannot place new items",
            "train on data with titles, categories or attributes (--items)",
        )


def _learn_from(index: SimilarItems, similar: Similar, predicted: Float32Array) -> Float32Array:
    """Return a predicted embedding ``[d_s]`` with what similar items were learned to be; as it is if there are none."""
    if not len(similar.rows):
        return predicted

    learned, content = np.split(predicted.astype(np.float64), [index.width])
    direction = index.learned_direction(similar) + PREDICTED * at_unit_length(learned)
    parts = [index.learned_length * at_unit_length(direction), index.content_length * at_unit_length(content)]
    return np.concatenate(parts).astype(np.float32)


def _check_width(index: SimilarItems, width: int) -> None:
    if index.width > width:
        raise BundleRefused(
            f"{SIMILAR_ITEMS}: vectors have {index.width} numbers, the model's {width}", "export it again"
        )
