"""Bundles with a real (random) network, served by the real engines: goldens hold, and both engines answer alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from model_store.errors import BundleRefused
from model_store.golden import Golden, goldens_to_json
from model_store.manifest import DataSummary, Description
from model_store.publish import publish
from model_store.registry import Store
from service.engines.base import SearchRequest
from service.engines.onnx import OnnxEngine
from service.engines.torch import PREFIX, TorchEngine
from service.model import replay_goldens
from tests.model_store.bundles import bundle_files, small_catalogue
from tests.search.worlds import random_recommender, small_config
from tests.service.harness import serving
from training.export import export_search

CONFIG = small_config(layers=1)
CATALOGUE = small_catalogue(items=60, codebook_size=CONFIG.tokenizer.codebook_size)
NOTHING = np.empty(0, dtype=np.int64)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    network = random_recommender(CONFIG, seed=3)
    weights = {PREFIX + name: value.numpy() for name, value in network.state_dict().items()}
    goldens = [golden(TorchEngine(weights, CONFIG, "cpu"), rows) for rows in ([4, 8, 15], [16], list(range(12)))]
    content = {
        "weights.safetensors": safetensors.numpy.save(weights),
        "search.onnx": export_search(network),
        "golden.json": goldens_to_json(goldens),
    }
    described = Description(config=CONFIG, data=DataSummary(name="random", fingerprint="0" * 64))
    opened = Store(folder)
    opened.promote(publish(opened, bundle_files(0, CATALOGUE) | content, described))
    return folder


def golden(engine: TorchEngine, rows: list[int]) -> Golden:
    request = SearchRequest(np.array(rows), 10, CONFIG.beam_width, CATALOGUE.trie.everything, NOTHING)
    inputs = engine.prepare([request], CATALOGUE)
    [found] = engine.finish(engine.compute(inputs, CATALOGUE), [request], CATALOGUE)
    return Golden(
        history=tuple(CATALOGUE.item_ids[row] for row in rows),
        items=tuple(CATALOGUE.item_ids[row] for row in found.rows),
        log_prob=tuple(float(value) for value in found.log_prob),
    )


@pytest.mark.anyio
async def test_both_engines_serve_the_bundle_and_answer_alike(store: Path) -> None:
    asked = [
        {"history": ["item-3", "item-9"], "k": 5},
        {"history": ["item-3"], "filter": {"categories": ["category-1"]}},
        {"history": [f"item-{n}" for n in range(40)], "k": 50, "max_per_prefix": 2},
    ]
    answers = {}
    for engine in ("onnx", "torch"):
        async with serving(store, engine=engine, threads=1) as (client, service):
            assert service.models.current.engine.name == engine
            single = [(await client.post("/recommend", json=each)).json()["items"] for each in asked]
            batch = [each["items"] for each in (await client.post("/recommend/batch", json=asked)).json()]
            assert [ids(each) for each in batch] == [ids(each) for each in single]
            answers[engine] = single
    for onnx, torch in zip(answers["onnx"], answers["torch"], strict=True):
        assert ids(onnx) == ids(torch)
        assert [each["log_prob"] for each in onnx] == pytest.approx([each["log_prob"] for each in torch], abs=1e-4)
    by_category = [CATALOGUE.row_of[each] % 3 for each in ids(answers["onnx"][1])]
    assert by_category == [1] * 10


def ids(items: list[dict[str, object]]) -> list[str]:
    return [str(each["item_id"]) for each in items]


def test_goldens_that_this_engine_does_not_answer_are_refused(store: Path) -> None:
    bundle = Store(store).bundle()
    engine = OnnxEngine(bundle.read("search.onnx"), CONFIG, threads=1)
    goldens = bundle.goldens()
    replay_goldens(engine, CATALOGUE, goldens, CONFIG.beam_width)
    shifted = [each.model_copy(update={"log_prob": tuple(v - 0.01 for v in each.log_prob)}) for each in goldens]
    with pytest.raises(BundleRefused, match=r"golden\.json"):
        replay_goldens(engine, CATALOGUE, shifted, CONFIG.beam_width)


def test_a_graph_of_another_depth_is_refused(store: Path) -> None:
    graph = Store(store).bundle().read("search.onnx")
    with pytest.raises(BundleRefused, match="inputs"):
        OnnxEngine(graph, small_config(levels=2))
