"""The torch search at fixed shapes: tensors that stay where they are, searches captured over them, batches replayed.

Three stages of a batch: its requests are written to a staging buffer on the host; one copy, the captured search and the
copies of its answers are started on the device, in order; the host waits for the last. Buffers come in pairs, so that a
second thread stages and starts its batch while the device is busy with the first.

Every catalogue lives in tensors of its own. The captured search reads static ones, into which the catalogue of a batch
is copied, on the device and in order, when the batch before had another: no search sees half of a catalogue.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_store.network.search import BeamSearch
from model_store.search.fusion import DENSE_ITEMS
from model_store.search.interface import SearchInputs, SearchOutputs
from model_store.semantic_ids.trie import Trie
from service.engines.buckets import RULES, Bucket, CapturePlan
from service.engines.cuda_graphs import Runner, Work
from service.engines.device_catalogue import PaddedLayout

STAGED = 2
"""Batches under way at the same time: one on the device, one behind it."""


@dataclass(frozen=True, eq=False)
class DeviceCatalogue:
    """A catalogue on the device."""

    trie: Trie
    tensors: tuple[Tensor, ...]  # as Headroom.arrays
    everything: Tensor  # [1, mask_bytes], the mask that excludes nothing


@dataclass(frozen=True, eq=False)
class _Slot:
    """Staging buffers of one batch, as large as the largest needs."""

    requests: Tensor  # [numbers] int64, see Bucket.carved
    rules: Tensor  # [RULES - 1, mask_bytes] uint8
    outputs: tuple[Tensor, ...]  # as SearchOutputs


class StaticSearch:
    """One search with room for catalogues of one lineage. Thread-safe.

    Args:
        search: In evaluation mode, on its device.
        room: What catalogues may grow to.
        has_vectors: Whether catalogues have item vectors.
        plan: Shapes to capture; all others are searched call by call.
        runner: Of that device; this search's own.
    """

    def __init__(
        self, search: BeamSearch, room: PaddedLayout, has_vectors: bool, plan: CapturePlan, runner: Runner
    ) -> None:
        self.room, self.has_vectors, self.plan = room, has_vectors, plan
        self._search, self._device = search, search.recommender.bos.device
        self._runner = runner
        self._lock = threading.Lock()
        self._captured: dict[Bucket, Work] = {}
        self._active: DeviceCatalogue | None = None  # whose copy the static tensors hold
        self._catalogue: tuple[Tensor, ...] = ()
        self._rules = self._zeros(RULES, room.mask_bytes, dtype=torch.uint8)
        self._requests = self._zeros(plan.largest.numbers, dtype=torch.int64)
        self._slots: SimpleQueue[_Slot] = SimpleQueue()
        for _ in range(STAGED if plan.batches else 0):
            self._slots.put(self._new_slot())

    def fits(self, trie: Trie, has_vectors: bool, plan: CapturePlan) -> bool:
        """Whether a catalogue can be searched here, by that plan."""
        return self.room.holds(trie) and (self.has_vectors, self.plan) == (has_vectors, plan)

    @torch.inference_mode()
    def resident(self, trie: Trie, vectors: npt.NDArray[np.float32] | None) -> DeviceCatalogue:
        """Bring a catalogue to the device, beside those that are searched meanwhile."""
        candidates = 1 if trie.items <= DENSE_ITEMS else 0  # of larger ones no request wants dense candidates
        arrays = self.room.arrays(trie, vectors, self._search.recommender.embedding_dim, candidates)
        tensors = tuple(self._moved(array) for array in arrays)
        return DeviceCatalogue(trie, tensors, self._moved(self.room.masks(trie, [trie.everything.bits])))

    @torch.inference_mode()
    def capture(self, resident: DeviceCatalogue) -> None:
        """Capture all shapes of the plan. Once, before the first search; takes a moment for each."""
        if not self.plan.batches:
            return
        with self._runner.in_order():
            self._catalogue = tuple(tensor.clone() for tensor in resident.tensors)
            self._activate(resident)
            for bucket in self.plan.buckets:
                self._requests.zero_()
                bucket.carved(self._requests).lengths.fill_(1)
                self._captured[bucket] = self._runner.recorded(self._work(bucket))

    @torch.inference_mode()
    def __call__(self, asked: SearchInputs, resident: DeviceCatalogue) -> SearchOutputs:
        """Search a batch. A beam that is narrower than the captured one is widened to it."""
        asked = self._renumbered(self.plan.widened(asked), resident.trie)
        bucket = self.plan.find(asked)
        if bucket is None:
            return self._call_by_call(asked, resident)
        slot = self._slots.get()
        try:
            return self._replayed(asked, bucket, slot, resident)
        finally:
            self._slots.put(slot)

    def _replayed(self, asked: SearchInputs, bucket: Bucket, slot: _Slot, resident: DeviceCatalogue) -> SearchOutputs:
        size, rules = len(asked.lengths), slot.rules[: len(asked.rule_bits)]
        bucket.carved(slot.requests.numpy()).fill(asked)
        rules.numpy()[...] = asked.rule_bits
        answers = [staged[:size] for staged in slot.outputs]
        with self._lock, self._runner.in_order():
            self._activate(resident)
            self._requests[: bucket.numbers].copy_(slot.requests[: bucket.numbers], non_blocking=True)
            self._rules[1 : 1 + len(rules)].copy_(rules, non_blocking=True)
            for answer, output in zip(answers, self._captured[bucket](), strict=True):
                answer.copy_(output[:size], non_blocking=True)
            wait = self._runner.mark()
        wait()
        return SearchOutputs(*(answer.numpy().copy() for answer in answers))

    def _call_by_call(self, asked: SearchInputs, resident: DeviceCatalogue) -> SearchOutputs:
        with self._runner.in_order():
            history, lengths, rules, *rest = (self._moved(field) for field in asked)
            rules = torch.cat([resident.everything, rules])
            pool = _pool(resident.tensors, len(asked.candidates))
            outputs = self._search(history, lengths, rules, *rest, *resident.tensors[:-1], pool)
            return SearchOutputs(*(output.cpu().numpy() for output in outputs))

    def _work(self, bucket: Bucket) -> Work:
        fields = bucket.carved(self._requests)
        beam, candidates = (
            torch.arange(count, device=self._device) for count in (self.plan.width, self.plan.candidates)
        )
        pool = _pool(self._catalogue, self.plan.candidates)

        def work() -> tuple[Tensor, ...]:
            found: tuple[Tensor, ...] = self._search(
                fields.history,
                fields.lengths,
                self._rules,
                fields.rule_of,
                fields.excluded,
                fields.max_per_prefix,
                beam,
                candidates,
                *self._catalogue[:-1],
                pool,
            )
            return found

        return work

    def _activate(self, resident: DeviceCatalogue) -> None:
        if self._active is resident:
            return
        for static, tensor in zip(self._catalogue, resident.tensors, strict=True):
            static.copy_(tensor)
        self._rules[:1].copy_(resident.everything)
        self._active = resident

    def _renumbered(self, asked: SearchInputs, trie: Trie) -> SearchInputs:
        """The same questions in the numbers of the padded catalogue.

        Rule 0 is "everything", which is on the device already: ``rule_bits`` are rules 1 … only.
        """
        everything = trie.everything.bits
        is_rule = np.array([not np.array_equal(bits, everything) for bits in asked.rule_bits])
        number = np.cumsum(is_rule) * is_rule
        return asked._replace(
            rule_of=number[asked.rule_of],
            rule_bits=self.room.masks(trie, asked.rule_bits[is_rule]),
            excluded=self.room.node_ids(trie, asked.excluded),
        )

    def _new_slot(self) -> _Slot:
        plan, staging = self.plan, self._runner.staging
        places, levels = (plan.largest.batch, plan.width + plan.candidates), len(self.room.nodes)
        outputs = [staging(*places, dtype=kind) for kind in (torch.int64, torch.float32, torch.float32)]
        return _Slot(
            staging(plan.largest.numbers, dtype=torch.int64),
            staging(RULES - 1, self.room.mask_bytes, dtype=torch.uint8),
            (*outputs, staging(*places, levels, dtype=torch.float32)),
        )

    def _zeros(self, *shape: int, dtype: torch.dtype) -> Tensor:
        with torch.inference_mode(), self._runner.in_order():
            return torch.zeros(shape, dtype=dtype, device=self._device)

    def _moved(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _pool(catalogue: Sequence[Tensor], candidates: int) -> Tensor:
    """Item vectors that dense candidates are chosen from, the last tensor; none where there are no candidates."""
    return catalogue[-1] if candidates else catalogue[-1][:0]
