"""Examples of a report: a few test users, what they had, what they chose next, and what they are recommended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model_store.search.fusion import Fusion, scores_all_items
from training.evaluation.full_ranking import SearchedModel, sample_split, search_split
from training.pipeline import Pipeline

USERS = 5
SHOWN_HISTORY = 8
SHOWN_ANSWERS = 5


@dataclass(frozen=True)
class Example:
    """One test user. Items are rows; users have no names here, as reports travel."""

    history: Sequence[int]  # newest last, at most SHOWN_HISTORY
    earlier: int  # items of the history that are not shown
    chosen: int
    answers: Sequence[int]  # best first, at most SHOWN_ANSWERS; items of the history are left out


def find_examples(pipeline: Pipeline) -> list[Example]:
    """Ask the model of a finished run for some test users, drawn by the run's seed, as the service would."""
    learner = pipeline.learner
    config = pipeline.config
    split = sample_split(pipeline.dataset.test(), USERS, config.seed)
    fusion = Fusion.model_validate(pipeline.evaluate().fusion)
    model = SearchedModel(
        learner.recommender,
        learner.assignment.codes,
        config.model.beam_width,
        learner.vectors,
        fusion.candidates,
        pipeline.neighbours,
        fusion.neighbours,
        pipeline.ranker,
        scores_all_items(pipeline.served_items),
    )
    found = search_split(model, split, listed=np.arange(len(split.targets)))
    answers = found.top_items(fusion, SHOWN_ANSWERS)
    return [
        Example(
            history=history[-SHOWN_HISTORY:].tolist(),
            earlier=max(0, len(history) - SHOWN_HISTORY),
            chosen=int(target),
            answers=[row for row in best.tolist() if row >= 0],
        )
        for history, target, best in zip(split.histories, split.targets, answers, strict=True)
    ]
