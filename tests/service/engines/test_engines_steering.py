"""Steering on the real engines: as the reference steers, alike on both, and refused by graphs of earlier releases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy

from model_store.bundle.golden import goldens_to_json
from model_store.bundle.manifest import DataSummary, Description
from model_store.bundle.parts import NEIGHBOURS
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.search.fusion import Fusion
from model_store.search.interface import STEERING
from service.engines.torch_engine import TorchEngine
from tests.service.engines.test_engines import CATALOGUE, CONFIG, FUSION, MEMORY, golden, ids, weights_of
from tests.support.bundles import bundle_files
from tests.support.random_worlds import random_recommender, reference
from tests.support.service_harness import loaded_model, serving
from training.export.onnx_export import export_search

pytestmark = pytest.mark.anyio

NETWORK = random_recommender(CONFIG, seed=3)
ROWS = [4, 8, 15]
HISTORY = {"history": [f"item-{row}" for row in ROWS], "k": 12}


@pytest.fixture(scope="module")
def graph() -> bytes:
    return export_search(NETWORK)


def publish_graph(folder: Path, graph: bytes, fusion: Fusion) -> Path:
    engine = TorchEngine(weights_of(NETWORK), CONFIG, "cpu")
    content = {
        "search.onnx": graph,
        "weights.safetensors": safetensors.numpy.save(weights_of(NETWORK)),
        "golden.json": goldens(engine, fusion),
        NEIGHBOURS: safetensors.numpy.save(MEMORY.arrays()),
    }
    described = Description(config=CONFIG, data=DataSummary(name="random", fingerprint="0" * 64), fusion=fusion)
    opened = ModelStore(folder)
    opened.promote(publish(opened, bundle_files(0, CATALOGUE) | content, described))
    return folder


def goldens(engine: TorchEngine, fusion: Fusion) -> bytes:
    return goldens_to_json([golden(engine, rows, fusion) for rows in (ROWS, [16])])


def without_steering(graph: bytes) -> bytes:
    """Return a graph like those of earlier releases: it takes no steering, and steers nothing."""
    model = onnx.load_from_string(graph)
    kept = [each for each in model.graph.input if each.name not in STEERING]
    del model.graph.input[:]
    model.graph.input.extend(kept)

    zero, one = (onnx.numpy_helper.from_array(np.array([each]), f"steering_{each}") for each in (0, 1))
    model.graph.initializer.extend([zero, one])
    for source, name in (("excluded", STEERING[0]), ("neighbour_scores", STEERING[1])):
        nothing = onnx.helper.make_node("Slice", [source, zero.name, zero.name, one.name], [name])
        model.graph.node.insert(0, nothing)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("fusion", [Fusion(), FUSION], ids=["generative", "fused"])
async def test_both_engines_steer_as_the_reference_does(tmp_path: Path, graph: bytes, fusion: Fusion) -> None:
    store = publish_graph(tmp_path, graph, fusion)
    judge = reference(CONFIG, NETWORK, CATALOGUE.codes, CATALOGUE.vectors)
    is_open = np.ones(len(CATALOGUE), dtype=np.bool_)
    is_open[ROWS] = False
    best, _ = judge.search(np.array(ROWS), CONFIG.beam_width, is_open)[0]
    first, second = CATALOGUE.codes[best, :2].tolist()
    other = next(code for code in CATALOGUE.codes[:, 0].tolist() if code != first)
    steer = {(other,): 4.0, (first, second): -3.0, (first,): 1.0}
    body = {**HISTORY, "steer": {"-".join(map(str, prefix)): nats for prefix, nats in steer.items()}}

    width = CONFIG.beam_width
    beams, candidates = judge.candidates(np.array(ROWS), width, fusion.candidates, is_open, None, None, steer)
    added = {
        each.row: sum(
            nats for prefix, nats in steer.items() if tuple(CATALOGUE.codes[each.row, : len(prefix)]) == prefix
        )
        for each in (*beams, *candidates)
    }
    log_probs = {each.row: each.log_prob for each in (*beams, *candidates)}
    scores = {each.row: each.log_prob + fusion.weight * each.dense + added[each.row] for each in (*beams, *candidates)}
    expected = sorted(scores, key=lambda row: -scores[row])[:12]

    for engine in ("onnx", "torch"):
        async with serving(store, engine=engine, threads=1) as (client, _):
            # In one batch with a request that steers nothing.
            plain = (await client.post("/recommend", json=HISTORY)).json()["items"]
            together = (await client.post("/recommend/batch", json=[HISTORY, body])).json()
        assert ids(together[0]["items"]) == ids(plain)
        steered = together[1]["items"]
        assert ids(steered) == [f"item-{row}" for row in expected] != ids(plain)
        assert [each["score"] for each in steered] == pytest.approx([scores[row] for row in expected], abs=1e-3)
        assert [each["log_prob"] for each in steered] == pytest.approx([log_probs[row] for row in expected], abs=1e-3)


async def test_a_graph_of_an_earlier_release_serves_and_refuses_steering(tmp_path: Path, graph: bytes) -> None:
    new = publish_graph(tmp_path / "new", graph, FUSION)
    old = publish_graph(tmp_path / "old", without_steering(graph), FUSION)
    answers = []
    for store, can_steer in ((new, True), (old, False)):
        async with serving(store, engine="onnx", threads=1) as (client, service):
            assert loaded_model(service).engine.can_steer == can_steer
            answers.append((await client.post("/recommend", json=HISTORY)).json()["items"])
            refused = await client.post("/recommend", json={**HISTORY, "steer": {"3": 1.0}})
        assert refused.status_code == (200 if can_steer else 422)
    assert answers[0] == answers[1]
    assert "publish it again" in refused.json()["detail"]


async def test_boosts_lift_items_below_the_beam_of_a_real_search(tmp_path: Path, graph: bytes) -> None:
    """Every item of a boosted set competes, as if the answer of the set alone had been merged in."""
    store = publish_graph(tmp_path, graph, FUSION)
    async with serving(store, engine="onnx", threads=1) as (client, _):
        plain = (await client.post("/recommend", json={**HISTORY, "k": 50})).json()["items"]
        inside = {"filter": {"categories": ["category-1"]}, "k": 20}
        of_set = (await client.post("/recommend", json={**HISTORY, **inside})).json()["items"]
        boosts = [{"nats": 2.5, "categories": ["category-1"]}]
        boosted = (await client.post("/recommend", json={**HISTORY, "boosts": boosts})).json()["items"]
    scores = {each["item_id"]: each["score"] for each in plain} | {each["item_id"]: each["score"] for each in of_set}
    raised = {item: score + 2.5 * (int(item[5:]) % 3 == 1) for item, score in scores.items()}
    assert ids(boosted) == sorted(raised, key=lambda item: -raised[item])[:12]
    assert [each["score"] for each in boosted] == pytest.approx([raised[item] for item in ids(boosted)], abs=1e-3)
