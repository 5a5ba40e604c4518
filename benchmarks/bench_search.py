"""Speed of the constrained beam search beside Hugging Face ``generate`` of the same sizes (``make bench-search``).

The paper's sizes (6 + 6 layers, d 128), a catalogue of 12,000 items whose codes our tokenizer learned, histories of 20
items, 20 beams, 10 answers, fp32. All use the same threads in one run; repeats alternate, medians are reported. The
peer uses the faster of its two usual constraints, on the same three codes; ``ratio_4_codes`` compares with the paper's
semantic IDs, which need a fourth code where ours need none. ``ratio_cheap`` is the same search with layers of 8 bits,
as bundles hold it, and ``overlap_cheap`` the share of the top 10 of 512 users that it has in common with fp32.

The floor: operations of one request, counted by :func:`operations`, at the rate of the best of several 2048-cubed fp32
products on the same threads.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer

from benchmarks.paper_model import ServedModel, served_model
from benchmarks.peer_generate import Peer
from model_store.config import ModelConfig
from model_store.search.interface import SearchInputs, SearchOutputs
from model_store.semantic_ids.trie import Trie
from service.engines.onnx_engine import OnnxEngine
from training.export.int8 import eight_bit_search
from training.export.onnx_export import export_search

HISTORY = 20
BEAM_WIDTH = 20
K = 10
FOUR_CODES = "four codes"
CUBE = 2048

SETTLE_S = 0.05
"""Seconds of untimed calls before each timed one, because the previous contestant leaves its weights in the caches."""


def operations(config: ModelConfig, items: int, beam_width: int) -> int:
    """Return the floating-point operations of one search: a multiply-add counts 2, masks and sorting count nothing.

    ``S`` encoder tokens; per layer and token: four projections d x HD, two maps d x F, and two products with S keys.
    The decoder runs one place at [BOS] and W at each of the other L - 1 codes, with self- and cross-attention; the
    keys and values of cross-attention are made once.
    """
    shape = config.recommender
    levels = config.code_length
    d = shape.d_model
    wide = shape.d_ff
    inner = shape.heads * shape.head_dim

    tokens = items * (levels if shape.history_tokens == "code" else 1)
    feed_forward = 2 * 2 * d * wide
    encoder = tokens * shape.encoder_layers * (2 * 4 * d * inner + feed_forward + 2 * 2 * tokens * inner)
    crossed = tokens * shape.decoder_layers * 2 * 2 * d * inner

    decoded = 0
    for level in range(levels):
        places = beam_width if level else 1
        attention = 2 * 4 * d * inner + 2 * 2 * d * inner + 2 * 2 * (tokens + level + 1) * inner
        logits = 2 * d * config.tokenizer.codebook_size
        decoded += places * (shape.decoder_layers * (attention + feed_forward) + logits)

    return encoder + crossed + decoded


def best_rate(repeats: int = 7) -> float:
    """Return the operations a second of the best 2048-cubed fp32 product."""
    left = torch.randn(CUBE, CUBE)
    right = torch.randn(CUBE, CUBE)
    torch.mm(left, right)
    return 2 * CUBE**3 / min(seconds(lambda: torch.mm(left, right)) for _ in range(repeats))


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def overlap(mine: SearchOutputs, theirs: SearchOutputs) -> float:
    """Return the share of the top K that two searches have in common."""
    pairs = zip(mine.leaves[:, :K].tolist(), theirs.leaves[:, :K].tolist(), strict=True)
    return statistics.mean(len(set(a) & set(b)) / K for a, b in pairs)


class Contest:
    """The work to time for one batch size, and the times."""

    def __init__(
        self, model: ServedModel, engines: dict[str, OnnxEngine], peer: Peer, four_codes: Peer, batch: int
    ) -> None:
        inputs = model.batch(batch, HISTORY, BEAM_WIDTH)
        histories: npt.NDArray[np.int64] = model.trie.leaf_item[inputs.history].astype(np.int64)
        self.batch = batch
        self.work: dict[str, Callable[[], object]] = {
            **{name: _search(engine, inputs, model) for name, engine in engines.items()},
            **peer.ways(histories),
            FOUR_CODES: four_codes.ways(histories)["logits_processor"],
        }
        self.taken: dict[str, list[float]] = {name: [] for name in self.work}

    def run(self, repeats: int) -> None:
        """Time everything in turn."""
        for _ in range(repeats):
            for name, work in self.work.items():
                settled = time.perf_counter() + SETTLE_S
                while time.perf_counter() < settled:
                    work()
                self.taken[name].append(seconds(work))

    def median_s(self, name: str) -> float:
        """Return the median seconds of a batch."""
        return statistics.median(self.taken[name])

    def peer(self) -> str:
        """Return the name of the peer's faster constraint."""
        return min(("prefix_allowed_tokens_fn", "logits_processor"), key=self.median_s)

    def ratio(self, name: str, peer: str | None = None) -> float:
        """Return the speed relative to the peer, by default to its faster constraint: the median over repeats."""
        theirs = self.taken[peer or self.peer()]
        return statistics.median(their / mine for mine, their in zip(self.taken[name], theirs, strict=True))

    def spread(self, name: str) -> list[float]:
        """Return the lowest and highest milliseconds of a batch."""
        return [round(1000 * min(self.taken[name]), 1), round(1000 * max(self.taken[name]), 1)]


def peer_with_four_codes(model: ServedModel) -> Peer:
    """Return the peer with semantic IDs as in the paper: a fourth code, here 0, tells collided items apart."""
    codes = np.pad(model.trie.codes(), ((0, 0), (0, 1)))
    config = model.config.model_copy(update={"collisions": "token"})
    return Peer(config, Trie.build(codes, model.trie.codebook_size), BEAM_WIDTH, K)


def _search(engine: OnnxEngine, inputs: SearchInputs, model: ServedModel) -> Callable[[], SearchOutputs]:
    return lambda: engine.compute(inputs, model.catalogue)


def compare(together: Contest, single: Contest, batch: int) -> dict[str, Any]:
    """Return how the engines did beside their peers, in batches of this size and with single requests."""
    ours_s = together.median_s("ours")
    hf_s = together.median_s(together.peer())
    return {
        "ours_req_s": round(batch / ours_s, 1),
        "hf_req_s": round(batch / hf_s, 1),
        "ratio": round(together.ratio("ours"), 2),
        "ratio_4_codes": round(together.ratio("ours", FOUR_CODES), 2),
        "ratio_cheap": round(together.ratio("cheap"), 2),
        "cheap_ms": round(1000 * together.median_s("cheap") / batch, 3),
        "ours_ms": round(1000 * ours_s / batch, 3),
        "hf_ms": round(1000 * hf_s / batch, 2),
        "ratio_single": round(single.ratio("ours"), 2),
        "ratio_single_4_codes": round(single.ratio("ours", FOUR_CODES), 2),
        "ratio_single_cheap": round(single.ratio("cheap"), 2),
        "single_ms": round(1000 * single.median_s("ours"), 2),
        "hf_single_ms": round(1000 * single.median_s(single.peer()), 1),
        "ours_batch_ms_spread": together.spread("ours"),
        "hf_batch_ms_spread": together.spread(together.peer()),
    }


def compare_with_floor(flop: float, rate: float, request_s: float) -> dict[str, float]:
    """Return how long a request takes beside its multiplications alone.

    Args:
        flop: Floating-point operations of a request.
        rate: Best rate of the machine, in operations a second.
        request_s: Seconds of a request in a batch.
    """
    floor_s = flop / rate
    return {
        "gflop": round(flop / 1e9, 3),
        "gflop_s": round(rate / 1e9, 1),
        "floor_ms": round(1000 * floor_s, 3),
        "over_floor": round(request_s / floor_s, 2),
    }


def main(
    batch: Annotated[int, typer.Option(min=1)] = 32,
    items: Annotated[int, typer.Option(min=300)] = 12_000,
    repeats: Annotated[int, typer.Option(min=1)] = 7,
    threads: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    steps: Annotated[int, typer.Option(min=0, help="Training steps of the model before it is measured.")] = 60,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Settings of the model, section.key=value.")] = None,
) -> None:
    torch.set_num_threads(threads)
    model = served_model(items, steps, set_ or ())
    graph = export_search(model.recommender, has_dense=False)
    engines = {
        "ours": OnnxEngine(graph, model.config, threads),
        "cheap": OnnxEngine(eight_bit_search(graph, model.recommender), model.config, threads, reduced_precision=True),
    }
    peer = Peer(model.config, model.trie, BEAM_WIDTH, K)
    four_codes = peer_with_four_codes(model)
    together, single = (Contest(model, engines, peer, four_codes, size) for size in (batch, 1))

    # the rate is measured before and after, because a shared machine drifts
    rate = best_rate()
    together.run(repeats)
    single.run(3 * repeats)
    rate = max(rate, best_rate())

    exact, cheap = (
        engine.compute(model.batch(512, HISTORY, BEAM_WIDTH, 1), model.catalogue) for engine in engines.values()
    )
    line = {"bench": "search", "batch": batch, **compare(together, single, batch)}
    line["overlap_cheap"] = round(overlap(exact, cheap), 4)
    line |= compare_with_floor(operations(model.config, HISTORY, BEAM_WIDTH), rate, together.median_s("ours") / batch)
    line |= {"peer": together.peer(), "codes": model.config.code_length, "threads": threads, "repeats": repeats}
    typer.echo(json.dumps({**line, "load": round(os.getloadavg()[0], 2)}))


if __name__ == "__main__":
    typer.run(main)
