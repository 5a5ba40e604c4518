"""Ablation: the contribution of each part of ETEGRec over several seeds, the paper's Table 4.

:mod:`training.studies.ablation_rows` defines the rows and their equal budget.

All rows of a seed share prepared data, SASRec and the pretrained tokenizer. Each row is an ordinary run folder,
``OUT/seed-S/ROW``, which other commands can open. A finished row is not trained again.

**Unseen users** are left out of training. They are drawn anew for each seed, and are the same for all rows of a seed.
So the same trainings give two results: ``test`` for users seen in training, ``unseen`` for those left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from model_store.errors import CheckpointError
from model_store.search.fusion import Fusion
from training.artefacts import CODES, CONTENT, EVALUATION, FINETUNE, SASREC, TOKENIZER, UNSEEN
from training.config import TrainingConfig
from training.data.dataset import Dataset, Split
from training.data.prepare import open_or_prepare
from training.data.remote import redacted
from training.data.storage import is_prepared, load_dataset, save_dataset
from training.evaluation.full_ranking import SearchedModel, search_split
from training.loop.progress import Progress
from training.pipeline import Pipeline
from training.run_evaluation import is_of_this_release
from training.run_folder import RunFolder
from training.studies.ablation_report import AblationReport, Budget, Metrics, Outcome, summarise
from training.studies.ablation_rows import DEFINITION, FULL, Row, joint_epochs, row_config
from training.studies.held_out_users import leave_out

MODELS = ("generative", "fused")
"""Answers by which rows are compared. Without PSA nothing trains the dense head that ``fused`` uses."""

SETTINGS = "ablation.json"
"""File of the settings that all rows of a folder share; rows and seeds may be added later."""


class SeedData(NamedTuple):
    """Data on which all rows of a seed are trained and tested."""

    folder: Path  # a prepared data set
    dataset: Dataset  # users seen in training
    unseen: Split | None


class Ablation:
    """Runs of all rows and seeds in one folder; results that exist are reused."""

    def __init__(
        self,
        out: Path,
        config: TrainingConfig,
        source: str,
        rows: Sequence[Row],
        seeds: int,
        unseen_share: float,
        progress: Progress,
        device: torch.device | str = "cpu",
    ) -> None:
        """Plan an ablation; nothing is read or trained yet.

        Args:
            out: Folder of the ablation, absolute or not.
            config: Configuration of the full method. Its seed is the first seed; the others follow it.
            source: Data, as for ``etegrec-train run``.
            rows: Rows to train, the full row first.
            seeds: Number of seeds.
            unseen_share: Share of users to leave out of training, or 0.
            progress: Display of the progress of rows and stages.
            device: Device to train on.

        Raises:
            ConfigError: The configuration is not that of the full method.
        """
        self.out = out.resolve()
        self.config = config
        self.source = source
        self.rows = list(rows)
        self.seeds = [config.seed + step for step in range(seeds)]
        self.unseen_share = unseen_share

        self.progress = progress
        self.device = device

        self.recommender_epochs = joint_epochs(config) + config.finetune.epochs
        self._seed_data: dict[int, SeedData] = {}

    def run(self) -> AblationReport:
        """Train and evaluate all rows that are not finished, one seed after the other.

        Raises:
            CheckpointError: The folder holds an ablation with other settings or data.
        """
        self._check_settings()
        self._require_readable_source()
        RunFolder(self.out, self.config).write_json(SETTINGS, self._settings)

        cells = [(seed, row) for seed in self.seeds for row in self.rows]
        for at, (seed, row) in enumerate(cells, start=1):
            state = ", finished before" if self._is_finished(seed, row) else ""
            self.progress.say(f"row {at} of {len(cells)}: {row.title}, seed {seed}{state}")
            self._finish(seed, row)
        return self.report()

    def report(self) -> AblationReport:
        """Return the report of all finished rows, without training.

        Raises:
            CheckpointError: The folder holds an ablation with other settings or data.
        """
        self._check_settings()
        finished = [(seed, row) for seed in self.seeds for row in self.rows if self._is_finished(seed, row)]
        data = [self.data(seed) for seed in sorted({seed for seed, _ in finished})]

        budget = Budget(
            DEFINITION,
            self.recommender_epochs,
            [sum(max(0, len(sequence) - 1) for sequence in one.dataset.training_sequences()) for one in data],
            [len(one.dataset.test().targets) for one in data],
            [0 if one.unseen is None else len(one.unseen.targets) for one in data],
        )
        titles = {row.key: row.title for row in self.rows}
        return summarise([self._outcome(seed, row) for seed, row in finished], titles, FULL.key, budget)

    def data(self, seed: int) -> SeedData:
        """Return the data of a seed; if no users are left out, it is the same for all seeds."""
        if seed not in self._seed_data:
            self._seed_data = {seed: self._leave_users_out(seed)}  # only one seed's data is kept in memory
        return self._seed_data[seed]

    def folder(self, seed: int, row: Row) -> Path:
        """Return the run folder of a row."""
        return self.out / f"seed-{seed}" / row.key

    @property
    def _settings(self) -> dict[str, Any]:
        source = redacted(self.source)
        return {"source": source, "unseen_users": self.unseen_share, "config": self.config.stored()}

    def _check_settings(self) -> None:
        folder = RunFolder(self.out, self.config)
        wanted = self._settings
        found = folder.read_json(SETTINGS) if folder.has(SETTINGS) else wanted
        if found != wanted:
            changed = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
            raise CheckpointError(
                f"{self.out} holds an ablation with another {' and another '.join(changed)}",
                "choose another --out, or remove that folder",
            )

    def _require_readable_source(self) -> None:
        """Read the source before settings are written: one that cannot be read must leave no settings behind."""
        _ = self._whole_data

    @cached_property
    def _whole_data(self) -> tuple[Path, Dataset]:
        """Folder and data set with all users."""
        own = self.out / "data"
        dataset = open_or_prepare(self.source, own, self.config.data, self.progress.say)
        return (Path(self.source).resolve() if is_prepared(Path(self.source)) else own), dataset

    def _leave_users_out(self, seed: int) -> SeedData:
        folder, dataset = self._whole_data
        if not self.unseen_share:
            return SeedData(folder, dataset, None)

        left = leave_out(dataset, self.unseen_share, seed)
        own = self.out / f"seed-{seed}" / "data"
        if not is_prepared(own) or load_dataset(own).fingerprint != left.dataset.fingerprint:
            save_dataset(left.dataset, own)
        return SeedData(own, left.dataset, left.unseen)

    def _finish(self, seed: int, row: Row) -> None:
        data = self.data(seed)
        run = RunFolder.create_or_resume(
            self.folder(seed, row), row_config(row, self.config, seed), str(data.folder.resolve())
        )
        pipeline = Pipeline(run, self.progress, self.device)
        _refuse_changed_data(pipeline)

        if row is not FULL:
            self._adopt_stages(seed, row, pipeline)
        pipeline.evaluate()
        if data.unseen is not None and not run.has(UNSEEN):
            run.write_json(UNSEEN, _evaluate_unseen(pipeline, data.unseen))

    def _adopt_stages(self, seed: int, row: Row, pipeline: Pipeline) -> None:
        """Take item vectors and the tokenizer, pretrained or final, from the full row."""
        full = RunFolder.open(self.folder(seed, FULL))
        tokenizer = full.read_tensors(TOKENIZER)

        if row.tokenizer == "final":
            prefix = "tokenizer."
            trained = full.read_tensors(FINETUNE)
            tokenizer = {key.removeprefix(prefix): trained[key] for key in trained if key.startswith(prefix)}
            tokenizer[CODES] = trained[CODES]

        pipeline.adopt(CONTENT, full.read_tensors(CONTENT))
        pipeline.adopt(SASREC, full.read_tensors(SASREC))
        pipeline.adopt(TOKENIZER, tokenizer)

    def _is_finished(self, seed: int, row: Row) -> bool:
        run = RunFolder(self.folder(seed, row), self.config)
        needed = [EVALUATION, FINETUNE] + ([UNSEEN] if self.unseen_share else [])
        return all(run.has(name) for name in needed) and is_of_this_release(run.read_json(EVALUATION))

    def _outcome(self, seed: int, row: Row) -> Outcome:
        run = RunFolder(self.folder(seed, row), self.config)
        history = run.read_json("finetune.json")["history"]
        found = run.read_json(EVALUATION)
        unseen = run.read_json(UNSEEN) if self.unseen_share else {}
        return Outcome(
            row.key,
            seed,
            sum("rec" in epoch for epoch in history),
            sum("sq" in epoch for epoch in history),
            *(_select_models(part) for part in (found["valid"], found["test"], unseen)),
        )


def _refuse_changed_data(pipeline: Pipeline) -> None:
    """Raise if the data changed since the run began, even if its row is finished: opening the data set checks it."""
    _ = pipeline.dataset


def _select_models(metrics: Metrics) -> Metrics:
    return {model: metrics[model] for model in MODELS if model in metrics}  # empty if there are no unseen users


def _evaluate_unseen(pipeline: Pipeline, unseen: Split) -> Metrics:
    learner = pipeline.learner
    fusion = Fusion(**pipeline.evaluate().fusion)  # fitted on validation users, which training has seen

    with pipeline.progress.track("Evaluating unseen users", 1) as bar:
        model = SearchedModel(
            learner.recommender,
            learner.assignment.codes,
            pipeline.config.model.beam_width,
            learner.vectors,
            fusion.candidates,
            pipeline.neighbours,
            fusion.neighbours,
            pipeline.ranker,
        )
        found = search_split(model, unseen)
        bar.advance(1)

    return {"generative": found.ranks().summary(), "fused": found.ranks(fusion).summary()}
