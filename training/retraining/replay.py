"""Replay of goldens through an exported search, and a short benchmark of its speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.bundle.golden import Answer, compare
from model_store.catalogue.catalogue import Catalogue
from model_store.errors import GraphRefused
from model_store.search.history_encoding import encode_histories
from model_store.search.interface import SearchInputs, SearchOutputs, search_inputs
from training.export.goldens import GOLDEN_ITEMS, catalogue_feed, open_search, rank_answers
from training.retraining.served_model import ServedModel

ROUNDS = 5
"""Times that each history is searched for; the first round warms up and does not count."""


class Replay(NamedTuple):
    """Result of a replay: the number of goldens, and the first difference in words, empty if there is none."""

    goldens: int
    problem: str = ""


class _Search:
    """The exported search of a model on its catalogue, on one thread."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._session = open_search(model.search(), model.catalogue.trie.levels, threads=1)
        self._fixed = catalogue_feed(model.catalogue, model.config.tokenizer.embedding_dim, model.fusion.candidates)

    def inputs(self, histories: Sequence[npt.NDArray[np.integer]]) -> SearchInputs:
        """Return the inputs for histories, given as rows of the catalogue."""
        model = self._model
        trie = model.catalogue.trie
        encoded = encode_histories(histories, trie.item_leaf, model.config.recommender.max_history)
        return search_inputs(
            encoded,
            trie,
            model.config.beam_width,
            candidates=model.fusion.candidates,
            additions=model.fusion.additions(model.neighbours, encoded, trie, model.catalogue.resemblances),
        )

    def run(self, inputs: SearchInputs) -> SearchOutputs:
        """Search a batch."""
        return SearchOutputs(*self._session.run(None, inputs._asdict() | self._fixed))

    def answers(self, inputs: SearchInputs, k: int) -> Sequence[Answer]:
        """Search a batch, and rank what is found as the service does."""
        model = self._model
        return rank_answers(self.run(inputs), inputs, model.catalogue, model.fusion, model.ranker, k)


def replay_goldens(model: ServedModel) -> Replay:
    """Ask an exported search for its goldens, as whoever loads the bundle will."""
    goldens = model.goldens()
    search = _Search(model)
    inputs = search.inputs([model.catalogue.rows(golden.history) for golden in goldens])
    answers = search.answers(inputs, len(goldens[0].items))
    try:
        compare(goldens, answers)
    except GraphRefused as difference:
        return Replay(len(goldens), str(difference))
    return Replay(len(goldens))


def time_searches(models: Sequence[ServedModel]) -> list[float]:
    """Return each model's median time for the search of one history in milliseconds; 0 if it knows none of them.

    All search for the histories of the first model's goldens, by turns and on one thread, so that whatever else the
    machine does slows all of them down.
    """
    histories = [golden.history for golden in models[0].goldens()]
    searches = [_Search(model) for model in models]
    inputs = [
        [search.inputs([rows]) for rows in _known(model.catalogue, histories)]
        for model, search in zip(models, searches, strict=True)
    ]

    seconds: list[list[float]] = [[] for _ in models]
    for number in range(ROUNDS):
        for at in range(len(histories)):
            for search, own, spent in zip(searches, inputs, seconds, strict=True):
                taken = [_time(search, own[at])] if at < len(own) else []
                spent += taken if number else []
    return [float(np.median(spent)) * 1e3 if spent else 0.0 for spent in seconds]


def _known(catalogue: Catalogue, histories: Sequence[Sequence[str]]) -> list[npt.NDArray[np.integer]]:
    """Return the rows of histories, without unknown items and histories that have no others."""
    found = [catalogue.rows(history) for history in histories]
    return [rows for rows in found if len(rows)]


def _time(search: _Search, inputs: SearchInputs) -> float:
    started = time.perf_counter()
    search.answers(inputs, GOLDEN_ITEMS)
    return time.perf_counter() - started
