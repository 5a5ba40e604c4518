"""Stages of a run in order: prepare, content, embed, blend, tokenizer, joint, fine-tune, evaluate; each once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from model_store.config import ModelConfig
from model_store.errors import CheckpointError
from model_store.network.content_profile import join_content
from model_store.network.tokenizer import Tokenizer
from model_store.search.item_words import ItemWords
from model_store.search.neighbours import Neighbours
from model_store.search.ranker import Ranker
from training.artefacts import (
    ARTEFACTS,
    BLEND,
    CODES,
    CONTENT,
    EVALUATION,
    FINETUNE,
    NEIGHBOURS,
    RANKER,
    RANKS,
    SASREC,
    TIGER_FINETUNE,
    TOKENIZER,
    TRAINED_ON,
    artefacts_after,
)
from training.blending.fit import Blend, fit_blend
from training.config import TrainingConfig
from training.content.content_encoder import ContentEncoder, fit_content_encoder
from training.content.item_words import fit_item_words
from training.content.shared_features import item_features
from training.data.dataset import Dataset
from training.data.prepare import open_or_prepare
from training.embedding.sasrec import Sasrec
from training.embedding.training import SasrecResult, train_sasrec
from training.evaluation.answers import Answers
from training.joint.learner import Learner, can_start_from, new_learner
from training.joint.phase_losses import JointConfig
from training.joint.training import FinetuneConfig, finetune, train_joint
from training.loop import distributed
from training.loop.checkpoint import State, checkpoint_name, seconds_spent
from training.loop.device import usable_device
from training.loop.progress import Progress
from training.run_evaluation import Evaluation, RunEvaluator, TrainedModels, is_of_this_release
from training.run_folder import RunFolder
from training.tokenizer.codebooks import pretrain_tokenizer
from training.tokenizer.collisions import Codes


class Pipeline:
    """Stages of one run as properties. A stage is loaded if its artefact exists, and computed and stored if not.

    Attributes:
        answers: Answers to the test users, if the run was evaluated by this object.
    """

    def __init__(
        self, run: RunFolder, progress: Progress, device: torch.device | str = "cpu", tensorboard: bool = False
    ) -> None:
        self.run = run
        self.progress = progress
        self.device = usable_device(device)
        self.tensorboard = tensorboard
        self.answers: Answers | None = None
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
        if not self._is_done(CONTENT):
            with self.run.timed("content"):
                fitted = self._fit_content() or ContentEncoder.nothing()
            self._store(
                CONTENT, {"known": torch.from_numpy(fitted.known), "effects": fitted.effects, "own": fitted.own}
            )

        tensors = self.run.read_tensors(CONTENT)
        encoder = ContentEncoder(tensors["known"].numpy(), tensors["effects"], tensors["own"])
        return encoder if encoder.width else None

    @cached_property
    def sasrec(self) -> Sasrec:
        """Stage ``embed``: SASRec, whose item embeddings the tokenizer reads; also the dense baseline."""
        _ = self.content_encoder  # stages are stored in order: each one removes what was stored of those after it
        if not self._is_done(SASREC):
            _ = self.dataset
            with self._stage("embed", SASREC) as checkpoint:
                result = self._train_sasrec(checkpoint)
            self.run.write_json("sasrec.json", {"history": result.history})
            self._store(SASREC, result.model.state_dict())

        model = Sasrec(self.config.sasrec, self.dataset.n_items)
        model.load_state_dict(self.run.read_tensors(SASREC))
        return model.to(self.device).eval()

    @cached_property
    def blend(self) -> Blend:
        """Stage ``blend``: the share of content in dense scores, and the neighbours, that validation users want."""
        sasrec = self.sasrec
        if not (self._is_done(BLEND) and self._is_done(NEIGHBOURS)):
            with self.run.timed("blend"):
                blend, found = self._fit_blend(sasrec)
            arrays = {name: torch.from_numpy(array) for name, array in found.arrays().items()}
            self.run.write_tensors(NEIGHBOURS, arrays)
            self.run.write_json(BLEND, blend.as_dict())
            distributed.barrier()
            self.progress.say(blend.summary())
        return Blend.from_dict(self.run.read_json(BLEND))

    @cached_property
    def neighbours(self) -> Neighbours:
        """The neighbours of all items in training sequences, from the stage ``blend``."""
        _ = self.blend
        stored = self.run.read_tensors(NEIGHBOURS)
        return Neighbours.from_arrays({name: tensor.numpy() for name, tensor in stored.items()})

    @cached_property
    def embeddings(self) -> Tensor:
        """Embeddings of all items, ``[items, d_s]``: learned ones, and what items say in the share that was fitted."""
        share = self.blend.share
        learned = self.sasrec.vectors.detach()
        return learned if self._content is None else join_content(learned, self._content, share)

    @cached_property
    def _content(self) -> Tensor | None:
        """Content vectors of all items, ``[items, c]``."""
        encoder = self.content_encoder
        return None if encoder is None else encoder.trained_vectors(item_features(self.dataset)).to(self.device)

    @cached_property
    def _words(self) -> ItemWords | None:
        """Words of all items; ``None`` if they say nothing, or ``content.dim`` is 0."""
        return None if self.content_encoder is None else fit_item_words(self.dataset)

    @property
    def model(self) -> ModelConfig:
        """The model with the width of item vectors that this data set gives."""
        encoder = self.content_encoder
        return self.config.model if encoder is None else self.config.model.with_content(encoder.width)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Stage ``tokenizer``: the RQ-VAE, trained alone."""
        shape = self.model.tokenizer
        if not self._is_done(TOKENIZER):
            embeddings = self.embeddings
            with self._stage("tokenizer", TOKENIZER) as checkpoint:
                trained = self._train_tokenizer(embeddings, checkpoint)
            self._store(TOKENIZER, trained.state_dict())

        tokenizer = Tokenizer(shape)
        tensors = self.run.read_tensors(TOKENIZER)
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
        tiger = tiger or self.run.has(TIGER_FINETUNE)  # once trained, it stays in the evaluation
        is_current = all(self.run.has(name) for name in (EVALUATION, RANKS, FINETUNE))
        stored = self.run.read_json(EVALUATION) if is_current else None
        if stored is None or not is_of_this_release(stored) or (tiger and "tiger" not in stored["test"]):
            for stale in (RANKS, *artefacts_after(RANKS)):
                self.run.remove(stale)  # the export, too: a new evaluation may rank otherwise
            models = TrainedModels(self.sasrec, self.tiger if tiger else None, self.neighbours, self.learner)
            with self.run.timed("evaluate"):
                evaluator = RunEvaluator(self.config, self.dataset, models, self.served_items, self.progress)
                stored, ranks, ranker, self.answers = evaluator.evaluate()
            ranks.write(self.run)
            if ranker is not None:
                self.run.write_tensors(RANKER, {name: torch.from_numpy(each) for name, each in ranker.arrays().items()})
            self.run.write_json(EVALUATION, stored)
        return Evaluation(**stored, seconds=self.run.seconds)

    @cached_property
    def ranker(self) -> Ranker | None:
        """What corrects the dense scores of candidates, from the stage ``evaluate``; ``None`` if that gains nothing."""
        self.evaluate()
        if not self.run.has(RANKER):
            return None
        return Ranker.from_arrays({name: tensor.numpy() for name, tensor in self.run.read_tensors(RANKER).items()})

    def adopt(self, artefact: str, tensors: Mapping[str, Tensor]) -> None:
        """Store an artefact of another run in this run, before its stage is used; if it differs, redo later stages."""
        if self.run.has(artefact):
            own = self.run.read_tensors(artefact)
            if own.keys() == tensors.keys() and all(torch.equal(own[key], tensors[key]) for key in own):
                return
        self._store(artefact, tensors)

    # What each stage computes. Retraining that begins from an earlier run replaces these.

    def _fit_content(self) -> ContentEncoder | None:
        width = self.config.content.dim
        own = self.dataset.own_vectors
        is_known = self.dataset.has_content or own is not None
        features = item_features(self.dataset) if width and is_known else []
        return fit_content_encoder(features, width, self.config.seed, own) if features else None

    def _train_sasrec(self, checkpoint: Path) -> SasrecResult:
        config = self.config
        progress = self._stage_progress("embed")
        return train_sasrec(self.dataset, config.sasrec, config.seed, progress, self.device, checkpoint, config.compute)

    def _fit_blend(self, sasrec: Sasrec) -> tuple[Blend, Neighbours]:
        data = self.dataset
        return fit_blend(sasrec, self._content, self._words, data.training_csr(), data.validation(), self.config.seed)

    def _train_tokenizer(self, embeddings: Tensor, checkpoint: Path) -> Tokenizer:
        config = self.config
        progress = self._stage_progress("tokenizer")
        content_dim = self.model.recommender.content_dim
        return pretrain_tokenizer(
            embeddings, self.model.tokenizer, config.tokenizer, config.seed, progress, checkpoint, content_dim
        )

    def _train_joint(self, learner: Learner, config: JointConfig, progress: Progress, checkpoint: Path) -> None:
        data = self.dataset
        train_joint(
            learner,
            data.training_sequences(),
            data.validation(),
            config,
            self.config.seed,
            progress,
            checkpoint,
            data.training_weights(),
        )

    @property
    def _finetuning(self) -> FinetuneConfig:
        return self.config.finetune

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
        for stale in artefacts_after(artefact):
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

    def _train(self, prefix: str, model: ModelConfig, config: JointConfig) -> Learner:
        """Run the stages ``joint`` and ``finetune``, or load them; ``prefix`` is part of the artefacts' names."""
        sequences = self.dataset.training_sequences()
        weights = self.dataset.training_weights()
        valid = self.dataset.validation()
        seed = self.config.seed
        tokenizer = copy.deepcopy(self.tokenizer)
        joint = f"{prefix}joint"
        final = f"{prefix}finetune"
        stored = self._read_learner(final, joint)
        learner = new_learner(
            model,
            tokenizer,
            self.embeddings,
            seed,
            self.sasrec,
            self._adopted_codes(),
            self.config.compute,
            self.blend,
            stored,
        )
        if self._is_done(f"{final}.safetensors"):
            return learner

        if stored is None:
            if learner.recommender.reads_vectors and not can_start_from(model, self.config.sasrec):
                self.progress.say("The encoder starts from scratch: its shape in model.recommender is not sasrec's.")
            with self._stage(joint, f"{joint}.safetensors") as checkpoint:
                progress = self._stage_progress(joint)
                self._train_joint(learner, config, progress, checkpoint)
            self._save_learner(learner, joint)

        with self._stage(final, f"{final}.safetensors") as checkpoint:
            progress = self._stage_progress(final)
            finetune(learner, sequences, valid, config, self._finetuning, seed, progress, checkpoint, weights)
        self._save_learner(learner, final)
        return learner

    def _adopted_codes(self) -> Codes | None:
        """Return the codes of an adopted tokenizer. Usually there are none, and items get their nearest codes."""
        codes = self.run.read_tensors(TOKENIZER).get(CODES)
        return None if codes is None else codes.numpy()

    def _save_learner(self, learner: Learner, stage: str) -> None:
        state = learner.state()
        self.run.write_json(f"{stage}.json", state.values)
        self._store(f"{stage}.safetensors", state.tensors)

    def _read_learner(self, *stages: str) -> State | None:
        """Return the learner that the first of these stages that is done has left."""
        for stage in stages:
            if self._is_done(f"{stage}.safetensors"):
                return State(self.run.read_tensors(f"{stage}.safetensors"), self.run.read_json(f"{stage}.json"))
        return None
