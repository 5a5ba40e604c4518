"""The paper's Table 4 (which part of ETEGRec gives what) over several seeds, and users that training never saw.

What the rows are, and what their equal budget is, says :mod:`training.studies.ablation_rows`.

All rows of a seed share prepared data, SASRec and the pretrained tokenizer, and each is an ordinary run folder,
``OUT/seed-S/ROW``, which the other commands can open. A finished row is not done again.

**Unseen users** leave training whole, drawn anew for each seed, and the same from all rows of a seed. So one set of
trainings answers both questions: ``test`` is of users seen in training, ``unseen`` of those left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from model_store.errors import CheckpointError
from model_store.search.fusion import Fusion
from training.config import TrainingConfig
from training.data.dataset import Dataset, Split
from training.data.prepare import open_or_prepare
from training.data.storage import is_prepared, load_dataset, save_dataset
from training.evaluation.full_ranking import search_split
from training.loop.progress import Progress
from training.pipeline import CODES, EVALUATION, UNSEEN, Pipeline
from training.run_folder import RunFolder
from training.studies.ablation_report import AblationReport, Budget, Metrics, Outcome, summarise
from training.studies.ablation_rows import DEFINITION, FULL, Row, joint_epochs, row_config
from training.studies.held_out_users import leave_out

MODELS = ("generative", "fused")
"""Answers of a run that rows are compared by. Without PSA nothing trains the dense head that ``fused`` leans on."""

SETTINGS = "ablation.json"
"""What all rows of a folder have in common; rows and number of seeds may grow."""


class SeedData(NamedTuple):
    """What all rows of a seed train and are tested on."""

    folder: Path  # a prepared data set
    dataset: Dataset  # users seen in training
    unseen: Split | None


class Ablation:
    """Rows times seeds in one folder. Everything that is there already is reused."""

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
            config: The full method. Its seed is the first of the seeds, which follow each other.
            source: Data, as for ``etegrec-train run``.
            rows: The full row first.
            seeds: How many.
            unseen_share: Of users left out of training, 0 for none.
            progress: Where rows and their stages show how far they are.
            device: Where to train.

        Raises:
            ConfigError: The configuration is not of the full method.
        """
        self.out, self.config, self.source, self.rows = out.resolve(), config, source, list(rows)
        self.seeds = [config.seed + step for step in range(seeds)]
        self.unseen_share, self.progress, self.device = unseen_share, progress, device
        self.recommender_epochs = joint_epochs(config) + config.finetune.epochs
        self._seed_data: dict[int, SeedData] = {}

    def run(self) -> AblationReport:
        """Train and evaluate what is missing, a seed at a time.

        Raises:
            CheckpointError: The folder holds an ablation of other settings or data.
        """
        self._check_settings()
        _ = self._everyone  # a source that cannot be read leaves no settings behind
        RunFolder(self.out, self.config).write_json(SETTINGS, self._settings)
        cells = [(seed, row) for seed in self.seeds for row in self.rows]
        for at, (seed, row) in enumerate(cells, start=1):
            state = ", finished before" if self._finished(seed, row) else ""
            self.progress.say(f"row {at} of {len(cells)}: {row.title}, seed {seed}{state}")
            self._finish(seed, row)
        return self.report()

    def report(self) -> AblationReport:
        """What is finished by now; trains nothing. Raises like :meth:`run`."""
        self._check_settings()
        finished = [(seed, row) for seed in self.seeds for row in self.rows if self._finished(seed, row)]
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
        """The data of a seed; without unseen users that of all seeds."""
        if seed not in self._seed_data:
            self._seed_data = {seed: self._divide(seed)}  # one at a time in memory
        return self._seed_data[seed]

    def folder(self, seed: int, row: Row) -> Path:
        """The run folder of a row."""
        return self.out / f"seed-{seed}" / row.key

    @property
    def _settings(self) -> dict[str, Any]:
        config = self.config.model_dump(mode="json")
        return {"source": self.source, "unseen_users": self.unseen_share, "config": config}

    def _check_settings(self) -> None:
        folder, wanted = RunFolder(self.out, self.config), self._settings
        found = folder.read_json(SETTINGS) if folder.has(SETTINGS) else wanted
        if found != wanted:
            changed = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
            raise CheckpointError(
                f"{self.out} holds an ablation with another {' and another '.join(changed)}",
                "choose another --out, or remove that folder",
            )

    @cached_property
    def _everyone(self) -> tuple[Path, Dataset]:
        own = self.out / "data"
        dataset = open_or_prepare(self.source, own, self.config.data, self.progress.say)
        return (Path(self.source).resolve() if is_prepared(Path(self.source)) else own), dataset

    def _divide(self, seed: int) -> SeedData:
        folder, everyone = self._everyone
        if not self.unseen_share:
            return SeedData(folder, everyone, None)
        left = leave_out(everyone, self.unseen_share, seed)
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
        _ = pipeline.dataset  # opened even if the row is finished: changed data must be refused
        if row is not FULL:
            self._share(seed, row, pipeline)
        pipeline.evaluate()
        if data.unseen is not None and not run.has(UNSEEN):
            run.write_json(UNSEEN, _measure(pipeline, data.unseen))

    def _share(self, seed: int, row: Row, pipeline: Pipeline) -> None:
        full = RunFolder.open(self.folder(seed, FULL))
        tokenizer = full.read_tensors("tokenizer.safetensors")
        if row.tokenizer == "final":
            prefix, trained = "tokenizer.", full.read_tensors("finetune.safetensors")
            tokenizer = {key.removeprefix(prefix): trained[key] for key in trained if key.startswith(prefix)}
            tokenizer[CODES] = trained[CODES]
        pipeline.adopt("sasrec.safetensors", full.read_tensors("sasrec.safetensors"))
        pipeline.adopt("tokenizer.safetensors", tokenizer)

    def _finished(self, seed: int, row: Row) -> bool:
        run = RunFolder(self.folder(seed, row), self.config)
        needed = [EVALUATION, "finetune.safetensors"] + ([UNSEEN] if self.unseen_share else [])
        return all(run.has(name) for name in needed)

    def _outcome(self, seed: int, row: Row) -> Outcome:
        run = RunFolder(self.folder(seed, row), self.config)
        history, found = run.read_json("finetune.json")["history"], run.read_json(EVALUATION)
        unseen = run.read_json(UNSEEN) if self.unseen_share else {}
        return Outcome(
            row.key,
            seed,
            sum("rec" in epoch for epoch in history),
            sum("sq" in epoch for epoch in history),
            *(_of_models(part) for part in (found["valid"], found["test"], unseen)),
        )


def _of_models(metrics: Metrics) -> Metrics:
    return {model: metrics[model] for model in MODELS if model in metrics}  # none of unseen users if there are none


def _measure(pipeline: Pipeline, unseen: Split) -> Metrics:
    learner, width = pipeline.learner, pipeline.config.model.beam_width
    fusion = Fusion(**pipeline.evaluate().fusion)  # fitted on validation users, who are seen ones
    codes, vectors = learner.assignment.codes, learner.vectors
    with pipeline.progress.track("Evaluating unseen users", 1) as bar:
        found = search_split(
            learner.recommender,
            codes,
            unseen,
            width,
            vectors,
            fusion.candidates,
            transitions=pipeline.transitions,
        )
        bar.advance(1)
    return {"generative": found.ranks().summary(), "fused": found.ranks(fusion).summary()}
