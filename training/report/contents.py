"""Contents of a report, read from a finished run. Charts are pure functions of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.pipeline import Evaluation, Pipeline
from training.report.examples import Example, find_examples
from training.user_ranks import UserRanks

Int64Array = npt.NDArray[np.int64]

HISTORIES = {"generative": "finetune.json", "tiger": "tiger_finetune.json", "sasrec": "sasrec.json"}
"""File with each model's learning curve, by row of the evaluation."""


@dataclass(frozen=True)
class Curve:
    """Learning curve of a model, one entry per epoch.

    Attributes:
        epochs: Losses and metrics by name; not every epoch has all.
        finetune_from: First epoch of fine-tuning; ``None`` if there is no such stage.
    """

    epochs: list[dict[str, float]]
    finetune_from: int | None = None

    def points(self, name: str) -> tuple[list[int], list[float]]:
        """Return the epochs, counted from 1, that recorded a value, and the values."""
        found = [(epoch, values[name]) for epoch, values in enumerate(self.epochs, start=1) if name in values]
        return [epoch for epoch, _ in found], [value for _, value in found]

    @property
    def tokenizer_epochs(self) -> list[int]:
        """Epochs, counted from 1, that trained the tokenizer."""
        return [epoch for epoch, values in enumerate(self.epochs, start=1) if values.get("tokenizer_phase")]


@dataclass(frozen=True)
class Contents:
    """Data of a finished run that a report shows. n test users, N items."""

    data: str  # name of the data set
    counts: dict[str, int]  # users, items, interactions
    evaluation: Evaluation
    curves: dict[str, Curve]  # by row of the evaluation
    ranks: UserRanks
    target_popularity: Int64Array  # [n], training interactions of each test target
    history_length: Int64Array  # [n], items before each test target
    codes: npt.NDArray[np.int16]  # [N, L]
    levels: int  # levels of the tokenizer: L, or L - 1 if the last code only distinguishes collided items
    codebook_size: int
    labels: Sequence[str]  # [N], titles, or ids of items without title
    item_popularity: Int64Array  # [N], training interactions
    data_notes: Sequence[str]  # where the data came from and what was left out
    examples: Sequence[Example]


def gather(pipeline: Pipeline, ranks: UserRanks) -> Contents:
    """Read a finished run; missing stages are run first."""
    evaluation = pipeline.evaluate()
    data = pipeline.dataset
    learner = pipeline.learner
    test = data.test()
    popularity = data.popularity()

    return Contents(
        data=data.name,
        counts={"users": data.users, "items": data.n_items, "interactions": data.interactions},
        evaluation=evaluation,
        curves=_curves(pipeline),
        ranks=ranks,
        target_popularity=popularity[test.targets],
        history_length=np.array([len(history) for history in test.histories], dtype=np.int64),
        codes=learner.assignment.codes,
        levels=pipeline.model.tokenizer.levels,
        codebook_size=pipeline.model.tokenizer.codebook_size,
        labels=[title or item_id for title, item_id in zip(data.titles, data.item_ids, strict=True)],
        item_popularity=popularity,
        data_notes=data.notes,
        examples=find_examples(pipeline),
    )


def _curves(pipeline: Pipeline) -> dict[str, Curve]:
    run = pipeline.run
    found = {}
    for row, name in HISTORIES.items():
        if run.has(name):
            joint = name.replace("finetune", "joint")
            is_staged = joint != name and run.has(joint)
            start = len(run.read_json(joint)["history"]) + 1 if is_staged else None
            found[row] = Curve(run.read_json(name)["history"], start)
    return found
