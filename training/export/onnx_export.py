"""Networks to ONNX: the whole search as one graph, and the tokenizer. Weights travel inside the graph."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import Dim

from model_store.network.recommender import Recommender
from model_store.network.search import BeamSearch
from model_store.network.tokenizer import Tokenizer
from model_store.new_items.item_encoder import CONTENT_INPUTS, CONTENT_OUTPUTS, TOKENIZER_OUTPUTS
from model_store.search.history_encoding import encode_histories
from model_store.search.interface import SearchInputs, SearchOutputs, catalogue_inputs, graph_input_names, search_inputs
from model_store.semantic_ids.trie import Trie
from training.content.content_model import ContentModel
from training.export.onnx_network import TRANSLATIONS, for_graph

OPSET = 23

DYNAMIC_AXES: Mapping[str, tuple[int, ...]] = {
    "history": (0, 1),
    "lengths": (0,),
    "rule_bits": (0, 1),
    "rule_of": (0,),
    "excluded": (0, 1),
    "max_per_prefix": (0,),
    "beam": (0,),
    "candidates": (0,),
}
"""Axes of the graph's inputs that may change from call to call; those of the catalogue may change their first axis."""


def export_search(recommender: Recommender, has_dense: bool = True) -> bytes:
    """The search graph of :mod:`model_store.search.interface`, catalogue and rules left as inputs.

    Args:
        recommender: Stays as it is.
        has_dense: Whether answers need dense scores; a graph without them is faster, and n must be 0 for it.
    """
    levels, codebook_size = recommender.levels, recommender.code_embedding.shape[1]
    inputs, trie = _example(levels, codebook_size)
    vectors = np.ones((trie.items + 1, recommender.embedding_dim), dtype=np.float32)  # or one that stands for all
    catalogue = catalogue_inputs(trie, vectors, recommender.embedding_dim)
    pool = vectors[: trie.items // 2]  # in service all rows or none: its size is no other input's
    dynamic = (*(dict.fromkeys(DYNAMIC_AXES[name], Dim.DYNAMIC) for name in SearchInputs._fields),)
    return _export(
        for_graph(BeamSearch(copy.deepcopy(recommender).cpu().eval(), has_dense)),
        tuple(torch.from_numpy(array) for array in (*inputs, *catalogue, pool)),
        graph_input_names(levels),
        list(SearchOutputs._fields),
        (*dynamic, tuple({0: Dim.DYNAMIC} for _ in (*catalogue, pool))),
        TRANSLATIONS,
    )


def export_tokenizer(tokenizer: Tokenizer) -> bytes:
    """``embeddings [N, d_s]`` (raw) to ``codes [N, L, K]`` by ascending ``distances [N, L, K]``; ``latents [N, d_c]``.

    Codes and distances are those of the greedy path; latents are what :mod:`model_store.new_items.placement` needs.
    """
    example = torch.zeros(2, len(tokenizer.mean))
    return _export(tokenizer, (example,), ["embeddings"], list(TOKENIZER_OUTPUTS), ({0: Dim.DYNAMIC},))


def export_content(model: ContentModel) -> bytes:
    """Export the content model: ``features`` and ``weights`` ``[N, F]`` in, raw ``embeddings [N, d_s]`` out."""
    example = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3)
    both = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    return _export(model, example, list(CONTENT_INPUTS), list(CONTENT_OUTPUTS), (both, both))


def _example(levels: int, codebook_size: int) -> tuple[SearchInputs, Trie]:
    """A small batch in which no two sizes agree, so that the exporter ties none of them together."""
    rows = np.arange(min(codebook_size**levels, 4 * codebook_size + 3))
    codes = np.stack([rows // codebook_size ** (levels - 1 - level) % codebook_size for level in range(levels)], axis=1)
    trie = Trie.build(codes, codebook_size)
    history = encode_histories([rows[:5], rows[:2], rows[:4]], trie.item_leaf, max_history=5)
    return search_inputs(history, trie, 7, [trie.everything] * 2, [0, 1, 0], candidates=6), trie


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter deprecates parts of itself and mentions optional packages that we do not use: not for our users."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _export(
    module: nn.Module,
    example: tuple[torch.Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: tuple[object, ...],
    translations: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
) -> bytes:
    with torch.no_grad(), _quiet_exporter():
        program = torch.onnx.export(
            copy.deepcopy(module).cpu().eval(),  # the graph does not depend on where its weights were trained
            example,
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            custom_translation_table=dict(translations or {}),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the ONNX exporter returned nothing")
    return program.model_proto.SerializeToString()
