"""New items in an engine: lent scores and words reach the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model_store.catalogue.resemblances import Resemblances
from model_store.search.fusion import Fusion
from model_store.search.history_encoding import encode_histories
from service.engines.base import SearchRequest
from service.engines.torch_engine import TorchEngine
from tests.service.engines.test_engines import (
    CATALOGUE,
    CONFIG,
    NEIGHBOURLY,
    NOTHING,
    RANKED,
    RANKER_OF_IT,
    weights_of,
)
from tests.support.random_worlds import random_neighbours, random_recommender
from tests.support.resemblances import random_records


@pytest.mark.parametrize("fusion", [NEIGHBOURLY, RANKED], ids=["neighbourly", "ranked"])
def test_new_items_are_answered_by_what_they_resemble(fusion: Fusion) -> None:
    known = Resemblances.of(50, random_records(np.random.default_rng(4), 50, 10))
    trained = replace(CATALOGUE, trained=50)
    engine = TorchEngine(weights_of(random_recommender(CONFIG, seed=3)), CONFIG, "cpu")
    memory = random_neighbours(np.random.default_rng(8), 50)
    scores = {}
    for name, catalogue in (("blank", trained), ("lent", replace(trained, resemblances=known))):
        request = SearchRequest(
            np.array([4, 8, 15]),
            60,
            CONFIG.beam_width,
            catalogue.trie.everything,
            NOTHING,
            catalogue,
            None,
            fusion,
            memory,
            RANKER_OF_IT if fusion == RANKED else None,
        )
        [found] = engine.answer([request], catalogue)
        scores[name] = dict(zip(found.rows.tolist(), found.score.tolist(), strict=True))

    encoded = encode_histories([np.array([4, 8, 15])], trained.trie.item_leaf, 50)
    added = memory.additions(encoded, trained.trie, fusion.neighbours * fusion.weight, known)
    lent = dict(zip(trained.trie.leaf_item[added.leaves[0]].tolist(), added.values[0].tolist(), strict=True))
    both = [row for row in scores["lent"] if row >= 50 and row in scores["blank"]]
    gained = {row: scores["lent"][row] - scores["blank"][row] for row in both}
    assert any(gained.values())
    if fusion == NEIGHBOURLY:
        assert gained == pytest.approx({row: lent.get(row, 0.0) for row in both}, abs=1e-4)
    else:  # the ranker reads words as well, and neighbours once more
        assert gained != pytest.approx({row: lent.get(row, 0.0) for row in both}, abs=1e-4)
