"""Peer of ``bench-search``: a Hugging Face T5 of the same sizes, decoding with constrained ``generate``.

Two usual ways keep it inside a catalogue: ``prefix_allowed_tokens_fn`` over a trie of dicts, and a logits processor
that gathers a mask row for every beam. The model is untrained: its speed does not depend on weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from benchmarks.peer_t5 import SPECIAL, peer_t5
from model_store.config import ModelConfig
from model_store.semantic_ids.trie import Trie


class MaskRows(LogitsProcessor):
    """Logits processor that adds one precomputed mask row to every beam, found by the codes it has decoded."""

    def __init__(self, trie: Trie, codes: npt.NDArray[np.integer], device: str = "cpu") -> None:
        size = trie.codebook_size
        levels = trie.levels
        self._size = size
        self._rows: list[Tensor] = []
        self._masks: list[Tensor] = []

        for level in range(levels):
            prefixes, row = np.unique(_keys(codes[:, :level], size), return_inverse=True)
            mask = torch.full((len(prefixes), SPECIAL + levels * size), -torch.inf)
            token = torch.from_numpy(codes[:, level].astype(np.int64)) + SPECIAL + level * size
            mask[torch.from_numpy(row), token] = 0.0
            lookup = torch.zeros(size**level, dtype=torch.int64)
            lookup[torch.from_numpy(prefixes)] = torch.arange(len(prefixes))
            self._rows.append(lookup.to(device))
            self._masks.append(mask.to(device))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See the base class; ``input_ids`` begin with the start token."""
        level = input_ids.shape[1] - 1
        key = torch.zeros_like(input_ids[:, 0])
        for at in range(level):
            key = key * self._size + input_ids[:, at + 1] - SPECIAL - at * self._size
        return scores + self._masks[level][self._rows[level][key]]


class Peer:
    """``generate`` for one batch of histories.

    Args:
        config: Sizes.
        trie: The catalogue.
        beam_width: Beams.
        k: Answers.
        device: Where the model and the masks are.
    """

    def __init__(self, config: ModelConfig, trie: Trie, beam_width: int, k: int, device: str = "cpu") -> None:
        self._size = config.tokenizer.codebook_size
        self._device = device
        with torch.device(device):
            self._model = peer_t5(config).eval()

        self._options = GenerationConfig(
            num_beams=beam_width,
            num_return_sequences=k,
            max_new_tokens=trie.levels,
            do_sample=False,
            decoder_start_token_id=0,
            pad_token_id=0,
        )

        self._codes = trie.codes()
        self._mask_rows = LogitsProcessorList([MaskRows(trie, self._codes, device)])
        self._children = _children(self._codes, self._size)

    def ways(self, histories: npt.NDArray[np.integer]) -> dict[str, Callable[[], Tensor]]:
        """Return both ways to answer histories of catalogue rows ``[B, T]``, by name; each gives codes ``[B·k, L]``."""
        codes = torch.from_numpy(self._codes[histories].astype(np.int64))  # [B, T, L]
        source = (codes + torch.arange(codes.shape[2]) * self._size + SPECIAL).flatten(1).to(self._device)

        def allowed(_: int, decoded: Tensor) -> list[int]:
            return self._children[tuple(decoded[1:].tolist())]

        return {
            "prefix_allowed_tokens_fn": lambda: self._generate(source, prefix_allowed_tokens_fn=allowed),
            "logits_processor": lambda: self._generate(source, logits_processor=self._mask_rows),
        }

    def _generate(self, source: Tensor, **constraint: object) -> Tensor:
        with torch.inference_mode():
            mask = torch.ones_like(source)
            found: Tensor = self._model.generate(source, self._options, attention_mask=mask, **constraint)
        return found[:, 1:].cpu()


def _keys(codes: npt.NDArray[np.integer], size: int) -> npt.NDArray[np.int64]:
    key = np.zeros(len(codes), dtype=np.int64)
    for level in range(codes.shape[1]):
        key = key * size + codes[:, level]
    return key


def _children(codes: npt.NDArray[np.integer], size: int) -> dict[tuple[int, ...], list[int]]:
    tokens = codes.astype(np.int64) + np.arange(codes.shape[1]) * size + SPECIAL
    found: dict[tuple[int, ...], set[int]] = {}
    for row in tokens.tolist():
        for depth, token in enumerate(row):
            found.setdefault(tuple(row[:depth]), set()).add(token)
    return {prefix: sorted(children) for prefix, children in found.items()}
