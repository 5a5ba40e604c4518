"""Export to ONNX: the whole search as one graph, the tokenizer and the content model."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass
from onnxscript import optimizer
from torch import nn
from torch.export import Dim

from model_store.network.recommender import Recommender
from model_store.network.search import BeamSearch
from model_store.network.tokenizer import Tokenizer
from model_store.new_items.item_encoder import CONTENT_INPUTS, CONTENT_OUTPUTS, TOKENIZER_OUTPUTS
from model_store.search.history_encoding import encode_histories
from model_store.search.interface import SearchInputs, SearchOutputs, catalogue_inputs, graph_input_names, search_inputs
from model_store.search.neighbours import no_additions
from model_store.search.steering import no_steering
from model_store.semantic_ids.trie import Trie
from training.content.content_model import ContentModel
from training.export.onnx_network import TRANSLATIONS, rewrite_for_onnx
from training.export.traced_graphs import TracedGraphs, fill_weights, leave_weights_open

OPSET = 23

DYNAMIC_AXES: Mapping[str, tuple[int, ...]] = {
    "history": (0, 1),
    "lengths": (0,),
    "rule_bits": (0, 1),
    "rule_of": (0,),
    "excluded": (0, 1),
    "max_per_prefix": (0,),
    "neighbours": (0, 1),
    "neighbour_scores": (0, 1),
    "steer_nodes": (0, 1),
    "steer_nats": (0, 1),
    "beam": (0,),
    "candidates": (0,),
}
"""Axes of the graph's inputs whose size may change from call to call; catalogue inputs may change their first axis."""


def export_search(recommender: Recommender, has_dense: bool = True, kept: TracedGraphs | None = None) -> bytes:
    """Export the search graph of :mod:`model_store.search.interface`; catalogue and rules are inputs.

    Args:
        recommender: The recommender; it is not changed.
        has_dense: Whether answers need dense scores. A graph without them is faster, and takes no dense candidates.
        kept: Keeps the traced graph for the next export of the same structure, if given.
    """
    levels = recommender.levels
    codebook_size = recommender.code_embedding.shape[1]
    inputs, trie = _create_example(levels, codebook_size)

    # Both sizes differ from those of all other inputs, or the exporter would take them for the same size. The service
    # may pass a single row of vectors.
    vectors = np.ones((trie.items + 1, recommender.embedding_dim), dtype=np.float32)
    catalogue = catalogue_inputs(trie, vectors, recommender.embedding_dim)
    pool = vectors[: trie.items // 2]  # the service passes all rows or none

    dynamic = (*(dict.fromkeys(DYNAMIC_AXES[name], Dim.DYNAMIC) for name in SearchInputs._fields),)
    structure = f"{recommender.shape.model_dump_json()} levels={levels} has_dense={has_dense}"
    return _export(
        rewrite_for_onnx(BeamSearch(copy.deepcopy(recommender).cpu().eval(), has_dense)),
        tuple(torch.from_numpy(array) for array in (*inputs, *catalogue, pool)),
        graph_input_names(levels),
        list(SearchOutputs._fields),
        (*dynamic, tuple({0: Dim.DYNAMIC} for _ in (*catalogue, pool))),
        TRANSLATIONS,
        None if kept is None else partial(kept.take, "search", structure),
    )


def export_tokenizer(tokenizer: Tokenizer, kept: TracedGraphs | None = None) -> bytes:
    """Export the tokenizer: raw ``embeddings [N, d_s]`` in; ``codes``, ``distances`` ``[N, L, K]`` and ``latents`` out.

    Codes are sorted by ascending distance on the greedy path. :mod:`model_store.new_items.placement` needs the latents,
    ``[N, d_c]``.

    Args:
        tokenizer: The tokenizer; it is not changed.
        kept: Keeps the traced graph for the next export of the same structure, if given.
    """
    example = torch.zeros(2, len(tokenizer.mean))
    take = None if kept is None else partial(kept.take, "tokenizer", "")  # the shapes of its weights say all
    outputs = list(TOKENIZER_OUTPUTS)
    return _export(tokenizer, (example,), ["embeddings"], outputs, ({0: Dim.DYNAMIC},), None, take)


def export_content(model: ContentModel, kept: TracedGraphs | None = None) -> bytes:
    """Export the content model: ``features`` and ``weights`` ``[N, F]`` in, raw ``embeddings [N, d_s]`` out.

    Args:
        model: The content model; it is not changed.
        kept: Keeps the traced graph for the next export of the same structure, if given.
    """
    example = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3)
    both = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    take = None if kept is None else partial(kept.take, "content", f"content_dim={model.content_dim}")
    return _export(model, example, list(CONTENT_INPUTS), list(CONTENT_OUTPUTS), (both, both), None, take)


def _create_example(levels: int, codebook_size: int) -> tuple[SearchInputs, Trie]:
    """Return a small batch in which all sizes differ, because the exporter would treat equal ones as the same size."""
    rows = np.arange(min(codebook_size**levels, 4 * codebook_size + 3))
    codes = np.stack([rows // codebook_size ** (levels - 1 - level) % codebook_size for level in range(levels)], axis=1)
    trie = Trie.build(codes, codebook_size)
    history = encode_histories([rows[:5], rows[:2], rows[:4]], trie.item_leaf, max_history=5)
    added = no_additions(requests=3, size=22)
    steered = no_steering(requests=3, size=9)
    inputs = search_inputs(
        history, trie, 7, [trie.everything] * 2, [0, 1, 0], candidates=6, additions=added, steering=steered
    )
    return inputs, trie


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter: users need not see its own deprecations and the optional packages that it mentions."""
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
    take: Callable[[nn.Module, Callable[[], bytes]], bytes] | None = None,
) -> bytes:
    """Export a module.

    Args:
        module: The module; it is not changed.
        example: Its inputs.
        inputs: Their names.
        outputs: Names of its outputs.
        dynamic: Axes of the inputs whose size may change.
        translations: Operations of torch that the exporter would not translate well.
        take: Returns the traced graph of the module from those that are kept, or what the given function traces.
    """
    traced = partial(trace, module, example, inputs, outputs, dynamic, translations)
    graph = traced() if take is None else take(module, traced)
    return fold_constants(fill_weights(graph, module))


def trace(
    module: nn.Module,
    example: tuple[torch.Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: tuple[object, ...],
    translations: Mapping[Callable[..., Any], Callable[..., Any]] | None,
) -> bytes:
    """Trace a module into a graph whose weights are inputs, with the names that torch gives them.

    It is optimised as far as that does not depend on their values, which is most of the work.
    """
    with torch.no_grad(), _quiet_exporter():
        program = torch.onnx.export(
            copy.deepcopy(module).cpu().eval(),  # the graph must not depend on the device of the training
            example,
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            custom_translation_table=dict(translations or {}),
            external_data=False,
            optimize=False,
            verbose=False,
        )

    if program is None:
        raise RuntimeError("the ONNX exporter returned nothing")
    leave_weights_open(program.model, module)
    with _quiet_exporter():
        program.optimize()
    return program.model_proto.SerializeToString()


def fold_constants(graph: bytes) -> bytes:
    """Return a graph in which what follows from its weights alone is computed, unless that would make it larger."""
    model = onnx_ir.from_proto(onnx.load_from_string(graph))
    with _quiet_exporter():
        optimizer.fold_constants_ir(model)
    RemoveUnusedNodesPass()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return onnx_ir.to_proto(model).SerializeToString()
