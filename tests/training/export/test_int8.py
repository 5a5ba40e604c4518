"""The search graph with weights of 8 bits: smaller, the same interface, nearly the same answers."""

import numpy as np
import onnx
import pytest
import torch

from model_store.bundle.onnx_session import open_session
from model_store.network.recommender import Recommender
from model_store.search.interface import SearchOutputs, graph_input_names
from tests.support.random_worlds import random_recommender, random_requests, small_config
from training.export.int8 import eight_bit_search
from training.export.onnx_export import export_search

CONFIG = small_config(
    history_tokens="vector",
    encoder_attention="causal",
    layers=2,
    newest_start=True,
    user_encoder="own",
    low_pass=0.7,
)


@pytest.fixture(scope="module")
def graphs() -> tuple[bytes, bytes, Recommender]:
    recommender = random_recommender(CONFIG, seed=5)
    graph = export_search(recommender)
    return graph, eight_bit_search(graph, recommender), recommender


def test_layers_are_quantised_and_what_comes_in_and_what_tells_codes_apart_is_not(
    graphs: tuple[bytes, bytes, Recommender],
) -> None:
    _, small, recommender = graphs
    graph = onnx.load_from_string(small).graph
    matrices = [
        tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2
    ]
    in_8_bits = {tensor.raw_data: tuple(tensor.dims) for tensor in matrices}  # unrolled steps have copies
    layers = [*list(recommender.encoder.layers)[1:], *recommender.decoder]
    linear = [part for layer in layers for part in layer.modules() if isinstance(part, torch.nn.Linear)]
    assert sorted(in_8_bits.values()) == sorted(tuple(reversed(part.weight.shape)) for part in linear)
    exact = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    for table in recommender.code_embedding.detach().numpy():
        assert any(np.array_equal(each, table.T) for each in exact)


def test_answers_are_nearly_those_of_the_whole_graph(graphs: tuple[bytes, bytes, Recommender]) -> None:
    inputs = graph_input_names(CONFIG.code_length)
    whole, small = (open_session("search", graph, inputs, SearchOutputs._fields, threads=1) for graph in graphs[:2])
    shared = differences = 0
    for seed in range(10):
        requests = random_requests(np.random.default_rng(seed), CONFIG, batch=4)
        feed = dict(zip(inputs, requests.arrays(), strict=True))
        expected, found = whole.run(None, feed), small.run(None, feed)
        both = (expected[0] >= 0) & (expected[0] == found[0])
        np.testing.assert_allclose(found[1][both], expected[1][both], atol=0.2)
        shared += both.sum()
        differences += ((expected[0] >= 0) & ~both).sum()
    assert shared > 5 * differences


def test_no_two_products_share_weights(graphs: tuple[bytes, bytes, Recommender]) -> None:
    """ONNX Runtime refuses to load shared ones where it has to turn them into unsigned bytes."""
    graph = onnx.load_from_string(graphs[1]).graph
    products = [node for node in graph.node if node.op_type == "MatMulInteger"]
    weights = [node.input[place] for node in products for place in (1, 3)]
    assert len(products) > 10
    assert len(set(weights)) == len(weights)
