"""Parts of scores: each is what the score gains by it, and together they are the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from model_store.search.fusion import Fusion
from model_store.search.ranker import CandidateFeatures
from service.engines.base import SearchRequest, SearchResult
from service.engines.score_parts import ScoreParts
from service.engines.torch_engine import TorchEngine
from tests.support.bundles import small_catalogue
from tests.support.random_worlds import (
    random_item_words,
    random_neighbours,
    random_ranker,
    random_recommender,
    random_vectors,
    small_config,
)

CONFIG = small_config(layers=1)
ITEMS = 60
TRAINED = 50
PLAIN = Fusion(weight=30.0, candidates=CONFIG.beam_width)
NEIGHBOURLY = PLAIN.model_copy(update={"neighbours": 0.5})


@pytest.fixture
def asked() -> SearchRequest:
    """Every item is answered, by all parts of a score that a search knows."""
    rng = np.random.default_rng(4)
    coded = small_catalogue(items=ITEMS, codebook_size=CONFIG.tokenizer.codebook_size)
    catalogue = replace(coded, vectors=random_vectors(rng, CONFIG, ITEMS), trained=TRAINED)
    reader = CandidateFeatures(np.linspace(0, 5, TRAINED, dtype=np.float32), 0, random_item_words(rng, TRAINED))
    return SearchRequest(
        history=np.array([3, 9, 27]),
        k=ITEMS,
        beam_width=100,
        rule=catalogue.trie.everything,
        excluded=np.empty(0, dtype=np.int64),
        catalogue=catalogue,
        fusion=NEIGHBOURLY,
        neighbours=random_neighbours(rng, ITEMS),
        ranker=random_ranker(rng, reader),
        fresh_boost=0.7,
        steer=((tuple(catalogue.codes[5, :1].tolist()), 1.5),),
        with_parts=True,
    )


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    network = random_recommender(CONFIG, seed=3)
    return TorchEngine({f"recommender.{name}": value.numpy() for name, value in network.state_dict().items()}, CONFIG)


def parts_of(found: SearchResult) -> ScoreParts:
    assert found.parts is not None
    return found.parts


def scores_by_row(engine: TorchEngine, asked: SearchRequest) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    [found] = engine.answer([asked], asked.catalogue)
    assert len(found.rows) == ITEMS
    scores = np.empty(ITEMS)
    scores[found.rows] = found.score
    return scores


def test_each_part_is_what_the_score_has_more_with_it(engine: TorchEngine, asked: SearchRequest) -> None:
    [found] = engine.answer([asked], asked.catalogue)
    parts = parts_of(found)
    np.testing.assert_allclose(np.sum(parts, axis=0), found.score, atol=1e-4)

    steps = [
        replace(asked, steer=(), fresh_boost=0.0, ranker=None, fusion=Fusion()),
        replace(asked, steer=(), fresh_boost=0.0, ranker=None, fusion=PLAIN),
        replace(asked, steer=(), fresh_boost=0.0, ranker=None),
        replace(asked, steer=(), fresh_boost=0.0),
        replace(asked, steer=()),
        asked,
    ]
    scores = np.stack([scores_by_row(engine, step) for step in steps])[:, found.rows]
    expected = [scores[0], *np.diff(scores, axis=0), np.zeros(ITEMS)]
    for name, part, told in zip(ScoreParts._fields, parts, expected, strict=True):
        np.testing.assert_allclose(part, told, atol=1e-4, err_msg=name)
        assert np.any(np.abs(part) > 1e-3) == (name != "boosts"), name


@pytest.mark.parametrize("excluded", [(), (1, 4)])
def test_only_who_asks_is_told(engine: TorchEngine, asked: SearchRequest, excluded: Sequence[int]) -> None:
    other = replace(asked, history=np.array([8, 2]), excluded=np.array(excluded, dtype=np.int64), k=5)
    silent, told = engine.answer([replace(asked, with_parts=False), other], asked.catalogue)
    assert silent.parts is None
    [alone] = engine.answer([other], asked.catalogue)
    assert told.rows.tolist() == alone.rows.tolist()
    np.testing.assert_allclose(parts_of(told), parts_of(alone), atol=1e-4)


def test_parts_follow_the_answers_that_are_selected(engine: TorchEngine, asked: SearchRequest) -> None:
    [found] = engine.answer([asked], asked.catalogue)
    some = found.select(np.array([4, 0]))
    assert parts_of(some).cosine.tolist() == parts_of(found).cosine[[4, 0]].tolist()
    joined = ScoreParts.join([parts_of(some), parts_of(found.first(3))])
    assert joined.codes.tolist() == parts_of(found).codes[[4, 0, 0, 1, 2]].tolist()
