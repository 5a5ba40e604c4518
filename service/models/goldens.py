"""Replay of a bundle's goldens: an engine must answer them as the exporter did before it may serve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model_store.bundle.golden import Answer, Golden, compare
from model_store.errors import BundleRefused
from service.engines.base import SearchRequest
from service.models.loaded_model import LoadedModel


def replay_goldens(model: LoadedModel, goldens: Sequence[Golden]) -> None:
    """Ask the engine all goldens, first one by one, then in one batch, and compare its answers. This warms it up, too.

    The answers of an engine without a model (``checks_goldens`` is false) are not compared.

    Raises:
        BundleRefused: The answers differ, or a golden names an item that the catalogue lacks.
    """
    requests = [_to_request(model, golden) for golden in goldens]
    one_by_one = [answer for request in requests for answer in _search(model, [request])]
    in_one_batch = _search(model, requests)

    if not model.engine.checks_goldens:
        return
    for answers in (one_by_one, in_one_batch):
        compare(goldens, answers, reduced_precision=model.engine.reduced_precision)


def _to_request(model: LoadedModel, golden: Golden) -> SearchRequest:
    catalogue = model.catalogue
    if any(item_id not in catalogue.row_of for item_id in golden.history):
        raise BundleRefused("golden.json: a history names an item that the catalogue lacks", "export the bundle again")

    beam_width = model.manifest.config.beam_width
    return SearchRequest(
        history=np.array([catalogue.row_of[item_id] for item_id in golden.history], dtype=np.int64),
        k=len(golden.items),
        beam_width=beam_width,
        rule=catalogue.trie.everything,
        excluded=np.empty(0, dtype=np.int64),
        catalogue=catalogue,
        fusion=model.fusion(beam_width),
        neighbours=model.neighbours,
        ranker=model.ranker,
    )


def _search(model: LoadedModel, requests: Sequence[SearchRequest]) -> list[Answer]:
    catalogue = model.catalogue
    return [
        Answer([catalogue.item_ids[row] for row in found.rows.tolist()], found.score.tolist(), found.log_prob.tolist())
        for found in model.engine.answer(requests, catalogue)
    ]
