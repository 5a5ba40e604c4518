"""All stages of a run in order: prepare, embed, tokenizer, joint, fine-tune, evaluate. Each is done once per folder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model_store.errors import CheckpointError, ConfigError
from model_store.network.tokenizer import Tokenizer
from training.codebooks import pretrain_tokenizer
from training.config import TrainingConfig
from training.data.dataset import Dataset
from training.data.prepare import open_or_prepare
from training.evaluate import generative_ranks
from training.health import tokenizer_health
from training.joint import JointConfig, finetune, train_joint
from training.learner import Learner, new_learner
from training.metrics import popularity_ranks
from training.progress import Progress
from training.run_folder import RunFolder
from training.sasrec import Sasrec, evaluate_sasrec, train_sasrec

EVALUATION = "evaluation.json"
UNSEEN = "unseen.json"
"""Metrics for users left out of training, of a run that is a row of an ablation."""
TRAINED_ON = "trained_on.json"
BUNDLE = "bundle"
"""Folder of the run that holds the files of its bundle."""

ARTEFACTS = (
    "sasrec.safetensors",
    "tokenizer.safetensors",
    "joint.safetensors",
    "finetune.safetensors",
    "tiger_joint.safetensors",
    "tiger_finetune.safetensors",
    EVALUATION,
    UNSEEN,
    f"{BUNDLE}/golden.json",
)
"""In the order of the stages: each depends on some before it, so redoing one makes those after it stale."""


class Embedded(NamedTuple):
    """The embedding stage: what the tokenizer reads, and the dense baseline."""

    embeddings: Tensor  # [items, d_s], raw
    model: Sasrec


@dataclass(frozen=True)
class Evaluation:
    """Metrics by model under both protocols, as ``etegrec-train run --json`` prints them."""

    test: dict[str, dict[str, float]]
    valid: dict[str, dict[str, float]]
    tokenizer: dict[str, Any]
    seconds: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def usable_device(name: torch.device | str) -> torch.device:
    """A torch device that tensors can be put on.

    Raises:
        ConfigError: There is no such device here.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as cause:
        problem = str(cause).splitlines()[0]
        raise ConfigError(
            f"--device {name}: {problem}", "use cpu, or install torch for the device that you have"
        ) from cause


class Pipeline:
    """One run. Stages are properties: each is loaded if its artefact exists, and computed and stored if not."""

    def __init__(self, run: RunFolder, progress: Progress, device: torch.device | str = "cpu") -> None:
        self.run, self.progress, self.device = run, progress, usable_device(device)
        if run.config.threads:
            torch.set_num_threads(run.config.threads)

    @property
    def config(self) -> TrainingConfig:
        """The configuration of the run."""
        return self.run.config

    @cached_property
    def dataset(self) -> Dataset:
        """Stage ``prepare``. A source that is a prepared data set already is read where it is."""
        is_reused = self.run.has("data/dataset.json")
        with nullcontext() if is_reused else self.run.timed("prepare"):
            data = open_or_prepare(self.run.source, self.run.path / "data", self.config.data, self.progress.say)
        self._tie_to(data)
        return data

    @cached_property
    def embedded(self) -> Embedded:
        """Stage ``embed``: SASRec."""
        artefact = "sasrec.safetensors"
        if not self.run.has(artefact):
            with self.run.timed("embed"):
                result = train_sasrec(self.dataset, self.config.sasrec, self.config.seed, self.progress, self.device)
            self._store(artefact, result.model.state_dict())
        model = Sasrec(self.config.sasrec, self.dataset.n_items)
        model.load_state_dict(self.run.read_tensors(artefact))
        model.to(self.device).eval()
        return Embedded(model.item_embedding.weight.detach(), model)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Stage ``tokenizer``: the RQ-VAE alone."""
        artefact, shape = "tokenizer.safetensors", self.config.model.tokenizer
        if not self.run.has(artefact):
            embeddings = self.embedded.embeddings
            with self.run.timed("tokenizer"):
                trained = pretrain_tokenizer(embeddings, shape, self.config.tokenizer, self.config.seed, self.progress)
            self._store(artefact, trained.state_dict())
        tokenizer = Tokenizer(shape)
        tokenizer.load_state_dict(self.run.read_tensors(artefact))
        return tokenizer.to(self.device).eval()

    @cached_property
    def learner(self) -> Learner:
        """Stages ``joint`` and ``finetune``: ETEGRec."""
        return self._trained("", self.config.joint)

    @cached_property
    def tiger(self) -> Learner:
        """The TIGER baseline: the same tokenizer frozen, no alignment, as many epochs."""
        return self._trained("tiger_", self.config.joint.model_copy(update={"tokenizer": "frozen"}))

    def evaluate(self, tiger: bool = False) -> Evaluation:
        """Stage ``evaluate``: all rows on validation and test users, under both protocols."""
        is_current = self.run.has(EVALUATION) and self.run.has("finetune.safetensors")
        stored = self.run.read_json(EVALUATION) if is_current else None
        if stored is None or (tiger and "tiger" not in stored["test"]):
            learners = {"generative": self.learner} | ({"tiger": self.tiger} if tiger else {})
            with self.run.timed("evaluate"):
                stored = self._evaluate(learners)
            self.run.write_json(EVALUATION, stored)
        return Evaluation(**stored, seconds=self.run.seconds)

    def adopt(self, artefact: str, tensors: Mapping[str, Tensor]) -> None:
        """Take over a stage of another run, before it is asked for here; if it differs, later stages are redone."""
        if self.run.has(artefact):
            own = self.run.read_tensors(artefact)
            if own.keys() == tensors.keys() and all(torch.equal(own[key], tensors[key]) for key in own):
                return
        self._store(artefact, tensors)

    def _tie_to(self, data: Dataset) -> None:
        """Refuse data that changed since a stage was trained on it: what is stored would not fit, or fit by chance."""
        record = {"fingerprint": data.fingerprint}
        is_changed = self.run.has(TRAINED_ON) and self.run.read_json(TRAINED_ON) != record
        if is_changed and any(self.run.has(artefact) for artefact in ARTEFACTS):
            raise CheckpointError(
                f"the data changed since {self.run.path} was trained on it",
                "choose another --out, or remove that folder",
            )
        self.run.write_json(TRAINED_ON, record)

    def _store(self, artefact: str, tensors: Mapping[str, Tensor]) -> None:
        for stale in ARTEFACTS[ARTEFACTS.index(artefact) + 1 :]:
            self.run.remove(stale)
        self.run.write_tensors(artefact, tensors)

    def _evaluate(self, learners: dict[str, Learner]) -> dict[str, Any]:
        splits = {"test": self.dataset.test(), "valid": self.dataset.validation()}
        popularity, sasrec = self.dataset.popularity(), self.embedded.model
        found: dict[str, Any] = {}
        with self.progress.track("Evaluating", len(splits) * (2 + len(learners))) as bar:
            for name, split in splits.items():
                rows = {"popularity": popularity_ranks(popularity, split)}
                bar.advance(1)
                rows["sasrec"] = evaluate_sasrec(sasrec, split)
                bar.advance(1)
                for row, learner in learners.items():
                    width = self.config.model.beam_width
                    rows[row] = generative_ranks(learner.recommender, learner.assignment.codes, split, width)
                    bar.advance(1)
                found[name] = {row: ranks.summary() for row, ranks in rows.items()}
        health = tokenizer_health(self.learner, self.dataset)
        return found | {"tokenizer": health.as_dict()}

    def _trained(self, prefix: str, config: JointConfig) -> Learner:
        sequences, valid, seed = self.dataset.training_sequences(), self.dataset.validation(), self.config.seed
        learner = new_learner(self.config.model, copy.deepcopy(self.tokenizer), self.embedded.embeddings, seed)
        joint, final = f"{prefix}joint", f"{prefix}finetune"
        if self._load_learner(learner, final):
            return learner
        if not self._load_learner(learner, joint):
            with self.run.timed(joint):
                train_joint(learner, sequences, valid, config, seed, self.progress)
            self._save_learner(learner, joint)
        with self.run.timed(final):
            finetune(learner, sequences, valid, config, self.config.finetune, seed, self.progress)
        self._save_learner(learner, final)
        return learner

    def _save_learner(self, learner: Learner, stage: str) -> None:
        self.run.write_json(f"{stage}.json", {"history": learner.history})
        self._store(f"{stage}.safetensors", learner.tensors())

    def _load_learner(self, learner: Learner, stage: str) -> bool:
        if not self.run.has(f"{stage}.safetensors"):
            return False
        learner.load(self.run.read_tensors(f"{stage}.safetensors"))
        learner.history = self.run.read_json(f"{stage}.json")["history"]
        return True
