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

from tests.support.random_worlds import random_recommender, small_config
from training.export import onnx_export, traced_graphs
from training.export.onnx_export import export_search, optimise, trace
from training.export.traced_graphs import TracedGraphs, fill_weights

OTHER = small_config(history_tokens="vector", encoder_attention="causal", layers=2)


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

    def take(self, network: Network, structure: str = "one") -> bytes:
        """Return the optimised graph of a network."""

        return optimise(TracedGraphs(self.folder).take(structure, network, partial(self.trace, network)))

    def trace(self, network: Network) -> bytes:
        """Trace a network."""
        self.traces += 1
        example = (torch.zeros(2, network.product.in_features),)
        return trace(network, example, ["inputs"], ["outputs"], ({0: Dim.DYNAMIC},), None)


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
