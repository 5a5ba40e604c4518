"""Stages of a run in order: prepare, content, embed, vectors, tokenizer, joint, fine-tune, evaluate; each once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model_store.config import ModelConfig
from model_store.errors import CheckpointError, ConfigError
from model_store.network.content_profile import join_content
from model_store.network.tokenizer import Tokenizer
from model_store.search.fusion import GENERATIVE_ALONE, dense_candidates
from model_store.search.transitions import Transitions
from training.config import TrainingConfig
from training.content.content_encoder import ContentEncoder, fit_content_encoder
from training.content.shared_features import item_features
from training.data.dataset import Dataset
from training.data.prepare import open_or_prepare
from training.diagnostics.beam_survival import sampled_codes_kept
from training.diagnostics.tokenizer_health import tokenizer_health
from training.embedding.content_share import NO_CONTENT, ContentShare, fit_content_share
from training.embedding.sasrec import Sasrec, evaluate_sasrec, train_sasrec
from training.embedding.transition_counts import count_transitions
from training.evaluation.coverage import K, measure_coverage, sample_users
from training.evaluation.full_ranking import generative_ranks, search_split
from training.evaluation.metrics import ndcg_difference, popularity_ranks
from training.joint.learner import Learner, can_start_from, new_learner
from training.joint.phase_losses import JointConfig
from training.joint.training import finetune, train_joint
from training.loop import distributed
from training.loop.checkpoint import State, checkpoint_name, seconds_spent
from training.loop.progress import Progress
from training.run_folder import RunFolder
from training.tokenizer.codebooks import pretrain_tokenizer
from training.tokenizer.collisions import Codes
from training.user_ranks import RANKS, UserRanks

EVALUATION = "evaluation.json"
UNSEEN = "unseen.json"
"""File of the metrics for users left out of training, in a run that is a row of an ablation."""
TRAINED_ON = "trained_on.json"
"""File of the fingerprint of the data that the run was trained on."""
BUNDLE = "bundle"
"""Folder of the run with the files of its bundle."""

ARTEFACTS = (
    "content.safetensors",
    "sasrec.safetensors",
    "content_share.json",
    "tokenizer.safetensors",
    "joint.safetensors",
    "finetune.safetensors",
    "tiger_joint.safetensors",
    "tiger_finetune.safetensors",
    RANKS,
    EVALUATION,
    UNSEEN,
    f"{BUNDLE}/golden.json",
)
"""Artefacts in the order of the stages. Each depends on earlier ones: if one is replaced, later ones are stale."""


CODES = "codes"
"""Name of a tensor that an adopted tokenizer may have: semantic IDs of all items, int16."""


class ItemVectors(NamedTuple):
    """Result of the stage ``vectors``."""

    embeddings: Tensor  # [items, d_s], the input of the tokenizer
    content: ContentShare


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics by model under both protocols, as ``etegrec-train run --json`` prints them."""

    test: dict[str, dict[str, float]]
    valid: dict[str, dict[str, float]]
    tokenizer: dict[str, Any]
    fusion: dict[str, Any]  # fields of model_store.search.fusion.Fusion, fitted on validation users

    # Empty in the evaluations of older releases.
    above_popularity: dict[str, float | None] = field(default_factory=dict)
    """NDCG@10 of the fused answers of test users minus that of popularity, ``mean`` and standard ``error``."""
    coverage: dict[str, float] = field(default_factory=dict)
    """Fields of :class:`training.evaluation.coverage.Coverage`, of the fused answers without items of the history."""

    seconds: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def usable_device(name: torch.device | str) -> torch.device:
    """Return a torch device after putting a tensor on it.

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
    """Stages of one run as properties. A stage is loaded if its artefact exists, and computed and stored if not."""

    def __init__(
        self, run: RunFolder, progress: Progress, device: torch.device | str = "cpu", tensorboard: bool = False
    ) -> None:
        self.run = run
        self.progress = progress
        self.device = usable_device(device)
        self.tensorboard = tensorboard
        if run.config.threads:
            torch.set_num_threads(run.config.threads)

    @property
    def config(self) -> TrainingConfig:
        """Configuration of the run."""
        return self.run.config

    @cached_property
    def dataset(self) -> Dataset:
        """Stage ``prepare``. A source that is already a prepared data set is read where it is."""
        is_reused = self.run.has("data/dataset.json")
        with distributed.first_then_others():
            with nullcontext() if is_reused else self.run.timed("prepare"):
                data = open_or_prepare(self.run.source, self.run.path / "data", self.config.data, self.progress.say)
            self._refuse_changed(data)
        return data

    @cached_property
    def content_encoder(self) -> ContentEncoder | None:
        """Stage ``content``: the encoder of what items say; ``None`` if they say nothing, or ``content.dim`` is 0."""
        artefact = "content.safetensors"
        if not self._is_done(artefact):
            width = self.config.content.dim
            with self.run.timed("content"):
                features = item_features(self.dataset) if width and self.dataset.has_content else []
                fitted = fit_content_encoder(features, width, self.config.seed) if features else None
            fitted = fitted or ContentEncoder.nothing()
            self._store(artefact, {"known": torch.from_numpy(fitted.known), "effects": fitted.effects})

        tensors = self.run.read_tensors(artefact)
        encoder = ContentEncoder(tensors["known"].numpy(), tensors["effects"])
        return encoder if encoder.width else None

    @cached_property
    def sasrec(self) -> Sasrec:
        """Stage ``embed``: SASRec, whose item embeddings the tokenizer reads; also the dense baseline."""
        _ = self.content_encoder  # stages are stored in order: each one removes what was stored of those after it
        artefact = "sasrec.safetensors"
        if not self._is_done(artefact):
            data = self.dataset
            with self._stage("embed", artefact) as checkpoint:
                result = train_sasrec(
                    data,
                    self.config.sasrec,
                    self.config.seed,
                    self._stage_progress("embed"),
                    self.device,
                    checkpoint,
                    self.config.compute,
                )
            self.run.write_json("sasrec.json", {"history": result.history})
            self._store(artefact, result.model.state_dict())

        model = Sasrec(self.config.sasrec, self.dataset.n_items)
        model.load_state_dict(self.run.read_tensors(artefact))
        return model.to(self.device).eval()

    @cached_property
    def items(self) -> ItemVectors:
        """Stage ``vectors``: embeddings of all items, with what they say in the share that validation users want."""
        learned = self.sasrec.vectors.detach()
        if self.content_encoder is None:
            return ItemVectors(learned, NO_CONTENT)

        content = self.content_encoder.vectors(item_features(self.dataset)).to(self.device)
        artefact = "content_share.json"
        if not self._is_done(artefact):
            with self.run.timed("vectors"):
                fitted = fit_content_share(self.sasrec, content, self.dataset.validation(), self.config.seed)
            self.run.write_json(artefact, fitted._asdict())
            distributed.barrier()
        share = ContentShare(**self.run.read_json(artefact))
        return ItemVectors(join_content(learned, content, share.share), share)

    @property
    def model(self) -> ModelConfig:
        """The model with the width of item vectors that this data set gives."""
        encoder = self.content_encoder
        return self.config.model if encoder is None else self.config.model.with_content(encoder.width)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Stage ``tokenizer``: the RQ-VAE, trained alone."""
        artefact = "tokenizer.safetensors"
        shape = self.model.tokenizer
        if not self._is_done(artefact):
            embeddings = self.items.embeddings
            with self._stage("tokenizer", artefact) as checkpoint:
                progress = self._stage_progress("tokenizer")
                trained = pretrain_tokenizer(
                    embeddings, shape, self.config.tokenizer, self.config.seed, progress, checkpoint
                )
            self._store(artefact, trained.state_dict())

        tokenizer = Tokenizer(shape)
        tensors = self.run.read_tensors(artefact)
        tensors.pop(CODES, None)
        tokenizer.load_state_dict(tensors)
        return tokenizer.to(self.device).eval()

    @cached_property
    def learner(self) -> Learner:
        """Stages ``joint`` and ``finetune``: ETEGRec."""
        return self._train("", self.model, self.config.joint)

    @cached_property
    def tiger(self) -> Learner:
        """The TIGER baseline: the same number of epochs, frozen pretrained codes, histories as codes, L_REC only."""
        model = self.model
        plain = {"history_tokens": "code", "newest_start": False, "repeat_bias": False, "user_encoder": "shared"}
        model = model.model_copy(update={"recommender": model.recommender.model_copy(update=plain)})

        only_rec = {"tokenizer": "frozen", "dense_weight": 0.0, "constrained": False, "distillation": 0.0}
        return self._train("tiger_", model, self.config.joint.model_copy(update=only_rec))

    @cached_property
    def transitions(self) -> Transitions:
        """Counts of items that follow each other in training sequences; not stored, as counting takes seconds."""
        return count_transitions(self.dataset.training_sequences(), self.dataset.n_items)

    @property
    def served_items(self) -> int:
        """Number of items that the bundle is to serve: the trained ones, and those that are placed by content."""
        is_served = self.config.data.serve_untrained
        return self.dataset.n_items + (len(self.dataset.placeable_items()) if is_served else 0)

    def train(self, tiger: bool = False) -> None:
        """Run all stages before ``evaluate``. Several processes can run these together, but not the later ones."""
        _ = self.learner
        if tiger:
            _ = self.tiger

    def evaluate(self, tiger: bool = False) -> Evaluation:
        """Run stage ``evaluate``: all models on validation and test users, under both protocols."""
        tiger = tiger or self.run.has("tiger_finetune.safetensors")  # once trained, it stays in the evaluation
        is_current = all(self.run.has(name) for name in (EVALUATION, RANKS, "finetune.safetensors"))
        stored = self.run.read_json(EVALUATION) if is_current else None
        if stored is None or "fusion" not in stored or (tiger and "tiger" not in stored["test"]):
            learner = self.learner
            baseline = self.tiger if tiger else None
            with self.run.timed("evaluate"):
                stored = self._evaluate(learner, baseline)
            self.run.write_json(EVALUATION, stored)
        return Evaluation(**stored, seconds=self.run.seconds)

    def adopt(self, artefact: str, tensors: Mapping[str, Tensor]) -> None:
        """Store an artefact of another run in this run, before its stage is used; if it differs, redo later stages."""
        if self.run.has(artefact):
            own = self.run.read_tensors(artefact)
            if own.keys() == tensors.keys() and all(torch.equal(own[key], tensors[key]) for key in own):
                return
        self._store(artefact, tensors)

    def _stage_progress(self, stage: str) -> Progress:
        """Return the progress display of a stage, which writes learning curves for TensorBoard if they are wanted."""
        if not (self.tensorboard and distributed.is_first()):
            return self.progress
        # Imported here, because it takes seconds and few runs need it.
        from training.loop.tensorboard import TensorboardProgress

        return TensorboardProgress(self.progress, self.run.path / "tensorboard" / stage)

    def _refuse_changed(self, data: Dataset) -> None:
        """Refuse data that changed since a stage was trained: stored artefacts would not fit, or fit by chance."""
        record = {"fingerprint": data.fingerprint}
        is_changed = self.run.has(TRAINED_ON) and self.run.read_json(TRAINED_ON) != record
        trained = [name for artefact in ARTEFACTS for name in (artefact, checkpoint_name(artefact))]
        if is_changed and any(self.run.has(name) for name in trained):
            raise CheckpointError(
                f"the data changed since {self.run.path} was trained on it",
                "choose another --out, or remove that folder",
            )
        self.run.write_json(TRAINED_ON, record)

    def _store(self, artefact: str, tensors: Mapping[str, Tensor]) -> None:
        for stale in ARTEFACTS[ARTEFACTS.index(artefact) + 1 :]:
            self.run.remove(stale)
            self.run.remove(checkpoint_name(stale))
        self.run.write_tensors(artefact, tensors)
        self.run.remove(checkpoint_name(artefact))
        distributed.barrier()

    def _is_done(self, artefact: str) -> bool:
        return distributed.compute_on_first(lambda: self.run.has(artefact))

    @contextmanager
    def _stage(self, stage: str, artefact: str) -> Iterator[Path]:
        """Time a stage over all its attempts, and give the path of the checkpoint that is kept until it is finished."""
        checkpoint = self.run.path / checkpoint_name(artefact)
        with self.run.timed(stage, seconds_spent(checkpoint)):
            yield checkpoint

    def _evaluate(self, learner: Learner, tiger: Learner | None) -> dict[str, Any]:
        splits = {"valid": self.dataset.validation(), "test": self.dataset.test()}  # the fusion is fitted on the first
        popularity = self.dataset.popularity()
        sasrec = self.sasrec
        width = self.config.model.beam_width
        candidates = dense_candidates(width, self.served_items)
        codes = learner.assignment.codes
        vectors = learner.vectors
        fusion = GENERATIVE_ALONE
        metrics: dict[str, Any] = {}
        figures: dict[str, Any] = {}

        with self.progress.track("Evaluating", len(splits) * (3 + (tiger is not None))) as bar:
            for name, split in splits.items():
                rows = {"popularity": popularity_ranks(popularity, split)}
                bar.advance(1)

                rows["sasrec"] = evaluate_sasrec(sasrec, split)
                bar.advance(1)

                if tiger is not None:
                    rows["tiger"] = generative_ranks(tiger.recommender, tiger.assignment.codes, split, width)
                    bar.advance(1)

                listed = sample_users(len(split.targets), self.config.seed) if name == "test" else None
                found = search_split(
                    learner.recommender,
                    codes,
                    split,
                    width,
                    vectors,
                    candidates,
                    transitions=self.transitions,
                    listed=listed,
                )
                fusion = found.fit() if name == "valid" else fusion
                rows |= {"generative": found.ranks(), "fused": found.ranks(fusion)}
                bar.advance(1)

                metrics[name] = {row: ranks.summary() for row, ranks in rows.items()}
                if name == "test":
                    UserRanks(rows, *sampled_codes_kept(learner, split, self.config.seed)).write(self.run)
                    lead = ndcg_difference(rows["fused"].all_items, rows["popularity"].all_items, K)
                    answered = measure_coverage(found.top_items(fusion, K), self.dataset.n_items)
                    figures = {"above_popularity": lead._asdict(), "coverage": answered.as_dict()}

        health = tokenizer_health(self.learner, self.dataset)
        by_split = {name: metrics[name] for name in ("test", "valid")}
        return by_split | {"tokenizer": health.as_dict(), "fusion": fusion.model_dump(mode="json"), **figures}

    def _train(self, prefix: str, model: ModelConfig, config: JointConfig) -> Learner:
        """Run the stages ``joint`` and ``finetune``, or load them; ``prefix`` is part of the artefacts' names."""
        sequences = self.dataset.training_sequences()
        valid = self.dataset.validation()
        seed = self.config.seed
        tokenizer = copy.deepcopy(self.tokenizer)
        items = self.items
        learner = new_learner(
            model,
            tokenizer,
            items.embeddings,
            seed,
            self.sasrec,
            self._adopted_codes(),
            self.config.compute,
            items.content,
        )

        joint = f"{prefix}joint"
        final = f"{prefix}finetune"
        if self._load_learner(learner, final):
            return learner

        if not self._load_learner(learner, joint):
            if learner.recommender.reads_vectors and not can_start_from(model, self.config.sasrec):
                self.progress.say("The encoder starts from scratch: its shape in model.recommender is not sasrec's.")
            with self._stage(joint, f"{joint}.safetensors") as checkpoint:
                progress = self._stage_progress(joint)
                train_joint(learner, sequences, valid, config, seed, progress, checkpoint)
            self._save_learner(learner, joint)

        with self._stage(final, f"{final}.safetensors") as checkpoint:
            progress = self._stage_progress(final)
            finetune(learner, sequences, valid, config, self.config.finetune, seed, progress, checkpoint)
        self._save_learner(learner, final)
        return learner

    def _adopted_codes(self) -> Codes | None:
        """Return the codes of an adopted tokenizer. Usually there are none, and items get their nearest codes."""
        codes = self.run.read_tensors("tokenizer.safetensors").get(CODES)
        return None if codes is None else codes.numpy()

    def _save_learner(self, learner: Learner, stage: str) -> None:
        state = learner.state()
        self.run.write_json(f"{stage}.json", state.values)
        self._store(f"{stage}.safetensors", state.tensors)

    def _load_learner(self, learner: Learner, stage: str) -> bool:
        if not self._is_done(f"{stage}.safetensors"):
            return False
        learner.restore(State(self.run.read_tensors(f"{stage}.safetensors"), self.run.read_json(f"{stage}.json")))
        return True
