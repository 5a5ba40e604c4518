"""The search in plain NumPy, one request at a time: the judge of every fast implementation.

It is slow, written to be read, and shares no code with them: the network is spelled out from the weights, and the trie
is a dict of prefixes.

Shapes: T history items, L codes of a semantic ID, K codes a level, S encoder tokens, H heads, D head width, d model
width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.config import ModelConfig

Array = npt.NDArray[np.float64]
Prefix = tuple[int, ...]

REPEAT_SCALE = 10.0
"""Size of one unit of the weights in ``code_repeat_bias``, in nats."""


FILTERED = 50
"""Tokens that the low-pass filter reads."""

LOWEST_FREQUENCIES = 5
"""Frequencies of them that it keeps, the mean included."""


class Beam(NamedTuple):
    """A decoded prefix and the sum of its log-probabilities."""

    prefix: Prefix
    log_prob: float
    steering: float = 0.0  # nats added on the way


class Candidate(NamedTuple):
    """An item with both of its scores."""

    row: int
    log_prob: float
    dense: float


class ReferenceSearch:
    """Search with recommender weights and one catalogue in NumPy.

    Args:
        config: The model.
        weights: By name as in ``weights.safetensors``.
        codes: Semantic IDs of all items, hidden ones included, ``[items, L]``.
        vectors: Vectors of all items, unit length, ``[items, d_s]``; optional if neither histories nor dense scores
            need them.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, npt.NDArray[np.floating]],
        codes: npt.NDArray[np.integer],
        vectors: npt.NDArray[np.floating] | None = None,
    ) -> None:
        self.shape = config.recommender
        self.levels = config.code_length
        self.weights = {name: value.astype(np.float64) for name, value in weights.items()}
        self.codes = codes
        self.vectors = np.zeros((len(codes), config.tokenizer.embedding_dim)) if vectors is None else vectors

    def search(
        self,
        history: npt.NDArray[np.integer],
        beam_width: int,
        is_open: npt.NDArray[np.bool_] | None = None,
        max_per_prefix: int | None = None,
        steer: Mapping[Prefix, float] | None = None,
    ) -> list[tuple[int, float]]:
        """Decode one history.

        Args:
            history: Catalogue rows, oldest first, ``[T]``.
            beam_width: W.
            is_open: Items that the rules allow, ``[items]``; default: all.
            max_per_prefix: Beams that may share a first code.
            steer: Nats added to the log-probability of entering a prefix; beams compete by the sums of both.

        Returns:
            Catalogue rows and log-probabilities without steering, best first; ties go to the smaller semantic ID.
        """
        children, row_of = _build_trie(self.codes)
        open_rows = np.ones(len(self.codes), dtype=bool) if is_open is None else is_open
        reachable = {
            tuple(codes[:depth]) for codes in self.codes[open_rows].tolist() for depth in range(1, self.levels + 1)
        }

        encoded = self._encode(history)
        beams = [Beam((), 0.0)]
        for _ in range(self.levels):
            longer = [
                Beam(
                    (*beam.prefix, code),
                    beam.log_prob + log_prob,
                    beam.steering + (steer or {}).get((*beam.prefix, code), 0.0),
                )
                for beam in beams
                for code, log_prob in self._code_log_probs(encoded, history, beam.prefix, children[beam.prefix]).items()
                if (*beam.prefix, code) in reachable
            ]
            longer.sort(key=lambda beam: (-beam.log_prob - beam.steering, beam.prefix))
            beams = _limit_per_prefix(longer, max_per_prefix)[:beam_width]
        return [(row_of[beam.prefix], beam.log_prob) for beam in beams]

    def score(self, history: npt.NDArray[np.integer], row: int) -> float:
        """Return the log-probability of one item by definition, without any search."""
        return sum(self.code_scores(history, row))

    def code_scores(self, history: npt.NDArray[np.integer], row: int) -> list[float]:
        """Return the log-probability of each code of an item; their sum is :meth:`score`."""
        children, _ = _build_trie(self.codes)
        encoded = self._encode(history)
        codes = tuple(self.codes[row].tolist())
        prefixes = [codes[:depth] for depth in range(self.levels)]
        return [
            self._code_log_probs(encoded, history, prefix, children[prefix])[code]
            for prefix, code in zip(prefixes, codes, strict=True)
        ]

    def candidates(
        self,
        history: npt.NDArray[np.integer],
        beam_width: int,
        count: int,
        is_open: npt.NDArray[np.bool_] | None = None,
        max_per_prefix: int | None = None,
        added: Mapping[int, float] | None = None,
        steer: Mapping[Prefix, float] | None = None,
        scores_all: bool = True,
    ) -> tuple[list[Candidate], list[Candidate]]:
        """Return the beams, and the dense candidates that are no beams.

        Args:
            history, beam_width, is_open, max_per_prefix, steer: As in :meth:`search`.
            count: n, number of open items with the highest dense scores; beams among them are not returned again.
            added: As in :meth:`dense_scores`.
            scores_all: Whether dense candidates come from all items; if not, from the history and the rows of
                ``added``.
        """
        dense = self.dense_scores(history, added).tolist()
        found = self.search(history, beam_width, is_open, max_per_prefix, steer)
        beams = [Candidate(row, log_prob, dense[row]) for row, log_prob in found]
        beam_rows = {beam.row for beam in beams}

        open_rows = [row for row in range(len(self.codes)) if is_open is None or is_open[row]]
        if not scores_all:
            listed = {*history[-self.shape.max_history :].tolist(), *(added or {})}
            open_rows = [row for row in open_rows if row in listed]
        nearest = sorted(open_rows, key=lambda row: -dense[row])[:count]
        others = [row for row in nearest if row not in beam_rows]
        return beams, [Candidate(row, self.score(history, row), dense[row]) for row in others]

    def dense_scores(self, history: npt.NDArray[np.integer], added: Mapping[int, float] | None = None) -> Array:
        """Return the cosine of the user's vector with every item's vector, ``[items]``, plus the repeat bias.

        The user's vector is made of the newest item's state. Only items of the history have a repeat bias. ``added``,
        what neighbours add to the scores of some rows, comes on top.
        """
        user = self.weights["vector_out.weight"] @ self._user_states(history)[-1]
        scores: Array = self.vectors @ user / (np.linalg.norm(self.vectors, axis=1) * np.linalg.norm(user))
        for row, bias in self._repeats(history, "repeat_bias", 0):
            scores[row] += bias
        for row, value in (added or {}).items():
            scores[row] += value
        return scores

    def _code_log_probs(
        self, encoded: Array, history: npt.NDArray[np.integer], prefix: Prefix, codes: list[int]
    ) -> dict[int, float]:
        """Return the log-softmax over the codes that the trie holds below a prefix."""
        level = len(prefix)
        logits = self.weights["code_embedding"][level] @ self._decode(encoded, len(history), prefix)
        for row, added in self._repeats(history, "code_repeat_bias", level):
            if tuple(self.codes[row, :level].tolist()) == prefix:
                logits[self.codes[row, level]] += REPEAT_SCALE * added

        logits = logits[codes]
        shifted = logits - logits.max()
        log_prob = shifted - math.log(np.exp(shifted).sum())
        return dict(zip(codes, log_prob.tolist(), strict=True))

    def _repeats(self, history: npt.NDArray[np.integer], name: str, table: int) -> list[tuple[int, float]]:
        """Return the rows of a history, newest first, with the bias that each adds to its own score.

        The bias is in the units of the weights.
        """
        if not self.shape.repeat_bias:
            return []
        newest_first = history[-self.shape.max_history :][::-1].tolist()
        added = self.weights[f"{name}.weight"][table].tolist()
        return [(row, added[min(age, len(added) - 1)]) for age, row in enumerate(newest_first)]

    def _encode(self, history: npt.NDArray[np.integer]) -> Array:
        """Return the encoder states ``[S, d]`` of catalogue rows ``[T]``."""
        tokens = self._embed_tokens(history[-self.shape.max_history :])
        return self._run_encoder("encoder", tokens, self.shape.encoder_attention == "causal")

    def _user_states(self, history: npt.NDArray[np.integer]) -> Array:
        """Return the encoder states whose last one becomes the user's vector."""
        if self.shape.user_encoder == "shared":
            return self._encode(history)
        vectors = self.vectors[history[-self.shape.max_history :]]
        return self._run_encoder("user_encoder", vectors @ self.weights["user_in.weight"].T, is_causal=True)

    def _run_encoder(self, prefix: str, x: Array, is_causal: bool) -> Array:
        position = np.arange(len(x))
        distance = position[:, None] - position
        bias = self._bias(f"{prefix}.bias", distance, not is_causal)
        if is_causal:
            bias = np.where(distance < 0, -np.inf, bias)

        share = self.shape.low_pass
        smoothing = _low_pass()[np.minimum(abs(distance), FILTERED)] * ((distance >= 0) | (not is_causal))

        for layer in range(self.shape.encoder_layers):
            name = f"{prefix}.layers.{layer}"
            normed = self._norm(x, f"{name}.attention_norm")
            attended = self._attend(normed, normed, bias, f"{name}.attention")
            x = x + share * (smoothing @ normed) + (1 - share) * attended
            x = x + self._feed_forward(x, name)
        return self._norm(x, f"{prefix}.norm")

    def _embed_tokens(self, history: npt.NDArray[np.integer]) -> Array:
        """Return the inputs of the encoder, ``[S, d]``."""
        if self.shape.history_tokens == "vector":
            projected: Array = self.vectors[history] @ self.weights["vector_in.weight"].T
            return projected

        codes = self.codes[history]
        tables = self.weights["code_embedding"]
        by_level: Array = np.stack([tables[level][codes[:, level]] for level in range(self.levels)], 1)
        summed: Array = by_level.sum(1)
        return by_level.reshape(-1, self.shape.d_model) if self.shape.history_tokens == "code" else summed

    def _decode(self, encoded: Array, items: int, prefix: Prefix) -> Array:
        """Return the decoder state ``[d]`` after its start and the codes of a prefix."""
        start = self.weights["bos"] + (encoded[-1] if self.shape.newest_start else 0.0)
        embedded = [self.weights["code_embedding"][level][code] for level, code in enumerate(prefix)]
        x = np.stack([start, *embedded])

        step = np.arange(len(x))
        distance = step[:, None] - step
        self_bias = np.where(distance < 0, -np.inf, self._bias("decoder_bias", distance, False))

        items = min(items, self.shape.max_history)
        item_of_token = np.arange(len(encoded)) // (len(encoded) // items)
        age = np.broadcast_to(items - 1 - item_of_token, (len(x), len(encoded)))
        cross_bias = self._bias("recency_bias", age, False) if self.shape.recency_bias else np.zeros((1, 1, 1))

        for layer in range(self.shape.decoder_layers):
            name = f"decoder.{layer}"
            normed = self._norm(x, f"{name}.self_norm")
            x = x + self._attend(normed, normed, self_bias, f"{name}.self_attention")
            normed = self._norm(x, f"{name}.cross_norm")
            x = x + self._attend(normed, encoded, cross_bias, f"{name}.cross_attention")
            x = x + self._feed_forward(x, name)
        last: Array = self._norm(x, "decoder_norm")[-1]
        return last

    def _norm(self, x: Array, name: str) -> Array:
        normed: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * self.weights[f"{name}.weight"]
        return normed

    def _feed_forward(self, x: Array, layer: str) -> Array:
        normed = self._norm(x, f"{layer}.feed_forward_norm")
        hidden = np.maximum(normed @ self.weights[f"{layer}.feed_forward.expand.weight"].T, 0)
        return hidden @ self.weights[f"{layer}.feed_forward.contract.weight"].T

    def _attend(self, x: Array, source: Array, bias: Array, name: str) -> Array:
        def heads(values: Array, part: str) -> Array:
            projected = values @ self.weights[f"{name}.{part}.weight"].T
            return projected.reshape(len(values), self.shape.heads, self.shape.head_dim).swapaxes(0, 1)

        query = heads(x, "query")
        key = heads(source, "key")
        value = heads(source, "value")

        scores = query @ key.swapaxes(1, 2) / math.sqrt(self.shape.head_dim) + bias
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)

        mixed = (weights @ value).swapaxes(0, 1).reshape(len(x), -1)
        projected: Array = mixed @ self.weights[f"{name}.out.weight"].T
        return projected

    def _bias(self, name: str, distance: npt.NDArray[np.integer], bidirectional: bool) -> Array:
        """Return T5's bucketed relative bias ``[H, …]`` for distances ``[…]``."""
        table = self.weights[f"{name}.weight"]
        bucket = np.vectorize(lambda at: self._bucket(int(at), len(table), bidirectional))(distance)
        return np.moveaxis(table[bucket], -1, 0)

    def _bucket(self, distance: int, buckets: int, bidirectional: bool) -> int:
        if bidirectional:
            half = buckets // 2
            return (half if distance < 0 else 0) + self._log_bucket(abs(distance), half)
        return self._log_bucket(max(distance, 0), buckets)

    def _log_bucket(self, distance: int, buckets: int) -> int:
        exact = buckets // 2
        if distance < exact:
            return distance
        ratio = math.log(distance / exact) / math.log(self.shape.max_distance / exact)
        return min(exact + int(ratio * (buckets - exact)), buckets - 1)


def fuse(
    candidates: Sequence[Candidate], weight: float, k: int, max_per_prefix: int, first_code: Sequence[int]
) -> list[int]:
    """Return the k best catalogue rows by ``log_prob + weight * dense``, at most ``max_per_prefix`` of a first code.

    ``first_code`` is by catalogue row.
    """
    chosen: list[int] = []
    for row, _, _ in sorted(candidates, key=lambda item: -(item.log_prob + weight * item.dense)):
        if [first_code[other] for other in chosen].count(first_code[row]) < max_per_prefix:
            chosen.append(row)
    return chosen[:k]


def _build_trie(catalogue: npt.NDArray[np.integer]) -> tuple[dict[Prefix, list[int]], dict[Prefix, int]]:
    """Return the child codes of every prefix, ascending, and the row of every full semantic ID."""
    children: dict[Prefix, list[int]] = {}
    rows = {tuple(codes): row for row, codes in enumerate(catalogue.tolist())}
    for codes in sorted(rows):
        for depth, code in enumerate(codes):
            known = children.setdefault(codes[:depth], [])
            if not known or known[-1] != code:
                known.append(code)
    return children, rows


def _low_pass() -> Array:
    """Return what the filter makes of a single 1, by distance from it, [FILTERED + 1]; the last one is 0."""
    spectrum = np.fft.rfft(np.eye(1, FILTERED)[0])
    spectrum[LOWEST_FREQUENCIES:] = 0
    return np.append(np.fft.irfft(spectrum, FILTERED), 0.0)


def _limit_per_prefix(beams: list[Beam], max_per_prefix: int | None) -> list[Beam]:
    """Drop beams beyond the allowed number per first code, in order."""
    if max_per_prefix is None:
        return beams

    kept: list[Beam] = []
    used: dict[int, int] = {}
    for beam in beams:
        used[beam.prefix[0]] = used.get(beam.prefix[0], 0) + 1
        if used[beam.prefix[0]] <= max_per_prefix:
            kept.append(beam)
    return kept
