"""The torch engine: padded, captured, replayed and grown, it answers exactly like the plain search."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from model_store.catalogue.catalogue import Catalogue
from model_store.config import ModelConfig
from model_store.network.bound_search import BoundSearch
from model_store.network.recommender import Recommender
from model_store.network.search import BeamSearch
from model_store.search.fusion import Fusion
from model_store.search.interface import SearchInputs, SearchOutputs
from service.engines.base import SearchRequest
from service.engines.buckets import CapturePlan, batch_sizes, history_lengths
from service.engines.cuda_graphs import EagerRunner, Runner, create_runner
from service.engines.device_catalogue import PaddedLayout
from service.engines.static_search import CatalogueKind, StaticSearch
from service.engines.torch_engine import PREFIX, TorchEngine
from tests.support.bundles import small_catalogue
from tests.support.random_worlds import (
    random_neighbours,
    random_recommender,
    random_requests,
    random_vectors,
    small_config,
)
from tests.support.replay_runner import FROM_THE_HOST, Noted, TapeRunner

WIDTH, CANDIDATES = 20, 12
MODELS = {
    "codes": small_config(codebook_size=8, layers=1),
    "vectors": small_config(codebook_size=8, layers=1, history_tokens="vector", user_encoder="own", newest_start=True),
}
PLAN = CapturePlan(batches=(1, 3, 8), lengths=(4, 7), width=WIDTH, candidates=CANDIDATES, additions=128)
ITEMS = 300
NEIGHBOURS = random_neighbours(np.random.default_rng(6), ITEMS, pairs=3_000)
MANY_NEIGHBOURS = random_neighbours(np.random.default_rng(6), ITEMS, pairs=30_000)


def catalogue(items: int = ITEMS, seed: int = 0) -> Catalogue:
    """Catalogues of one seed begin with the same items."""
    whole, rng = small_catalogue(seed, items=480), np.random.default_rng(seed)
    vectors = random_vectors(rng, MODELS["codes"], 480)
    return replace(small_catalogue(seed, items=items), codes=whole.codes[:items], vectors=vectors[:items])


def weights(network: Recommender) -> dict[str, npt.NDArray[np.generic]]:
    return {PREFIX + name: value.numpy() for name, value in network.state_dict().items()}


def engine_of(config: ModelConfig, plan: CapturePlan = PLAN) -> TorchEngine:
    return TorchEngine(weights(random_recommender(config, seed=3)), config, "cpu", plan)


def plain(config: ModelConfig, items: Catalogue, scores_all: bool = True) -> BoundSearch:
    return BoundSearch(BeamSearch(random_recommender(config, seed=3)), items.trie, items.vectors, scores_all)


def requests(
    rng: np.random.Generator,
    items: Catalogue,
    count: int,
    *,
    width: int = WIDTH,
    candidates: int = CANDIDATES,
    rules: int = 3,
    excluded: int = 20,
) -> list[SearchRequest]:
    """Random histories, of up to as many rules, exclusions and limits."""
    size = len(items)
    masks = [items.trie.everything, *(items.trie.mask(rng.random(size) < 0.6) for _ in range(rules - 1))]
    return [
        SearchRequest(
            history=rng.integers(0, size, rng.integers(1, 10)),
            k=5,
            beam_width=width,
            rule=masks[at % len(masks)],
            excluded=rng.choice(size, rng.integers(0, excluded + 1), replace=False),
            catalogue=items,
            max_per_prefix=int(rng.integers(1, 6)) if at % 2 else None,
            fusion=Fusion(weight=1.0, candidates=candidates, neighbours=0.1),
            neighbours=NEIGHBOURS,
        )
        for at in range(count)
    ]


def same(mine: SearchOutputs, expected: SearchOutputs, atol: float = 1e-5) -> None:
    """The same leaves with the same scores; rounding may swap two that are nearly equal."""
    for row, leaves in enumerate(expected.leaves):
        ours, theirs = np.argsort(mine.leaves[row]), np.argsort(leaves)
        np.testing.assert_array_equal(mine.leaves[row][ours], leaves[theirs])
        for name in ("log_prob", "dense", "code_log_prob"):
            values = getattr(mine, name)[row][ours], getattr(expected, name)[row][theirs]
            found = leaves[theirs] >= 0
            np.testing.assert_allclose(values[0][found], values[1][found], atol=atol, rtol=0)
    beams = mine.log_prob[:, :WIDTH], expected.log_prob[:, :WIDTH]
    np.testing.assert_allclose(*beams, atol=atol, rtol=0)


def asked(engine: TorchEngine, items: Catalogue, rng: np.random.Generator, count: int, **kinds: int) -> SearchInputs:
    return engine.prepare(requests(rng, items, count, **kinds), items)


@pytest.fixture(params=MODELS)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return MODELS[request.param]


@pytest.fixture(params=[EagerRunner, TapeRunner])
def captured(request: pytest.FixtureRequest, config: ModelConfig) -> tuple[StaticSearch, Runner]:
    runs: Runner = request.param()
    layout = PaddedLayout.with_headroom(catalogue().trie)
    kind = CatalogueKind(has_vectors=True, has_pool=True)
    return StaticSearch(BeamSearch(random_recommender(config, 3)), layout, kind, PLAN, runs), runs


def test_batches_of_all_sizes_are_answered_as_without_padding(
    config: ModelConfig, captured: tuple[StaticSearch, Runner], rng: np.random.Generator
) -> None:
    items, (search, runs) = catalogue(), captured
    engine, expected = engine_of(config), plain(config, items)
    resident = search.catalogue_to_device(items.trie, items.vectors)
    search.capture(resident)
    # large ones first: what they leave behind in the static tensors must not show
    for count in (8, 7, 4, 3, 2, 1, 5):
        inputs = asked(engine, items, rng, count)
        assert PLAN.find(inputs) is not None
        same(search(inputs, resident), expected(inputs))
    if isinstance(runs, TapeRunner):
        assert (runs.recordings, runs.replays) == (6, 7)


def test_a_catalogue_that_grows_into_its_headroom_needs_no_capture(
    config: ModelConfig, captured: tuple[StaticSearch, Runner], rng: np.random.Generator
) -> None:
    search, runs = captured
    engine, older, newer = engine_of(config), catalogue(), catalogue(ITEMS + 37)
    residents = {len(items): search.catalogue_to_device(items.trie, items.vectors) for items in (older, newer)}
    search.capture(residents[ITEMS])
    for items in (older, newer, newer, older, newer):
        inputs = asked(engine, items, rng, 3)
        same(search(inputs, residents[len(items)]), plain(config, items)(inputs))
    if isinstance(runs, TapeRunner):
        assert (runs.recordings, runs.replays) == (6, 5)


@pytest.mark.parametrize(
    "kinds",
    [
        {"count": 9},
        {"count": 8, "rules": 20},
        {"count": 2, "excluded": 290},
        {"count": 2, "width": 50, "candidates": 30},
        {"count": 2, "candidates": 0},
        {"count": 2, "neighbours": 128},
    ],
    ids=lambda kinds: "-".join(f"{name}{value}" for name, value in kinds.items()),
)
def test_odd_batches_are_searched_call_by_call(
    config: ModelConfig, kinds: dict[str, int], rng: np.random.Generator
) -> None:
    items, engine = catalogue(), engine_of(config)
    if "excluded" in kinds:
        questions = [replace(each, excluded=np.arange(200)) for each in requests(rng, items, kinds["count"])]
        inputs = engine.prepare(questions, items)
    elif "neighbours" in kinds:
        questions = [replace(each, neighbours=MANY_NEIGHBOURS) for each in requests(rng, items, kinds["count"])]
        inputs = engine.prepare(questions, items)
        assert inputs.neighbours.shape[1] > PLAN.additions
    else:
        inputs = asked(engine, items, rng, **kinds)
    assert PLAN.find(inputs) is None
    same(engine.compute(inputs, items), plain(config, items)(inputs))


def test_a_narrow_beam_gets_the_captured_width(config: ModelConfig, rng: np.random.Generator) -> None:
    items, engine = catalogue(), engine_of(config)
    narrow = requests(rng, items, 5, width=10, candidates=6)
    usual = [
        replace(each, beam_width=WIDTH, fusion=narrow[0].fusion.model_copy(update={"candidates": CANDIDATES}))
        for each in narrow
    ]
    expected = plain(config, items)(engine.prepare(usual, items))
    inputs = engine.prepare(narrow, items)
    found = engine.compute(inputs, items)
    same(found, expected)
    for mine, theirs in zip(*(engine.finish(each, inputs, narrow, items) for each in (found, expected)), strict=True):
        np.testing.assert_array_equal(mine.rows, theirs.rows)
        assert len(mine.rows) == 5


def test_the_engine_keeps_its_captures_until_a_catalogue_outgrows_them(
    config: ModelConfig, rng: np.random.Generator
) -> None:
    engine, catalogues = engine_of(config), [catalogue(items) for items in (ITEMS, ITEMS + 20, 470)]
    searches = []
    for items in catalogues:
        engine.bind(items)
        searches.append(engine._bound.get(items).search)
        inputs = asked(engine, items, rng, 4)
        same(engine.compute(inputs, items), plain(config, items)(inputs))
    assert searches[0] is searches[1] is not searches[2]
    before = asked(engine, catalogues[1], rng, 2)
    same(engine.compute(before, catalogues[1]), plain(config, catalogues[1])(before))
    engine.close()
    again = asked(engine, catalogues[0], rng, 2)
    same(engine.compute(again, catalogues[0]), plain(config, catalogues[0])(again))


def test_threads_that_search_two_catalogues_at_once_never_see_half_of_one(rng: np.random.Generator) -> None:
    config, catalogues = MODELS["codes"], [catalogue(items) for items in (ITEMS, ITEMS + 30)]
    engine = engine_of(config)
    batches = [(items, asked(engine, items, rng, 3)) for items in catalogues * 12]
    expected = {len(items): plain(config, items) for items in catalogues}
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda batch: engine.compute(batch[1], batch[0]), batches))
    for (items, inputs), outputs in zip(batches, found, strict=True):
        same(outputs, expected[len(items)](inputs))


def test_a_catalogue_without_item_vectors_is_searched_too(rng: np.random.Generator) -> None:
    config, items = MODELS["codes"], replace(catalogue(), vectors=None)
    engine = engine_of(config, replace(PLAN, candidates=0))
    inputs = asked(engine, items, rng, 3, candidates=0)
    same(engine.compute(inputs, items), plain(config, items)(inputs))
    with pytest.raises(ValueError, match="item vectors"):
        engine_of(MODELS["vectors"]).bind(items)


def test_a_catalogue_that_grows_large_is_captured_again_and_takes_candidates_from_histories(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = MODELS["codes"]
    engine, items = engine_of(config), catalogue()
    engine.bind(items)
    small = engine._bound.get(items).search
    monkeypatch.setattr("model_store.search.fusion.DENSE_ITEMS", ITEMS - 1)
    grown = replace(items)
    engine.bind(grown)
    assert engine._bound.get(grown).search is not small
    inputs = asked(engine, grown, rng, 2)
    assert PLAN.find(inputs) is not None
    same(engine.compute(inputs, grown), plain(config, grown, scores_all=False)(inputs))
    assert (engine.compute(inputs, grown).leaves[:, WIDTH:] >= 0).any()


def test_the_search_needs_nothing_of_the_host_once_it_runs(config: ModelConfig) -> None:
    # "meta" tensors have no values: an operation whose shape or course depends on one fails on them
    given = [tensor.to("meta") for tensor in random_requests(np.random.default_rng(0), config, candidates=5).tensors()]
    search = BeamSearch(random_recommender(config, 0).to("meta"))
    with torch.no_grad(), Noted() as noted:
        search(*given)
    assert not noted.names & FROM_THE_HOST
    written = [step[3] for step in noted.steps]
    devices = {each.device.type for out in written for each in (out if isinstance(out, tuple | list) else [out])}
    assert devices == {"meta"}


def test_bf16_answers_nearly_like_fp32(config: ModelConfig, rng: np.random.Generator) -> None:
    items, network = catalogue(), random_recommender(config, seed=3)
    for parameter in network.parameters():
        parameter.data.mul_(0.3)  # scores of a trained model's size
    exact, reduced = (TorchEngine(weights(network), config, "cpu", PLAN, kind) for kind in ("fp32", "bf16"))
    assert reduced.reduced_precision
    assert not exact.reduced_precision
    inputs = asked(exact, items, rng, 8, rules=1, excluded=0)
    ours, theirs = (engine.compute(inputs, items) for engine in (reduced, exact))
    assert ours.log_prob.dtype == np.float32
    shared = off = 0.0
    for mine, other in zip(zip(*ours[:3], strict=True), zip(*theirs[:3], strict=True), strict=True):
        scores = [dict(zip(leaves.tolist(), log_prob.tolist(), strict=True)) for leaves, log_prob, _ in (mine, other)]
        both = (scores[0].keys() & scores[1].keys()) - {-1}
        shared += len(both) / len(scores[1].keys() - {-1})
        off = max(off, *(abs(scores[0][leaf] - scores[1][leaf]) for leaf in both))
    assert 0 < off < 0.1
    assert shared / 8 > 0.9


@pytest.mark.gpu
def test_on_a_gpu_replayed_graphs_answer_as_the_plain_search_on_a_cpu(
    config: ModelConfig, rng: np.random.Generator
) -> None:
    given, catalogues = weights(random_recommender(config, seed=3)), [catalogue(items) for items in (ITEMS, 470)]
    engine = TorchEngine(given, config, "cuda", PLAN)
    batches = [(items, asked(engine, items, rng, count)) for count in (8, 1, 5, 9, 3) for items in catalogues]
    with ThreadPoolExecutor(engine.searches) as threads:
        found = list(threads.map(lambda batch: engine.compute(batch[1], batch[0]), batches))
    for (items, inputs), outputs in zip(batches, found, strict=True):
        same(outputs, plain(config, items)(inputs), atol=1e-4)


def test_headroom_renumbers_nodes_and_masks(rng: np.random.Generator) -> None:
    trie = catalogue().trie
    layout = PaddedLayout.with_headroom(trie)
    assert layout.nodes[0] == 8  # there are no more codes
    assert layout.fits(trie)
    assert not layout.fits(catalogue(470).trie)
    ids = np.array([[-1, 0, trie.node_offset[1]], [trie.node_offset[2] - 1, trie.node_offset[2], trie.nodes - 1]])
    renumbered = layout.renumber_nodes(trie, ids)
    assert renumbered[0].tolist() == [-1, 0, layout.offset[1]]
    assert renumbered[1, 1] == layout.offset[2]
    assert (renumbered - ids)[1, 0] == layout.offset[1] - trie.node_offset[1]
    mask = trie.mask(rng.random(trie.items) < 0.5)
    [bits] = layout.renumber_masks(trie, [mask.bits])
    is_open = np.unpackbits(bits, count=layout.offset[-1], bitorder="little").astype(np.bool_)
    before = np.unpackbits(mask.bits, count=trie.nodes, bitorder="little").astype(np.bool_)
    everywhere = layout.renumber_nodes(trie, np.arange(trie.nodes))
    np.testing.assert_array_equal(is_open[everywhere], before)
    assert is_open.sum() == before.sum()


def test_a_plan_covers_every_usual_batch_and_counts_its_captures() -> None:
    assert batch_sizes(1) == (1,)
    assert batch_sizes(32) == (1, 8, 32)
    assert batch_sizes(200) == (1, 8, 32, 64, 128, 200)
    assert history_lengths(50) == (8, 16, 24, 32, 50)
    assert history_lengths(20) == (8, 16, 20)
    plan = CapturePlan(batch_sizes(256), history_lengths(50), 20, 20)
    assert len(plan.buckets) == 30
    assert plan.largest == (256, 50, 0)
    assert replace(plan, additions=640).largest.scores == 256 * 640


def test_a_processor_calls_the_search_as_it_is() -> None:
    assert isinstance(create_runner(torch.device("cpu")), EagerRunner)
