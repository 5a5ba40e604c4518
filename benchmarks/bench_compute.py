"""Training throughput of the recommender with fp32, bf16 and compiled layers, on any device.

Batches, model and losses are those of ``bench-train``: forward, backward and optimiser step, in target items a second.
Variants alternate in one run; medians are reported, and the time to compile separately. On a CPU nothing is compiled.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.bench_gpu import choose_device
from benchmarks.review_users import ITEMS, sequences
from model_store.console import new_app, run
from model_store.network.recommender import Recommender
from model_store.network.tokenizer import Tokenizer
from training.config import TrainingConfig, load_config
from training.joint.learner import Learner
from training.joint.phase_losses import recommender_losses, weighted_sum
from training.loop.batches import Int64Array, TrainingRows, batches, collate, training_rows
from training.loop.compute import FP32, ComputeConfig
from training.loop.optimiser import Optimiser, descend, recommender_optimizer
from training.tokenizer.collisions import Assignment

BF16 = ComputeConfig(precision="bf16")
VARIANTS = {"fp32": FP32, "bf16": BF16, "compiled": ComputeConfig(precision="bf16", compile="gpu")}


class Contender:
    """A recommender that trains with one variant."""

    def __init__(self, config: TrainingConfig, compute: ComputeConfig, device: str, codes: np.ndarray) -> None:
        torch.manual_seed(0)
        model = config.model
        self._config = config.joint
        recommender = compute.prepare(Recommender(model).to(device))
        tokenizer = Tokenizer(model.tokenizer).to(device)
        embeddings = torch.randn(ITEMS, model.tokenizer.embedding_dim, device=device)
        self._learner = Learner(model, tokenizer, recommender, embeddings, Assignment(codes, 0, 1, 0), compute)
        self._tree = self._learner.tree(np.arange(ITEMS))
        adamw = recommender_optimizer(recommender, 1e-3, config.joint.weight_decay)
        self._optimiser = Optimiser(adamw, lambda step: 1.0, config.joint.clip)

    def seconds(self, rows: TrainingRows, work: list[Int64Array]) -> float:
        """Train on some batches; return the seconds until the device has finished."""
        started = time.perf_counter()
        for chosen in work:
            losses = recommender_losses(self._learner, collate(rows, chosen), self._tree, self._config, aligned=False)
            descend(weighted_sum(losses, self._config), self._optimiser)
        self._learner.recommender.bos.sum().item()  # waits for the device
        return time.perf_counter() - started


def main(
    device: Annotated[str, typer.Option(help="cuda, cuda:1 or cpu; empty: the GPU.")] = "",
    preset: Annotated[str, typer.Option(help="Preset whose recommender is trained.")] = "paper",
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Batches a repeat.")] = 50,
    set_: Annotated[list[str], typer.Option("--set", help="Settings, section.key=value.")] = [],  # noqa: B006
) -> None:
    """Print target items a second of every variant as one line of JSON."""
    where = choose_device(device)
    config = load_config(preset, set_)
    rng = np.random.default_rng(0)

    shape = config.model.recommender
    length = config.model.code_length
    size = (config.model.tokenizer.codebook_size,) * length
    flat = rng.choice(int(np.prod(size)), ITEMS, replace=False)
    codes = np.stack(np.unravel_index(flat, size), axis=1).astype(np.int16)
    rows = training_rows(sequences(rng), shape.max_history, shape.encoder_attention == "causal", where)

    contenders = {name: Contender(config, compute, where, codes) for name, compute in VARIANTS.items()}
    work = batches(rows, config.joint.targets_per_batch, rng)[:steps]
    targets = sum(int(rows.predicted[chosen].sum()) for chosen in work)

    first = {name: each.seconds(rows, work) for name, each in contenders.items()}
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, each in contenders.items():
            taken[name].append(each.seconds(rows, work))

    median = {name: statistics.median(seconds) for name, seconds in taken.items()}
    figures = {
        "bench": "compute",
        "device": torch.cuda.get_device_name(where) if where.startswith("cuda") else where,
        "preset": preset,
        **{f"{name}_items_s": round(targets / seconds, 1) for name, seconds in median.items()},
        **{f"{name}_over_fp32": round(median["fp32"] / seconds, 2) for name, seconds in median.items()},
        **{f"{name}_spread_s": [round(min(each), 3), round(max(each), 3)] for name, each in taken.items()},
        "compiling_s": round(first["compiled"] - median["compiled"], 1),
        "layers": [shape.encoder_layers, shape.decoder_layers],
        "steps": len(work),
        "repeats": repeats,
        "torch": torch.__version__,
    }
    typer.echo(json.dumps(figures))


if __name__ == "__main__":
    application = new_app("Measure bf16 and compiled layers in training.")
    application.command()(main)
    sys.exit(run(application, "bench-compute"))
