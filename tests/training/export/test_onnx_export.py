"""The exported graph against the torch module it came from, in ONNX Runtime, over changing shapes and catalogues."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from model_store.network.search import BeamSearch
from model_store.network.tokenizer import Tokenizer
from model_store.search.interface import SearchOutputs, graph_input_names
from tests.support.random_worlds import Requests, random_recommender, random_requests, small_config
from training.export.onnx_export import export_search, export_tokenizer

CONFIGS = {
    "code tokens, bidirectional": small_config(layers=1),
    "vector tokens, own user encoder": small_config(
        history_tokens="vector",
        encoder_attention="causal",
        layers=2,
        newest_start=True,
        user_encoder="own",
        low_pass=0.7,
    ),
}


ITEM_TOKENS = small_config(2, 5, "token", history_tokens="item", encoder_attention="causal", layers=1)
"""Item tokens, causal, a collision token: exported without dense scores only, since each trace takes a minute."""


@pytest.fixture(scope="module", params=CONFIGS)
def exported(request: pytest.FixtureRequest) -> tuple[str, onnxruntime.InferenceSession]:
    graph = export_search(random_recommender(CONFIGS[request.param], seed=11))
    return request.param, onnxruntime.InferenceSession(graph)


def test_one_graph_serves_every_batch_catalogue_rule_and_width(
    exported: tuple[str, onnxruntime.InferenceSession],
) -> None:
    name, session = exported
    config = CONFIGS[name]
    search = BeamSearch(random_recommender(config, seed=11))
    for seed in range(25):
        requests = random_requests(np.random.default_rng(seed), config, batch=1 + seed % 7, scores_all=seed % 3 > 0)
        if seed % 2:
            requests = without_limits(requests)
        feed = dict(zip(graph_input_names(config.code_length), requests.arrays(), strict=True))
        leaves, *scores = session.run(None, feed)
        with torch.inference_mode():
            expected = search(*requests.tensors())
        assert leaves.shape == (1 + seed % 7, requests.width + len(requests.inputs.candidates))
        np.testing.assert_array_equal(leaves, expected[0].numpy())
        for mine, theirs in zip(scores, expected[1:], strict=True):
            np.testing.assert_allclose(mine[leaves >= 0], theirs.numpy()[leaves >= 0], atol=1e-4)
        assert np.isneginf(scores[0][leaves < 0]).all()


def without_limits(requests: Requests) -> Requests:
    unlimited = np.full_like(requests.inputs.max_per_prefix, requests.width)
    return replace(requests, inputs=requests.inputs._replace(max_per_prefix=unlimited))


def test_without_dense_scores_the_same_beams_are_found() -> None:
    net = random_recommender(ITEM_TOKENS, seed=11)
    session = onnxruntime.InferenceSession(export_search(net, has_dense=False))
    search, without = BeamSearch(net), BeamSearch(net, has_dense=False)
    for seed in range(25):
        requests = random_requests(np.random.default_rng(seed), ITEM_TOKENS, batch=1 + seed % 7, candidates=0)
        if seed % 2:
            requests = without_limits(requests)
        with torch.inference_mode():
            expected = [output.numpy() for output in search(*requests.tensors())]
            eager = [output.numpy() for output in without(*requests.tensors())]
        exported = session.run(None, dict(zip(names(session), requests.arrays(), strict=True)))
        for leaves, log_prob, dense, by_code in (eager, exported):
            np.testing.assert_array_equal(leaves, expected[0])
            np.testing.assert_allclose(log_prob, expected[1], atol=1e-4)
            np.testing.assert_allclose(by_code[leaves >= 0], expected[3][leaves >= 0], atol=1e-4)
            assert dense.shape == leaves.shape
            assert not dense.any()


def names(session: onnxruntime.InferenceSession) -> list[str]:
    return [node.name for node in session.get_inputs()]


def test_the_graph_names_its_inputs_as_the_interface_does(
    exported: tuple[str, onnxruntime.InferenceSession],
) -> None:
    name, session = exported
    assert names(session) == graph_input_names(CONFIGS[name].code_length)
    assert [node.name for node in session.get_outputs()] == list(SearchOutputs._fields)


def test_the_exported_tokenizer_ranks_codes_like_torch() -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(small_config().tokenizer).eval()
    tokenizer.mean.normal_()
    tokenizer.scale.uniform_(0.5, 2.0)
    session = onnxruntime.InferenceSession(export_tokenizer(tokenizer))
    for items in (1, 5, 40):
        embeddings = torch.randn(items, 6)
        codes, distances, _ = session.run(None, {"embeddings": embeddings.numpy()})
        with torch.inference_mode():
            quantised = tokenizer.quantise(tokenizer.latents(embeddings))
        np.testing.assert_array_equal(codes[:, :, 0], quantised.codes.numpy())
        picked = np.take_along_axis(quantised.distances.numpy(), codes, axis=2)
        np.testing.assert_allclose(distances, picked, atol=1e-4)
        assert (np.diff(distances, axis=2) >= 0).all()
