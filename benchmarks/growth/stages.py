"""Stages of a run, one in a process of its own, so that its peak memory is that of the stage.

python -m benchmarks.growth.stages STAGE --folder FOLDER [--seconds 60] [--memory-gib 20] [--preset cpu] [--set …]

The stages that train take real steps over all items until the time is up, with the functions that a run uses; their
artefacts are then put into the run folder as if training were done. All others run whole. Work is counted in the units
in which a stage's time is expected to grow, and what was opened before it does not count.
"""

from __future__ import annotations

import copy
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import numpy as np
import typer

from benchmarks.growth.data import INTERACTIONS, ITEMS
from model_store.bundle.registry import ModelStore
from service.models.loading import load_model, open_engine
from service.settings import Settings
from training.config import TrainingConfig, load_config
from training.embedding.sasrec import Sasrec
from training.embedding.training import SasrecSteps
from training.embedding.windows import Windows
from training.export.bundle import export_bundle, publish_run
from training.joint.learner import current_assignment, new_learner
from training.joint.phase_losses import joint_losses, weighted_sum
from training.loop.batches import batches, collate, training_rows
from training.loop.optimiser import Optimiser, cosine, descend, recommender_optimizer
from training.loop.progress import SilentProgress
from training.pipeline import Pipeline
from training.run_folder import RunFolder
from training.tokenizer.codebooks import tokenizer_optimizer

T = TypeVar("T")


class Work(NamedTuple):
    """Units of work that were done, and those of the whole stage: one epoch, if it trains."""

    unit: str
    done: int
    whole: int


@dataclass(frozen=True)
class Measured:
    """Work of a stage with its time, without what had to be opened before."""

    unit: str
    done: int
    whole: int
    seconds: float
    cpu_seconds: float
    setup_seconds: float


Timed = Callable[[], Work]
"""Does the work of a stage whose inputs are open."""


def prepare(pipeline: Pipeline, _seconds: float) -> Timed:
    """Read the source, filter, number, store."""

    def work() -> Work:
        return _all("interaction", pipeline.dataset.interactions)

    return work


def content(pipeline: Pipeline, _seconds: float) -> Timed:
    """Fit the encoder of what items say."""
    items = pipeline.dataset.n_items

    def work() -> Work:
        _ = pipeline.content_encoder
        return _all("item", items)

    return work


def embedding(pipeline: Pipeline, seconds: float) -> Timed:
    """Train SASRec."""
    data = pipeline.dataset
    config = pipeline.config.sasrec
    seed = pipeline.config.seed
    _ = pipeline.content_encoder
    windows = Windows([each for each in data.training_sequences() if len(each) > 1], config.max_history)
    model = Sasrec(config, data.n_items).to(pipeline.device)
    rows, groups = windows.draw_epoch(config.batch_tokens, np.random.default_rng(seed))
    steps = SasrecSteps(model, windows, len(groups), seed, pipeline.config.compute)
    model.train()

    def step(chosen: np.ndarray) -> int:
        steps.take(rows, chosen, 0, 0)
        return int(rows.predicted[chosen].sum())

    def work() -> Work:
        done = _until(seconds, groups, step)
        pipeline.run.write_tensors("sasrec.safetensors", model.state_dict())
        pipeline.run.write_json("sasrec.json", {"history": [{"valid_ndcg@10": 0.0}]})
        return Work("target", done, len(windows.targets))

    return work


def blend(pipeline: Pipeline, _seconds: float) -> Timed:
    """Count neighbours and fit the blend."""
    _ = pipeline.sasrec
    interactions = pipeline.dataset.interactions

    def work() -> Work:
        _ = pipeline.blend
        return _all("interaction", interactions)

    return work


def tokenizer(pipeline: Pipeline, _seconds: float) -> Timed:
    """Train the tokenizer: its k-means start and one pass over all items."""
    items = len(pipeline.embeddings)

    def work() -> Work:
        _ = pipeline.tokenizer
        return _all("item", items)

    return work


def collisions(pipeline: Pipeline, _seconds: float) -> Timed:
    """Give every item its codes."""
    embeddings = pipeline.embeddings
    trained = pipeline.tokenizer

    def work() -> Work:
        found = current_assignment(pipeline.model, trained, embeddings)
        print(f"collisions: {found.collision_rate:.3f}, largest group {found.largest_group}", file=sys.stderr)
        return _all("item", len(found.codes))

    return work


def joint(pipeline: Pipeline, seconds: float) -> Timed:
    """Train both networks together."""
    config = pipeline.config.joint
    trained = copy.deepcopy(pipeline.tokenizer)
    learner = new_learner(
        pipeline.model, trained, pipeline.embeddings, 0, pipeline.sasrec, None, pipeline.config.compute, pipeline.blend
    )
    shape = learner.model.recommender
    packed = shape.encoder_attention == "causal"
    rows = training_rows(pipeline.dataset.training_sequences(), shape.max_history, packed, pipeline.device)
    tree = learner.tree(rows.items)
    groups = batches(rows, config.targets_per_batch, np.random.default_rng(0))
    recommender = recommender_optimizer(learner.recommender, config.recommender_rate, config.weight_decay)
    codebooks = tokenizer_optimizer(learner.tokenizer, config.tokenizer_rate, config.weight_decay)
    optimisers = [Optimiser(each, cosine(len(groups)), config.clip) for each in (recommender, codebooks)]
    learner.tokenizer.train()

    def step(chosen: np.ndarray) -> int:
        batch = collate(rows, chosen)
        descend(weighted_sum(joint_losses(learner, batch, tree, config), config), *optimisers)
        return batch.all_targets

    def work() -> Work:
        done = _until(seconds, groups, step)
        learner.history.append({"epoch": 0.0, "tokenizer_phase": 0.0, "valid_ndcg@10": 0.0})
        learner.tokenizer.eval()
        state = learner.state()
        for name in ("joint", "finetune"):
            pipeline.run.write_json(f"{name}.json", state.values)
            pipeline.run.write_tensors(f"{name}.safetensors", state.tensors)
        return Work("target", done, int(rows.predicted.sum()))

    return work


def evaluation(pipeline: Pipeline, _seconds: float) -> Timed:
    """Rank the targets of validation and test users by all models."""
    _ = pipeline.learner, pipeline.neighbours, pipeline.sasrec
    users = sum(len(split.targets) for split in (pipeline.dataset.validation(), pipeline.dataset.test()))

    def work() -> Work:
        pipeline.evaluate()
        return _all("user", users)

    return work


def export(pipeline: Pipeline, _seconds: float) -> Timed:
    """Write the files of the bundle."""
    _ = pipeline.learner, pipeline.neighbours, pipeline.evaluate()
    items = pipeline.dataset.n_items

    def work() -> Work:
        export_bundle(pipeline)
        return _all("item", items)

    return work


def publish(pipeline: Pipeline, _seconds: float) -> Timed:
    """Seal the bundle in a model store."""
    store = _store(pipeline)
    items = pipeline.dataset.n_items

    def work() -> Work:
        store.promote(publish_run(pipeline, store))
        return _all("item", items)

    return work


def load(pipeline: Pipeline, _seconds: float) -> Timed:
    """Verify the version and open it, as the service does."""
    store = _store(pipeline)

    def work() -> Work:
        bundle = store.bundle()
        catalogue = bundle.verify()
        load_model(bundle, catalogue.with_room(), Settings.load(store=store.url), open_engine).engine.close()
        return _all("item", len(catalogue))

    return work


STAGES: dict[str, Callable[[Pipeline, float], Timed]] = {
    stage.__name__: stage
    for stage in (prepare, content, embedding, blend, tokenizer, collisions, joint, evaluation, export, publish, load)
}
"""Stages in the order of a run."""


def measure(pipeline: Pipeline, stage: str, seconds: float) -> Measured:
    """Run a stage and return its work and time."""
    started = time.perf_counter()
    work = STAGES[stage](pipeline, seconds)
    opened = time.perf_counter()
    cpu = time.process_time()
    done = work()
    ended = time.perf_counter()
    return Measured(*done, ended - opened, time.process_time() - cpu, opened - started)


def limit_memory(gib: float) -> None:
    """Refuse this process more data than so much; the stage then fails, and no other program does."""
    limit = int(gib * (1 << 30))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def open_pipeline(folder: Path, config: TrainingConfig) -> Pipeline:
    """Open the run in a folder that has the generated data."""
    config = config.with_items_file(str(folder / ITEMS))
    run = RunFolder.create_or_resume(folder / "run", config, str(folder / INTERACTIONS))
    return Pipeline(run, SilentProgress())


def _all(unit: str, count: int) -> Work:
    return Work(unit, count, count)


def _until(seconds: float, parts: Iterable[T], step: Callable[[T], int]) -> int:
    """Take steps until the time is up, at least one; return the units of work done."""
    end = time.perf_counter() + seconds
    done = 0
    for part in parts:
        done += step(part)
        if time.perf_counter() > end:
            break
    return done


def _store(pipeline: Pipeline) -> ModelStore:
    return ModelStore(str(pipeline.run.path.parent / "models"))


def main(
    stage: str,
    folder: Annotated[Path, typer.Option()],
    seconds: Annotated[float, typer.Option(help="Time of a stage that trains.")] = 60.0,
    memory_gib: Annotated[float, typer.Option(help="Most data of this process.")] = 20.0,
    preset: str = "cpu",
    overrides: Annotated[list[str] | None, typer.Option("--set")] = None,
) -> None:
    limit_memory(memory_gib)
    try:
        pipeline = open_pipeline(folder, load_config(preset, ["tokenizer.epochs=1", *(overrides or [])]))
        found = measure(pipeline, stage, seconds)
    except Exception as error:  # whatever ends a stage, the benchmark lists it in a line
        typer.echo(f"{type(error).__name__}: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(1) from error
    typer.echo(json.dumps(asdict(found)))


if __name__ == "__main__":
    typer.run(main)
