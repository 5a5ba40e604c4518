"""Warm start: a candidate that begins from the run of the live version and trains for a fraction of the time.

Every stage of the run has its counterpart. The content encoder, the blend and the tokenizer are those of the live
version: item vectors stay what codes and recommender were trained on. SASRec goes on from its weights for a few epochs;
a new item begins between the items that say the most similar things, or at the mean. Known items keep their codes
unless others are clearly nearer. The recommender goes on from its weights in fine-tuning; alternating training is left
out. Neighbours are counted anew, which takes seconds.

A live version fits if its run is still in the work folder, with the same settings, content vectors of the same width,
and enough of the items.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from model_store.bundle.bundle import Bundle
from model_store.errors import CheckpointError
from model_store.network.tokenizer import Tokenizer
from model_store.search.neighbours import Neighbours
from training.artefacts import BLEND, BUNDLE, CONTENT, FINETUNE, SASREC
from training.blending.fit import Blend
from training.config import TrainingConfig, WarmConfig
from training.content.content_encoder import ContentEncoder
from training.data.dataset import Dataset
from training.embedding.sasrec import Sasrec
from training.embedding.training import SasrecResult, train_sasrec
from training.joint.learner import Learner, current_assignment
from training.joint.phase_losses import JointConfig
from training.joint.training import FinetuneConfig
from training.loop.progress import Progress
from training.neighbours.counts import count_neighbours
from training.pipeline import Pipeline
from training.run_folder import RunFolder
from training.tokenizer.collisions import Codes

WEIGHTS = "weights.safetensors"
ITEM_EMBEDDING = "item_embedding.weight"
SIMILAR_ITEMS = 10
"""Known items that say the most similar things, between which a new item begins."""


class Start(NamedTuple):
    """A live version to begin from.

    Attributes:
        version: Its name.
        run: The run that it came from.
        codes: Semantic IDs of its trained items, ``[trained, L]``.
        row: Row of each item of the new data among them, ``[N]``; -1 where it is new.
    """

    version: str
    run: RunFolder
    codes: Codes
    row: npt.NDArray[np.int64]


def find_start(live: Bundle, runs: Path, config: TrainingConfig, data: Dataset) -> Start | str:
    """Return where a candidate can begin, or why it cannot in the words of a sentence.

    Args:
        live: The live version.
        runs: Folder of all runs of retraining.
        config: Settings of the candidate.
        data: Its data.
    """
    run = _find_run(live, runs)
    if run is None:
        return f"the run of {live.version} is not in {runs}"
    if run.config.fingerprint != config.fingerprint:
        return f"{live.version} was trained with other settings: {_difference(run.config, config)}"
    if run.read_tensors(CONTENT)["known"].numel() == 0 and data.has_content and config.content.dim:
        return f"items say something now, which {live.version} does not read"

    catalogue = live.catalogue()
    trained = live.manifest.data.counts["items"]
    found = catalogue.row_of.find(data.item_ids)
    row = np.where(found < trained, found, -1).astype(np.int64)
    share = float((row >= 0).mean())
    if share < config.warm.known_items:
        return f"{live.version} knows {share:.0%} of the items, warm.known_items asks for {config.warm.known_items:.0%}"
    return Start(live.version, run, catalogue.codes[:trained], row)


def _find_run(live: Bundle, runs: Path) -> RunFolder | None:
    """Return the run whose exported weights are those of the live version, byte for byte."""
    seal = live.manifest.files[WEIGHTS].sha256
    for path in sorted(runs.glob(f"*/{BUNDLE}/{WEIGHTS}")):
        if hashlib.sha256(path.read_bytes()).hexdigest() == seal:
            try:
                return RunFolder.open(path.parents[1])
            except CheckpointError:
                return None  # an older release left it, whose settings this one does not read
    return None


def _difference(before: TrainingConfig, now: TrainingConfig) -> str:
    """Name the sections that differ."""
    old, new = (config.of_run().model_dump(mode="json", exclude={"threads", "data"}) for config in (before, now))
    return ", ".join(name for name in new if new[name] != old[name])


class WarmPipeline(Pipeline):
    """Stages of a run that begin from a live version.

    Args:
        run: Folder of the candidate.
        progress: Display of the progress.
        start: Where it begins.
        warm: How much it trains.
    """

    def __init__(self, run: RunFolder, progress: Progress, start: Start, warm: WarmConfig) -> None:
        super().__init__(run, progress)
        self._start = start
        self._warm = warm
        self._is_known = start.row >= 0

    def _fit_content(self) -> ContentEncoder | None:
        tensors = self._start.run.read_tensors(CONTENT)
        own = tensors["own"].new_zeros(len(self._start.row), tensors["own"].shape[1])
        own[self._is_known] = tensors["own"][self._start.row[self._is_known]] if len(tensors["own"]) else 0.0
        return ContentEncoder(tensors["known"].numpy(), tensors["effects"], own)

    def _train_sasrec(self, checkpoint: Path) -> SasrecResult:
        weights = self._start.run.read_tensors(SASREC)
        weights[ITEM_EMBEDDING] = self._begin_items(weights[ITEM_EMBEDDING])
        config = self.config.sasrec
        few = config.model_copy(
            update={
                "epochs": math.ceil(self._warm.epochs * config.epochs),
                "learning_rate": self._warm.rate * config.learning_rate,
            }
        )
        progress = self._stage_progress("embed")
        seed = self.config.seed
        return train_sasrec(
            self.dataset, few, seed, progress, self.device, checkpoint, self.config.compute, start=weights
        )

    def _begin_items(self, known: Tensor) -> Tensor:
        """Return the embeddings that all items begin with ``[N, d]`` from those of known ones ``[trained, d]``."""
        row = torch.from_numpy(self._start.row)
        is_new = row < 0
        begun = known[row.clamp(min=0)]
        if not is_new.any():
            return begun

        if self._content is None:
            begun[is_new] = known.mean(dim=0)
            return begun

        # Content vectors of items that say nothing are alike only among themselves, and so are their means.
        content = self._content.cpu()
        likeness, nearest = (content[is_new] @ content[~is_new].T).topk(min(SIMILAR_ITEMS, int((~is_new).sum())))
        weight = functional.softmax(likeness / self.config.sasrec.temperature, dim=1)
        begun[is_new] = (weight[:, :, None] * begun[~is_new][nearest]).sum(dim=1)
        return begun

    def _fit_blend(self, sasrec: Sasrec) -> tuple[Blend, Neighbours]:
        blend = Blend.from_dict(self._start.run.read_json(BLEND))
        data = self.dataset
        return blend, count_neighbours(data.training_csr(), data.n_items, self._words).memory(blend.neighbours)

    def _train_tokenizer(self, embeddings: Tensor, checkpoint: Path) -> Tokenizer:
        tokenizer = Tokenizer(self.model.tokenizer)
        tokenizer.load_state_dict(self._weights_of("tokenizer"))
        return tokenizer

    def _train_joint(self, learner: Learner, config: JointConfig, progress: Progress, checkpoint: Path) -> None:
        recommender = learner.recommender
        fresh = {name: part.state_dict() for name, part in recommender.user_parts.items()}
        fresh = {name: {key: value.clone() for key, value in state.items()} for name, state in fresh.items()}
        recommender.load_state_dict(self._weights_of("recommender"))
        if self.model.recommender.user_encoder == "own":  # it is SASRec's, which has gone on
            for name, part in recommender.user_parts.items():
                part.load_state_dict(fresh[name])

        codes = learner.assignment.codes.copy()  # the nearest ones, which new items get if they are free
        codes[self._is_known] = self._start.codes[self._start.row[self._is_known]]
        learner.assignment = current_assignment(
            self.model, learner.tokenizer, learner.embeddings, codes, self._warm.stickiness
        )

    @property
    def _finetuning(self) -> FinetuneConfig:
        config = self.config.finetune
        few = {
            "epochs": math.ceil(self._warm.epochs * config.epochs),
            "recommender_rate": self._warm.rate * config.recommender_rate,
        }
        return config.model_copy(update=few)

    def _weights_of(self, network: str) -> dict[str, Tensor]:
        """Return the weights of a network of the live version by their names in it."""
        prefix = f"{network}."
        tensors = self._start.run.read_tensors(FINETUNE)
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
