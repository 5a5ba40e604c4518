"""Goldens of a bundle: histories with torch's answers, which every exported search must reproduce."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime

from model_store.bundle.golden import Answer, Golden
from model_store.bundle.onnx_session import open_session
from model_store.catalogue.catalogue import Catalogue
from model_store.network.bound_search import BoundSearch
from model_store.network.search import BeamSearch
from model_store.search.fusion import Fusion, best, scores, scores_all_items
from model_store.search.history_encoding import encode_histories
from model_store.search.interface import (
    BY_REQUEST,
    POOL,
    SearchInputs,
    SearchOutputs,
    catalogue_input_names,
    catalogue_inputs,
    graph_input_names,
    pool_vectors,
    search_inputs,
)
from model_store.search.ranker import Ranker, corrected
from training.pipeline import Pipeline

GOLDENS = 24
GOLDEN_ITEMS = 10


class GoldenHistories:
    """Histories of test users, the same for every run with the same seed."""

    def __init__(self, pipeline: Pipeline, catalogue: Catalogue) -> None:
        split = pipeline.dataset.test()
        model = pipeline.model
        self._pipeline = pipeline
        self._catalogue = catalogue
        self.fusion = Fusion.model_validate(pipeline.evaluate().fusion)

        chosen = np.random.default_rng(pipeline.config.seed).permutation(len(split.histories))[:GOLDENS]
        self._histories = [split.histories[row][-model.recommender.max_history :] for row in chosen]
        encoded = encode_histories(self._histories, catalogue.trie.item_leaf, model.recommender.max_history)
        self._inputs = search_inputs(
            encoded,
            catalogue.trie,
            model.beam_width,
            candidates=self.fusion.candidates,
            additions=self.fusion.additions(pipeline.neighbours, encoded, catalogue.trie, catalogue.resemblances),
        )

    def goldens(self) -> list[Golden]:
        """Return the histories with torch's fused answers."""
        catalogue = self._catalogue
        search = BoundSearch(BeamSearch(self._pipeline.learner.recommender.eval()), catalogue.trie, catalogue.vectors)
        answers = self._rank(search(self._inputs), self._inputs)

        return [
            Golden(
                history=tuple(catalogue.item_ids[row] for row in history),
                items=tuple(answer.items),
                score=tuple(answer.score),
                log_prob=tuple(answer.log_prob),
            )
            for history, answer in zip(self._histories, answers, strict=True)
        ]

    def answers(self, graph: bytes) -> Sequence[Answer]:
        """Return the answers of ONNX Runtime with an exported search, all histories in one batch."""
        return self._ask(self._open(graph), slice(None))

    def answers_one_by_one(self, graph: bytes) -> Sequence[Answer]:
        """Return the same answers with each history in a batch of its own, which makes a difference with 8 bits."""
        session = self._open(graph)
        return [each for at in range(len(self._histories)) for each in self._ask(session, slice(at, at + 1))]

    def _open(self, graph: bytes) -> onnxruntime.InferenceSession:
        return open_search(graph, self._catalogue.trie.levels, threads=0)

    def _ask(self, session: onnxruntime.InferenceSession, chosen: slice) -> Sequence[Answer]:
        inputs = self._inputs._replace(**{name: getattr(self._inputs, name)[chosen] for name in BY_REQUEST})
        width = self._pipeline.model.tokenizer.embedding_dim
        feed = inputs._asdict() | catalogue_feed(self._catalogue, width, len(inputs.candidates))
        return self._rank(SearchOutputs(*session.run(None, feed)), inputs)

    def _rank(self, outputs: SearchOutputs, inputs: SearchInputs) -> Sequence[Answer]:
        return rank_answers(outputs, inputs, self._catalogue, self.fusion, self._pipeline.ranker, GOLDEN_ITEMS)


def open_search(graph: bytes, levels: int, threads: int) -> onnxruntime.InferenceSession:
    """Open an exported search as the service does: the options decide how 8-bit products are computed."""
    return open_session("search", graph, graph_input_names(levels), SearchOutputs._fields, threads=threads)


def catalogue_feed(catalogue: Catalogue, width: int, candidates: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return the inputs of an exported search that do not change with the request, by name.

    Args:
        catalogue: The catalogue to search.
        width: d_s.
        candidates: n, dense candidates that join the beams.
    """
    known = catalogue_inputs(catalogue.trie, catalogue.vectors, width)
    has_rows = candidates > 0 and scores_all_items(len(catalogue))
    pool = pool_vectors(catalogue.trie, catalogue.vectors, width, has_rows)
    return dict(zip([*catalogue_input_names(catalogue.trie.levels), POOL], [*known, pool], strict=True))


def rank_answers(
    outputs: SearchOutputs, inputs: SearchInputs, catalogue: Catalogue, fusion: Fusion, ranker: Ranker | None, k: int
) -> list[Answer]:
    """Return the k best fused answers to each request, as the service ranks them."""
    outputs = corrected(ranker, inputs, outputs, catalogue.trie, catalogue.vectors, catalogue.resemblances)
    rows = catalogue.trie.leaf_item[outputs.leaves]
    answers = []
    for found, log_prob, dense in zip(rows, outputs.log_prob, outputs.dense, strict=True):
        kept = best(log_prob, dense, fusion.weight, k)
        item_ids = tuple(catalogue.item_ids[row] for row in found[kept].tolist())
        score = scores(log_prob[kept], dense[kept], fusion.weight)
        answers.append(Answer(item_ids, tuple(score.tolist()), tuple(log_prob[kept].tolist())))
    return answers
