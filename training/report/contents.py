"""Contents of a report, read from a finished run. Charts are pure functions of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_store.bundle.parts import CODE_NAMES
from model_store.catalogue.code_names import CodeNames
from training.artefacts import BUNDLE
from training.code_names.naming import name_prefixes
from training.code_names.words import item_texts
from training.pipeline import Pipeline
from training.report.examples import Example, find_examples
from training.run_evaluation import Evaluation
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
    names: CodeNames  # of prefixes
    has_texts: bool  # whether any item has a title, a category or a text attribute
    labels: Sequence[str]  # [N], titles, or ids of items without title
    item_popularity: Int64Array  # [N], training interactions
    data_notes: Sequence[str]  # where the data came from and what was left out
    examples: Sequence[Example]


def gather(pipeline: Pipeline, ranks: UserRanks, names: CodeNames | None = None) -> Contents:
    """Read a finished run; missing stages are run first.

    Args:
        pipeline: The run.
        ranks: Its ranks of test users' targets.
        names: Names of code prefixes, if they are known already.
    """
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
        names=_names(pipeline) if names is None else names,
        has_texts=len(item_texts(data.titles, data.categories, data.attributes)) > 0,
        labels=[title or item_id for title, item_id in zip(data.titles, data.item_ids, strict=True)],
        item_popularity=popularity,
        data_notes=data.notes,
        examples=find_examples(pipeline),
    )


def _names(pipeline: Pipeline) -> CodeNames:
    """Return the names in the run's bundle, or those of the trained items before there is one."""
    run = pipeline.run
    if all(run.has(f"{BUNDLE}/{name}") for name in (CODE_NAMES, "golden.json")):
        return CodeNames.from_parquet((run.path / BUNDLE / CODE_NAMES).read_bytes())

    data = pipeline.dataset
    return name_prefixes(pipeline.learner.assignment.codes, data.titles, data.categories, data.attributes)


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
