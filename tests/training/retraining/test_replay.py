"""Replay of goldens and the time of a search, on a real exported search of an untrained network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model_store.bundle.golden import GOLDEN, goldens_from_json, goldens_to_json
from model_store.search.fusion import GENERATIVE_ALONE
from tests.support.bundles import small_catalogue, small_goldens
from tests.support.random_worlds import random_recommender, random_vectors, small_config
from training.export.onnx_export import export_search
from training.retraining.replay import _Search, replay_goldens, time_searches
from training.retraining.served_model import SEARCH, ServedModel

CONFIG = small_config(layers=1).model_copy(update={"beam_width": 20})
"""The shape of other tests' networks, with whose graph it is traced."""


@pytest.fixture(scope="module")
def model() -> ServedModel:
    recommender = random_recommender(CONFIG, 3)
    catalogue = small_catalogue(codebook_size=CONFIG.tokenizer.codebook_size)
    vectors = random_vectors(np.random.default_rng(1), CONFIG, len(catalogue))
    files = {SEARCH: export_search(recommender), GOLDEN: goldens_to_json(small_goldens(catalogue))}
    return ServedModel(
        config=CONFIG,
        fusion=GENERATIVE_ALONE,
        catalogue=replace(catalogue, vectors=vectors),
        trained=len(catalogue),
        recommender=recommender,
        neighbours=None,
        ranker=None,
        read=files.__getitem__,
        size=1,
        collision_rate=None,
    )


def with_true_goldens(model: ServedModel) -> ServedModel:
    """Return the model with goldens that its own search answers."""
    goldens = model.goldens()
    search = _Search(model)
    outputs = search.run(search.inputs([model.catalogue.rows(golden.history) for golden in goldens]))
    ids = np.array(model.catalogue.item_ids)[model.catalogue.trie.leaf_item[outputs.leaves]]
    true = [
        golden.model_copy(
            update={
                "items": tuple(names[:5].tolist()),
                "score": tuple(log_prob[:5].tolist()),
                "log_prob": tuple(log_prob[:5].tolist()),
            }
        )
        for golden, names, log_prob in zip(goldens, ids, outputs.log_prob, strict=True)
    ]
    files = {SEARCH: model.search(), GOLDEN: goldens_to_json(true)}
    return replace(model, read=files.__getitem__)


def test_goldens_are_replayed_and_a_difference_is_named(model: ServedModel) -> None:
    right = with_true_goldens(model)
    assert replay_goldens(right) == (3, "")

    *others, last = goldens_from_json(right.read(GOLDEN))
    moved = last.model_copy(update={"items": (*last.items[1:], last.items[0])})
    files = {SEARCH: model.search(), GOLDEN: goldens_to_json([*others, moved])}
    replay = replay_goldens(replace(model, read=files.__getitem__))
    assert replay.goldens == 3
    assert replay.problem.startswith("golden.json: golden 2: rank 1")


def test_each_model_has_a_time_and_one_that_knows_nothing_has_none(model: ServedModel) -> None:
    stranger = replace(model, catalogue=replace(model.catalogue, item_ids=[f"other-{row}" for row in range(40)]))
    first, second = time_searches([model, stranger])
    assert first > 0
    assert second == 0
