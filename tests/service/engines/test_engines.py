"""Bundles with a real (random) network, served by the real engines: goldens hold, and both engines answer alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from structlog.testing import capture_logs

from model_store.bundle.bundle import Bundle
from model_store.bundle.golden import Golden, goldens_to_json
from model_store.bundle.manifest import DataSummary, Description
from model_store.bundle.parts import NEIGHBOURS, RANKER
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.catalogue.catalogue import Catalogue
from model_store.errors import BundleRefused
from model_store.network.recommender import Recommender
from model_store.search.fusion import GENERATIVE_ALONE, Fusion
from model_store.search.interface import SearchInputs, SearchOutputs
from model_store.search.ranker import CandidateFeatures
from service.engines.base import Engine, SearchRequest
from service.engines.onnx_engine import EIGHT_BIT_GRAPH, OnnxEngine, usable_cores
from service.engines.torch_engine import PREFIX, TorchEngine
from service.models.goldens import replay_goldens
from service.models.loading import load_model, open_engine, usual_plan
from service.models.trial import ProcessTrial
from service.settings import Settings
from tests.support.bundles import bundle_files, small_catalogue
from tests.support.random_worlds import (
    random_item_words,
    random_neighbours,
    random_ranker,
    random_recommender,
    random_vectors,
    reference,
    small_config,
)
from tests.support.search_reference import fuse
from tests.support.service_harness import fast_settings, loaded_model, serving
from training.export.int8 import eight_bit_search
from training.export.onnx_export import export_search

CONFIG = small_config(layers=1)
CODED = small_catalogue(items=60, codebook_size=CONFIG.tokenizer.codebook_size)
CATALOGUE = replace(CODED, vectors=random_vectors(np.random.default_rng(7), CONFIG, 60))
FUSION = Fusion(weight=3.0, candidates=CONFIG.beam_width)
NEIGHBOURLY = Fusion(weight=3.0, candidates=CONFIG.beam_width, neighbours=0.5)
RANKED = Fusion(weight=2.0, candidates=CONFIG.beam_width, neighbours=0.5)
"""Weights of the version that has a ranker."""
READER = CandidateFeatures(np.linspace(0, 5, 50, dtype=np.float32), 0, random_item_words(np.random.default_rng(6), 50))
RANKER_OF_IT = random_ranker(np.random.default_rng(9), READER)
MEMORY = random_neighbours(np.random.default_rng(8), 60)
NOTHING = np.empty(0, dtype=np.int64)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[Fusion, Path]:
    """One network with generative answers, with fused ones, with ones that know neighbours, and with ranked ones."""
    folder = tmp_path_factory.mktemp("real")
    network = random_recommender(CONFIG, seed=3)
    graph = export_search(network)
    graphs = {"search.onnx": graph, EIGHT_BIT_GRAPH: eight_bit_search(graph, network)}
    engine = TorchEngine(weights_of(network), CONFIG, "cpu")
    fusions = GENERATIVE_ALONE, FUSION, NEIGHBOURLY, RANKED
    return {fusion: publish_real(folder / str(place), graphs, engine, fusion) for place, fusion in enumerate(fusions)}


@pytest.fixture
def store(stores: dict[Fusion, Path]) -> Path:
    return stores[GENERATIVE_ALONE]


def weights_of(network: Recommender) -> dict[str, npt.NDArray[np.generic]]:
    return {PREFIX + name: value.numpy() for name, value in network.state_dict().items()}


def publish_real(folder: Path, graphs: dict[str, bytes], engine: TorchEngine, fusion: Fusion) -> Path:
    goldens = [golden(engine, rows, fusion) for rows in ([4, 8, 15], [16], list(range(12)))]
    content = graphs | {
        "weights.safetensors": safetensors.numpy.save(weights_of(random_recommender(CONFIG, seed=3))),
        "golden.json": goldens_to_json(goldens),
        NEIGHBOURS: safetensors.numpy.save(MEMORY.arrays()),
    }
    if fusion == RANKED:
        content[RANKER] = safetensors.numpy.save(RANKER_OF_IT.arrays())
    described = Description(config=CONFIG, data=DataSummary(name="random", fingerprint="0" * 64), fusion=fusion)
    opened = ModelStore(folder)
    opened.promote(publish(opened, bundle_files(0, CATALOGUE) | content, described))
    return folder


def golden(engine: TorchEngine, rows: list[int], fusion: Fusion) -> Golden:
    everything = CATALOGUE.trie.everything
    ranker = RANKER_OF_IT if fusion == RANKED else None
    request = SearchRequest(
        np.array(rows), 10, CONFIG.beam_width, everything, NOTHING, CATALOGUE, None, fusion, MEMORY, ranker
    )
    [found] = engine.answer([request], CATALOGUE)
    return Golden(
        history=tuple(CATALOGUE.item_ids[row] for row in rows),
        items=tuple(CATALOGUE.item_ids[row] for row in found.rows),
        score=tuple(float(value) for value in found.score),
        log_prob=tuple(float(value) for value in found.log_prob),
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    "fusion",
    [GENERATIVE_ALONE, FUSION, NEIGHBOURLY, RANKED],
    ids=["generative", "fused", "neighbourly", "ranked"],
)
async def test_both_engines_serve_the_bundle_and_answer_alike(stores: dict[Fusion, Path], fusion: Fusion) -> None:
    store = stores[fusion]
    asked = [
        {"history": ["item-3", "item-9"], "k": 5},
        {"history": ["item-3"], "filter": {"categories": ["category-1"]}},
        {"history": [f"item-{n}" for n in range(40)], "k": 50, "max_per_prefix": 2},
    ]
    answers = {}
    for engine in ("onnx", "torch"):
        async with serving(store, engine=engine, threads=1) as (client, service):
            assert loaded_model(service).engine.name == engine
            single = [(await client.post("/recommend", json=each)).json()["items"] for each in asked]
            batch = [each["items"] for each in (await client.post("/recommend/batch", json=asked)).json()]
            assert [ids(each) for each in batch] == [ids(each) for each in single]
            answers[engine] = single
    for onnx, torch in zip(answers["onnx"], answers["torch"], strict=True):
        assert ids(onnx) == ids(torch)
        for field in ("score", "log_prob"):
            assert [each[field] for each in onnx] == pytest.approx([each[field] for each in torch], abs=1e-4)
        assert all((each["score"] == each["log_prob"]) == (fusion.weight == 0) for each in onnx)
    by_category = [CATALOGUE.row_of[each] % 3 for each in ids(answers["onnx"][1])]
    assert by_category == [1] * 10


@pytest.mark.anyio
async def test_answers_batches_and_explanations_are_ranked_by_the_ranker(stores: dict[Fusion, Path]) -> None:
    bundle = ModelStore(stores[RANKED]).bundle()
    engine = TorchEngine(bundle.weights(), CONFIG, "cpu")
    history = [3, 9, 27, 44]
    plain = SearchRequest(
        np.array(history), 10, CONFIG.beam_width, CATALOGUE.trie.everything, NOTHING, CATALOGUE, None, RANKED, MEMORY
    )
    ranked, unranked = engine.answer([replace(plain, ranker=RANKER_OF_IT), plain], CATALOGUE)
    assert ranked.rows.tolist() == unranked.rows.tolist()  # the first request's ranker is the batch's
    [unranked] = engine.answer([plain], CATALOGUE)
    assert ranked.rows.tolist() != unranked.rows.tolist()

    asked = {"history": [CATALOGUE.item_ids[row] for row in history], "k": 10, "exclude_seen": False, "explain": True}
    async with serving(stores[RANKED], engine="onnx", threads=1) as (client, _):
        alone = (await client.post("/recommend", json=asked)).json()["items"]
        [together] = (await client.post("/recommend/batch", json=[asked | {"explain": False}])).json()
    for answer in (alone, together["items"]):
        assert ids(answer) == [CATALOGUE.item_ids[row] for row in ranked.rows]
        assert [each["score"] for each in answer] == pytest.approx(ranked.score.tolist(), abs=1e-4)

    for item in alone:
        parts = item["explanation"]["parts"]
        assert sum(parts.values()) == pytest.approx(item["score"], abs=1e-4)
        assert parts["codes"] == item["log_prob"]
        assert parts["cosine"] != 0 != parts["ranker"]

    # What an item of the history contributes is what the ranked score loses without it.
    for left_out in range(len(history)):
        rest = np.delete(np.array(history), left_out)
        everywhere = replace(plain, ranker=RANKER_OF_IT, history=rest, k=60)
        [found] = engine.answer([everywhere], CATALOGUE)
        known = dict(zip(found.rows.tolist(), found.score.tolist(), strict=True))
        for place, row in enumerate(ranked.rows.tolist()):
            if row in known:
                told = alone[place]["explanation"]["history"][left_out]["contribution"]
                assert told == pytest.approx(float(ranked.score[place]) - known[row], abs=1e-3)


@pytest.mark.anyio
@pytest.mark.parametrize("precision", ["fp32", "int8"])
async def test_a_real_version_passes_its_trial(stores: dict[Fusion, Path], precision: str) -> None:
    opened = ModelStore(stores[NEIGHBOURLY])
    version = opened.bundle().version
    trial = ProcessTrial(fast_settings(stores[NEIGHBOURLY], engine="onnx", threads=1, onnx_precision=precision))
    assert (await trial(version)).digest == opened.bundle().manifest.digest


@pytest.mark.anyio
async def test_neighbours_of_the_history_add_to_the_score(stores: dict[Fusion, Path]) -> None:
    asked = {"history": ["item-4", "item-8"], "k": 20}
    scores = {}
    for fusion in (FUSION, NEIGHBOURLY):
        async with serving(stores[fusion], engine="onnx", threads=1) as (client, _):
            answer = (await client.post("/recommend", json=asked)).json()["items"]
            scores[fusion] = {each["item_id"]: each["score"] for each in answer}
    both = sorted(scores[FUSION].keys() & scores[NEIGHBOURLY].keys())
    neighbours = MEMORY.scores(np.array([[4, 8]]), np.array([2]))
    known = dict(zip(neighbours.row.tolist(), neighbours.value.tolist(), strict=True))
    added = [1.5 * known.get(CATALOGUE.row_of[item_id], 0.0) for item_id in both]  # weights 3 and .5
    assert any(added)
    found = [scores[NEIGHBOURLY][item_id] - scores[FUSION][item_id] for item_id in both]
    assert found == pytest.approx(added, abs=1e-4)
    assert list(scores[FUSION]) != list(scores[NEIGHBOURLY])


@pytest.mark.anyio
async def test_the_fused_answer_is_that_of_the_reference(stores: dict[Fusion, Path]) -> None:
    judge = reference(CONFIG, random_recommender(CONFIG, seed=3), CATALOGUE.codes, CATALOGUE.vectors)
    rows, first_code = [4, 8, 15], CATALOGUE.codes[:, 0].tolist()
    unseen = np.ones(60, dtype=np.bool_)
    unseen[rows] = False
    history, width = np.array(rows), CONFIG.beam_width
    async with serving(stores[FUSION], engine="onnx", threads=1) as (client, _):
        for most in (1, 2, 60):
            body = {"history": [f"item-{row}" for row in rows], "k": 12, "max_per_prefix": most}
            answer = (await client.post("/recommend", json=body)).json()["items"]
            found = judge.candidates(history, width, width, unseen, most)
            candidates = [*found[0], *found[1]]
            expected = fuse(candidates, FUSION.weight, 12, most, first_code)
            assert ids(answer) == [f"item-{row}" for row in expected]
            scored = {each.row: each.log_prob + FUSION.weight * each.dense for each in candidates}
            assert [each["score"] for each in answer] == pytest.approx([scored[row] for row in expected], abs=1e-3)
            codes = [each["codes"][0] for each in answer]
            assert max(codes.count(code) for code in codes) <= most


@pytest.mark.anyio
@pytest.mark.parametrize("engine", ["onnx", "torch"])
async def test_in_a_large_catalogue_the_neighbours_of_the_history_join_the_beams(
    stores: dict[Fusion, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setattr("model_store.search.fusion.DENSE_ITEMS", 59)
    bundle = ModelStore(stores[NEIGHBOURLY]).bundle()
    graphs = {name: bundle.read(name) for name in ("search.onnx", EIGHT_BIT_GRAPH)}
    publish_real(tmp_path, graphs, TorchEngine(bundle.weights(), CONFIG, "cpu"), NEIGHBOURLY)

    rows, width = [4, 8, 15], CONFIG.beam_width
    unseen = np.ones(60, dtype=np.bool_)
    unseen[rows] = False
    known = MEMORY.scores(np.array([rows]), np.array([len(rows)]))
    added = {row: 0.5 * value for row, value in zip(known.row.tolist(), known.value.tolist(), strict=True)}
    judge = reference(CONFIG, random_recommender(CONFIG, seed=3), CATALOGUE.codes, CATALOGUE.vectors)
    beams, others = judge.candidates(np.array(rows), width, width, unseen, None, added, scores_all=False)
    everyone, _ = judge.candidates(np.array(rows), width, width, unseen, None, added)
    assert 0 < len(others) < 60 - len(rows) - len(everyone)  # some join, and not all that are open

    async with serving(tmp_path, engine=engine, threads=1) as (client, _):
        body = {"history": [f"item-{row}" for row in rows], "k": width}
        answer = (await client.post("/recommend", json=body)).json()["items"]
    expected = fuse([*beams, *others], NEIGHBOURLY.weight, width, 60, CATALOGUE.codes[:, 0].tolist())
    assert set(expected) & {other.row for other in others}
    assert ids(answer) == [f"item-{row}" for row in expected]


def test_wide_beams_keep_the_fitted_balance(stores: dict[Fusion, Path]) -> None:
    bundle = ModelStore(stores[FUSION]).bundle()
    model = load_model(bundle, bundle.catalogue(), Settings(engine="onnx", threads=1), open_engine)
    assert [model.fusion(width).candidates for width in (20, 50, 100)] == [20, 50, 100]


def ids(items: list[dict[str, object]]) -> list[str]:
    return [str(each["item_id"]) for each in items]


def test_goldens_that_this_engine_does_not_answer_are_refused(store: Path) -> None:
    bundle = ModelStore(store).bundle()
    model = load_model(bundle, bundle.catalogue(), Settings(engine="onnx", threads=1), open_engine)
    goldens = bundle.goldens()
    replay_goldens(model, goldens)
    shifted = [each.model_copy(update={"score": tuple(v - 0.01 for v in each.score)}) for each in goldens]
    with pytest.raises(BundleRefused, match=r"golden\.json"):
        replay_goldens(model, shifted)


@pytest.mark.anyio
async def test_weights_of_8_bits_serve_nearly_the_same_answers(stores: dict[Fusion, Path]) -> None:
    asked, answers = {"history": ["item-3", "item-9"], "k": 10}, {}
    for precision in ("fp32", "int8"):
        async with serving(stores[FUSION], engine="onnx", threads=1, onnx_precision=precision) as (client, service):
            assert loaded_model(service).engine.reduced_precision == (precision == "int8")
            answers[precision] = (await client.post("/recommend", json=asked)).json()["items"]
    exact, cheap = ({each["item_id"]: each["log_prob"] for each in items} for items in answers.values())
    shared = exact.keys() & cheap.keys()
    assert len(shared) >= 9
    assert [cheap[each] for each in shared] == pytest.approx([exact[each] for each in shared], abs=0.2)
    assert cheap != exact  # else the other graph was served


def test_a_version_without_8_bits_is_served_in_fp32(store: Path, tmp_path: Path) -> None:
    opened = ModelStore(tmp_path)
    described = Description(config=CONFIG, data=DataSummary(name="random", fingerprint="0" * 64))
    graph = {"search.onnx": ModelStore(store).bundle().read("search.onnx")}
    opened.promote(publish(opened, bundle_files(0, CATALOGUE) | graph, described))
    engine = open_engine(opened.bundle(), Settings(engine="onnx", onnx_precision="int8"))
    assert not engine.reduced_precision
    engine.close()


class Saturated(OnnxEngine):
    """An engine of 8 bits as it is on a machine whose products overflow: it answers, and wrongly."""

    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        found = super().compute(inputs, catalogue)
        return found._replace(leaves=(found.leaves + 1) % catalogue.trie.items)


def test_answers_that_differ_too_much_in_8_bits_are_given_in_fp32(store: Path) -> None:
    def opener(bundle: Bundle, settings: Settings) -> Engine:
        if settings.onnx_precision == "fp32":
            return open_engine(bundle, settings)
        return Saturated(bundle.read(EIGHT_BIT_GRAPH), bundle.config, settings.threads, reduced_precision=True)

    bundle = ModelStore(store).bundle()
    with capture_logs() as logs:
        model = load_model(bundle, bundle.catalogue(), Settings(threads=1, onnx_precision="int8"), opener)

    assert not model.engine.reduced_precision
    [said] = [entry for entry in logs if entry["event"] == "served_in_fp32"]
    assert "answers overlap" in said["cause"]
    model.engine.close()


class WrongInCompany(OnnxEngine):
    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        found = super().compute(inputs, catalogue)
        return found if len(inputs.lengths) == 1 else found._replace(log_prob=found.log_prob - 1)


def test_goldens_are_asked_together_too(store: Path) -> None:
    def opener(bundle: Bundle, settings: Settings) -> WrongInCompany:
        return WrongInCompany(bundle.read("search.onnx"), bundle.config, settings.threads)

    bundle = ModelStore(store).bundle()
    with pytest.raises(BundleRefused, match=r"golden\.json"):
        load_model(bundle, bundle.catalogue(), Settings(engine="onnx", threads=1), opener)


def test_a_containers_limit_counts_if_it_is_lower(tmp_path: Path) -> None:
    quota, cores = tmp_path / "cpu.max", usable_cores(tmp_path / "missing")
    for text, expected in (("max 100000", cores), ("50000 100000", 1), ("100000 100000", 1), ("9900000 100000", cores)):
        quota.write_text(text + "\n")
        assert usable_cores(quota) == expected


@pytest.mark.parametrize("fusion", [GENERATIVE_ALONE, FUSION], ids=["generative", "fused"])
def test_usual_requests_find_a_captured_shape(stores: dict[Fusion, Path], fusion: Fusion) -> None:
    bundle = ModelStore(stores[fusion]).bundle()
    settings = Settings(engine="torch", threads=1, torch_precision="bf16")
    assert open_engine(bundle, settings).reduced_precision
    model = load_model(bundle, bundle.catalogue(), settings.model_copy(update={"torch_precision": "fp32"}), open_engine)
    assert not model.engine.reduced_precision
    plan, width = usual_plan(bundle.manifest, max_batch=64), model.beam_width(10)
    request = SearchRequest(
        np.arange(3), 10, width, CATALOGUE.trie.everything, NOTHING, CATALOGUE, fusion=model.fusion(width)
    )
    inputs = model.engine.prepare([request] * 33, CATALOGUE)
    assert plan.find(inputs._replace(rule_bits=inputs.rule_bits[:0])) == (64, CONFIG.recommender.max_history, 0)


@pytest.mark.parametrize(("cores", "size"), [(3, 7), (4, 2), (2, 1), (2, 21)])
def test_a_batch_on_many_cores_is_answered_as_on_one(stores: dict[Fusion, Path], cores: int, size: int) -> None:
    graph = ModelStore(stores[FUSION]).bundle().read("search.onnx")
    rng, everything = np.random.default_rng(1), CATALOGUE.trie.everything
    rules = [everything, CATALOGUE.trie.mask(np.arange(60) % 2 == 0)]
    asked = [
        SearchRequest(
            rng.integers(0, 60, 5), 10, 20, rules[at % 2], rng.integers(0, 60, at), CATALOGUE, 1 + at % 3, FUSION
        )
        for at in range(size)
    ]
    answers = []
    for each in (1, cores):
        engine = OnnxEngine(graph, CONFIG, threads=each)
        answers.append(engine.answer(asked, CATALOGUE))
        assert engine.helper_cpu_s > 0
        engine.close()
    for alone, together in zip(*answers, strict=True):
        np.testing.assert_array_equal(alone.rows, together.rows)
        np.testing.assert_allclose(alone.score, together.score, atol=1e-5)


def test_a_graph_of_another_depth_is_refused(store: Path) -> None:
    graph = ModelStore(store).bundle().read("search.onnx")
    with pytest.raises(BundleRefused, match="takes"):
        OnnxEngine(graph, small_config(levels=2))
