"""Kept traced graphs: other weights are filled in, and whatever else a graph follows from is traced anew."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from model_store.config import TokenizerConfig
from model_store.network.tokenizer import Tokenizer
from model_store.new_items.features import HASH_BUCKETS
from tests.support.random_worlds import random_recommender, small_config
from tests.support.shared_exports import Arrays, SharedExports
from training.content.content_model import ContentModel
from training.export import onnx_export, traced_graphs
from training.export.onnx_export import export_content, export_search, export_tokenizer, fold_constants, trace
from training.export.traced_graphs import TracedGraphs, fill_weights

OTHER = small_config(history_tokens="vector", encoder_attention="causal", layers=2)
WIDTH = 6
SHAPE = TokenizerConfig(embedding_dim=WIDTH, hidden_dims=(8,), codebook_dim=4, levels=3, codebook_size=8)
KNOWN = np.array([3, 70, 900])


class Network(nn.Module):
    """Network with what a graph may hold of weights: transposed, folded with each other, a buffer, and a constant."""

    share: Tensor

    def __init__(self, seed: int, width: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.product = nn.Linear(width, 4)
        self.scale = nn.Parameter(torch.rand(4))
        self.register_buffer("share", torch.rand(()))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``[n, width]`` to ``[n, 4]``."""
        folded = self.scale.square() * (1 - self.share).sqrt()
        found: Tensor = self.product(inputs) * folded + torch.tensor([1.0, 2.0, 3.0, 4.0])
        return found


class Tracer:
    """Graphs of networks, with a count of the traces that were needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.traces = 0

    def take(self, network: Network, structure: str = "one", kind: str = "network") -> bytes:
        """Return the graph of a network with its weights."""

        graph = TracedGraphs(self.folder).take(kind, structure, network, partial(self.trace, network))
        return fold_constants(fill_weights(graph, network))

    def trace(self, network: Network) -> bytes:
        """Trace a network."""
        self.traces += 1
        example = (torch.zeros(2, network.product.in_features),)
        return trace(network, example, ["inputs"], ["outputs"], ({0: Dim.DYNAMIC},), None)


def random_tokenizer(seed: int) -> Tokenizer:
    torch.manual_seed(seed)
    tokenizer = Tokenizer(SHAPE)
    tokenizer.mean.normal_()
    tokenizer.scale.uniform_(0.5, 2.0)
    return tokenizer.eval()


def random_content(seed: int) -> ContentModel:
    """Return a content model that knows other features with each seed, and whose lengths differ, too."""
    torch.manual_seed(seed)
    known = KNOWN + seed
    return ContentModel(known, torch.randn(len(known), WIDTH), torch.randn(WIDTH), torch.rand(()) + 1, 2, 0.5 + seed)


def assert_equals_torch(graph: bytes, module: nn.Module, inputs: Arrays) -> None:
    found = onnxruntime.InferenceSession(graph).run(None, inputs)
    with torch.no_grad():
        expected = module(*map(torch.from_numpy, inputs.values()))
    for mine, theirs in zip(found, expected if isinstance(expected, tuple) else [expected], strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-4, atol=1e-5)


@pytest.fixture
def tracer(tmp_path: Path) -> Tracer:
    return Tracer(tmp_path / "graphs")


def assert_computes(graph: bytes, network: Network) -> None:
    inputs = np.random.default_rng(0).normal(size=(5, network.product.in_features)).astype(np.float32)
    [found] = onnxruntime.InferenceSession(graph).run(None, {"inputs": inputs})
    with torch.no_grad():
        np.testing.assert_allclose(found, network(torch.from_numpy(inputs)).numpy(), rtol=1e-6, atol=1e-6)


def test_other_weights_are_filled_in_without_another_trace(tracer: Tracer) -> None:
    for seed in range(3):
        network = Network(seed)
        assert_computes(tracer.take(network), network)
    assert tracer.traces == 1


def test_another_structure_is_traced_and_only_the_newest_graph_is_kept(tracer: Tracer) -> None:
    tracer.take(Network(0))
    wide = Network(0, width=6)
    assert_computes(tracer.take(wide), wide)
    tracer.take(wide, "two")
    assert tracer.traces == 3
    assert len(list(tracer.folder.iterdir())) == 1

    tracer.take(Network(0))
    assert tracer.traces == 4


def test_graphs_of_other_kinds_are_kept_beside_each_other(tracer: Tracer) -> None:
    for kind in ("search", "tokenizer", "search", "tokenizer"):
        tracer.take(Network(0), kind=kind)
    assert tracer.traces == 2


def test_a_search_is_traced_once_for_each_structure(tracer: Tracer, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*asked: Any) -> bytes:
        graph: bytes = asked[-1](Network(0), lambda: tracer.trace(Network(0)))
        return graph

    monkeypatch.setattr(onnx_export, "_export", export)
    traces = []
    for config, has_dense in ((small_config(), True), (small_config(), True), (small_config(), False), (OTHER, False)):
        export_search(random_recommender(config, seed=1), has_dense, TracedGraphs(tracer.folder))
        traces.append(tracer.traces)
    assert traces == [1, 1, 2, 3]


def test_tokenizer_and_content_model_are_traced_once_and_compute_what_torch_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces: list[nn.Module] = []

    def traced(module: nn.Module, *rest: Any) -> bytes:
        traces.append(module)
        return trace(module, *rest)

    if isinstance(shared := onnx_export._export, SharedExports):
        monkeypatch.setattr(onnx_export, "_export", shared.export)  # the real one
    monkeypatch.setattr(onnx_export, "trace", traced)
    kept = TracedGraphs(tmp_path)
    rng = np.random.default_rng(0)
    for seed in range(3):
        tokenizer = random_tokenizer(seed)
        embeddings = rng.normal(size=(5, WIDTH)).astype(np.float32)
        assert_equals_torch(export_tokenizer(tokenizer, kept), tokenizer, {"embeddings": embeddings})

        content = random_content(seed)
        features = rng.integers(0, HASH_BUCKETS, (4, 6))
        features[:, :3] = KNOWN + seed
        said: Arrays = {"features": features, "weights": rng.random((4, 6), dtype=np.float32)}
        assert_equals_torch(export_content(content, kept), content, said)
    assert len(traces) == 2


def test_other_code_is_traced(tracer: Tracer, monkeypatch: pytest.MonkeyPatch) -> None:
    tracer.take(Network(0))
    monkeypatch.setattr(traced_graphs, "_code_key", lambda: "another release")
    tracer.take(Network(0))
    assert tracer.traces == 2


def test_weights_of_another_shape_are_refused() -> None:
    network = Network(0)
    graph = trace(network, (torch.zeros(2, 3),), ["inputs"], ["outputs"], ({0: Dim.DYNAMIC},), None)
    with pytest.raises(ValueError, match=r"product\.weight is \(4, 3\) in the graph, \(4, 6\) in the module"):
        fill_weights(graph, Network(0, width=6))
