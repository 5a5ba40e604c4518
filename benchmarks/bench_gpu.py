"""Speed of the torch engine on a GPU, beside Hugging Face ``generate`` and eager torch (``make bench-gpu``).

The model of ``bench-search``, everything on one device, in one run, repeats alternating, medians. Latency is that of
one batch from arrays on the host to answers on the host; requests a second are measured with as many batches under way
as the service has. What the engine answers is compared with the ONNX engine on the CPU.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer

from benchmarks.paper_model import USERS, ServedModel, served_model
from model_store.console import new_app, run
from model_store.errors import ConfigError
from model_store.network.bound_search import BoundSearch
from model_store.network.search import BeamSearch
from model_store.search.interface import BY_REQUEST, SearchInputs, SearchOutputs
from service.engines.buckets import CapturePlan, history_lengths
from service.engines.onnx_engine import OnnxEngine
from service.engines.torch_engine import PREFIX, Precision, TorchEngine
from training.export.onnx_export import export_search

HISTORY = 20
BEAM_WIDTH = 20
K = 10
BATCHES = (1, 8, 32, 128, 512)
COMPARED = 64
"""Requests whose answers are compared."""

UNDER_WAY = 4
"""Batches, for each that the engine computes at the same time, that one measurement of throughput takes."""

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
HF = "hf_"

Work = Callable[[], object]


@dataclass(frozen=True)
class Opened:
    """An engine that is ready, with the time and the memory that this took."""

    engine: TorchEngine
    capture_s: float
    device_mib: float | None  # that torch reserved for it; None on a CPU


def open_torch_engine(model: ServedModel, device: str, precision: Precision, batches: Sequence[int]) -> Opened:
    """Open the engine and capture the shapes of these batches."""
    weights = {PREFIX + name: value.numpy() for name, value in model.recommender.state_dict().items()}
    plan = CapturePlan(tuple(sorted(batches)), history_lengths(model.config.recommender.max_history), BEAM_WIDTH, 0)

    before = _reserved(device)
    started = time.perf_counter()
    engine = TorchEngine(weights, model.config, device, plan, precision, has_dense=False)
    engine.bind(model.catalogue)
    after = _reserved(device)
    seconds = time.perf_counter() - started

    return Opened(engine, seconds, None if after is None or before is None else (after - before) / 2**20)


class Contest:
    """The work to time for one batch size, and the times."""

    def __init__(
        self, model: ServedModel, engines: Mapping[str, TorchEngine], others: dict[str, Work], batch: int
    ) -> None:
        inputs = model.batch(batch, HISTORY, BEAM_WIDTH)
        self.batch = batch
        self._engines = {name: _search(engine, inputs, model) for name, engine in engines.items()}
        self._width = {name: engine.searches for name, engine in engines.items()}
        self._work = self._engines | others
        self.taken: dict[str, list[float]] = {name: [] for name in self._work}
        self.per_batch: dict[str, list[float]] = {name: [] for name in engines}

    def run(self, repeats: int) -> None:
        """Time everything in turn."""
        for work in self._work.values():
            work()
        for _ in range(repeats):
            for name, work in self._work.items():
                self.taken[name].append(_seconds(work))
        for name, work in self._engines.items():
            self.per_batch[name] = [_seconds_together(work, self._width[name]) for _ in range(repeats)]

    def figures(self) -> dict[str, Any]:
        """Return milliseconds a batch and requests a second of every contestant, and our relative speed."""
        median_s = {name: statistics.median(taken) for name, taken in self.taken.items()}
        peers = [name for name in median_s if name.startswith(HF)]
        found: dict[str, Any] = {"batch": self.batch}

        for name, taken in self.taken.items():
            found[f"{name}_ms"] = round(1000 * median_s[name], 3)
            found[f"{name}_ms_spread"] = [round(1000 * min(taken), 3), round(1000 * max(taken), 3)]

        for name, taken in self.per_batch.items():
            found[f"{name}_req_s"] = round(self.batch / statistics.median(taken), 1)
            found[f"{name}_over_eager"] = round(median_s["eager"] / median_s[name], 2)
            if peers:
                found[f"{name}_over_hf"] = round(min(median_s[peer] for peer in peers) / median_s[name], 2)
        return found


def compare(mine: SearchOutputs, expected: SearchOutputs) -> dict[str, float]:
    """Return the share of the top K in common, and the largest difference of a common item's log-probability."""
    shared: list[float] = []
    off = 0.0
    for row in range(len(expected.leaves)):
        ours, theirs = (
            dict(zip(each.leaves[row, :K].tolist(), each.log_prob[row, :K].tolist(), strict=True))
            for each in (mine, expected)
        )
        both = ours.keys() & theirs.keys()
        shared.append(len(both) / len(theirs))
        off = max(off, *(abs(ours[leaf] - theirs[leaf]) for leaf in both), 0.0)

    return {"overlap": round(statistics.mean(shared), 4), "largest_difference": round(off, 6)}


def choose_device(device: str) -> str:
    """Return the device asked for, or the GPU.

    Raises:
        ConfigError: There is none, or not that one.
    """
    hint = "run it where a GPU and torch's CUDA build are; --device cpu --items 1500 --batches 8 shows that it works"
    if device == "cpu":
        return device
    if not torch.cuda.is_available():
        raise ConfigError("bench-gpu needs a CUDA device, and torch sees none", hint)
    known = ["cuda", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if device and device not in known:
        raise ConfigError(f"--device {device}: not among {', '.join(known)} and cpu", hint)
    return device or "cuda"


def main(
    device: Annotated[str, typer.Option(help="cuda, cuda:1 or cpu; empty: the GPU.")] = "",
    batches: Annotated[list[int], typer.Option(min=1, max=USERS, help="Batch sizes.")] = list(BATCHES),  # noqa: B006
    items: Annotated[int, typer.Option(min=1500)] = 12_000,
    repeats: Annotated[int, typer.Option(min=1)] = 15,
    steps: Annotated[int, typer.Option(min=0, help="Training steps of the model before it is measured.")] = 60,
    peer: Annotated[bool, typer.Option(help="Measure Hugging Face generate too.")] = True,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Settings of the model, section.key=value.")] = None,
) -> None:
    """Print requests a second and latency of the torch engine as one line of JSON."""
    where = choose_device(device)
    model = served_model(items, steps, set_ or ())
    onnx = OnnxEngine(export_search(model.recommender, has_dense=False), model.config)
    ready = {precision: open_torch_engine(model, where, precision, batches) for precision in PRECISIONS}
    engines = {str(name): each.engine for name, each in ready.items()}

    asked = model.batch(min(COMPARED, len(model.sequences)), HISTORY, BEAM_WIDTH, 1)
    expected = onnx.compute(asked, model.catalogue)
    onnx.close()
    answers = {
        name: compare(_compute_in_parts(engine, asked, model, max(batches)), expected)
        for name, engine in engines.items()
    }

    rivals = _Rivals(model, where, peer)
    contests = [Contest(model, engines, rivals.of(batch), batch) for batch in batches]
    for contest in contests:
        contest.run(repeats)

    result = {
        "bench": "gpu",
        "device": torch.cuda.get_device_name(where) if where.startswith("cuda") else where,
        "batches": [contest.figures() for contest in contests],
        **{f"{figure}_{name}": value for name, found in answers.items() for figure, value in found.items()},
        "captured": len(batches) * len(history_lengths(model.config.recommender.max_history)),
        "capture_s": round(ready["fp32"].capture_s, 2),
        "device_mib": ready["fp32"].device_mib,
        "torch": torch.__version__,
        "repeats": repeats,
    }
    typer.echo(json.dumps(result))


class _Rivals:
    """The searches that the engine is compared with, on the same device."""

    def __init__(self, model: ServedModel, device: str, peer: bool) -> None:
        self._model = model
        self._peer = None
        self._eager = BoundSearch(BeamSearch(model.recommender.to(device), has_dense=False), model.trie)
        if peer:
            from benchmarks.peer_generate import Peer  # needs transformers, which only benchmarks install

            self._peer = Peer(model.config, model.trie, BEAM_WIDTH, K, device)

    def of(self, batch: int) -> dict[str, Work]:
        """Return their work for one batch, by name."""
        inputs = self._model.batch(batch, HISTORY, BEAM_WIDTH)
        histories: npt.NDArray[np.int64] = self._model.trie.leaf_item[inputs.history].astype(np.int64)
        ways = self._peer.ways(histories) if self._peer else {}
        return {"eager": lambda: self._eager(inputs), **{HF + name: work for name, work in ways.items()}}


def _search(engine: TorchEngine, inputs: SearchInputs, model: ServedModel) -> Callable[[], SearchOutputs]:
    return lambda: engine.compute(inputs, model.catalogue)


def _compute_in_parts(engine: TorchEngine, asked: SearchInputs, model: ServedModel, size: int) -> SearchOutputs:
    """Compute a batch in parts of a captured size."""
    parts = [
        asked._replace(**{name: getattr(asked, name)[first : first + size] for name in BY_REQUEST})
        for first in range(0, len(asked.lengths), size)
    ]
    found = [engine.compute(part, model.catalogue) for part in parts]
    return SearchOutputs(*(np.concatenate(fields) for fields in zip(*found, strict=True)))


def _seconds(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _seconds_together(work: Work, threads: int) -> float:
    """Return the seconds of one batch while as many run at the same time as there are threads."""
    batches = UNDER_WAY * threads
    with ThreadPoolExecutor(threads) as pool:
        return _seconds(lambda: [each.result() for each in [pool.submit(work) for _ in range(batches)]]) / batches


def _reserved(device: str) -> int | None:
    return torch.cuda.memory_reserved(device) if device.startswith("cuda") else None


if __name__ == "__main__":
    application = new_app("Measure the torch engine on a GPU, beside Hugging Face generate and eager torch.")
    application.command()(main)
    sys.exit(run(application, "bench-gpu"))
