"""Torch search at fixed shapes: captured once for each bucket, then replayed batch by batch.

A batch takes three steps. Its requests are written to a staging buffer on the host. One copy to the device, the
captured search and the copies of its answers are started, in this order. The host waits for the last copy. There are
two staging buffers, so that a second thread can write and start its batch while the device is busy with the first.

Every catalogue has tensors of its own on the device. The captured search reads static ones. If a batch is of another
catalogue than the one before, its catalogue is copied to them first, on the device and in order, so that no search sees
half of a catalogue.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_store.network.search import BeamSearch
from model_store.search.fusion import scores_all_items
from model_store.search.interface import SearchInputs, SearchOutputs
from model_store.semantic_ids.trie import Trie
from service.engines.buckets import MAX_RULES, Bucket, CapturePlan
from service.engines.cuda_graphs import Runner, StaticFunction
from service.engines.device_catalogue import DeviceCatalogue, PaddedLayout

BATCHES_IN_FLIGHT = 2
"""Batches under way at the same time: one on the device, one staged behind it."""


@dataclass(frozen=True, eq=False)
class _StagingBuffer:
    """Host memory of one batch, large enough for the largest bucket."""

    requests: Tensor  # [numbers] int64, see Bucket.view
    scores: Tensor  # [scores] float32, see Bucket.view
    rules: Tensor  # [MAX_RULES - 1, mask_bytes] uint8
    outputs: tuple[Tensor, ...]  # as SearchOutputs


class CatalogueKind(NamedTuple):
    """What a catalogue has besides its trie. Searches are captured for one kind."""

    has_vectors: bool
    has_pool: bool  # whether dense candidates come from all items

    @classmethod
    def of(cls, trie: Trie, vectors: npt.NDArray[np.float32] | None) -> CatalogueKind:
        """Return the kind of a catalogue; ``vectors`` as in :class:`~model_store.network.bound_search.BoundSearch`."""
        return cls(vectors is not None, scores_all_items(trie.items))


class StaticSearch:
    """Search with room for catalogues of one lineage. Thread-safe.

    Args:
        search: In evaluation mode, on its device.
        layout: Capacity that catalogues may grow to.
        kind: What catalogues have besides their tries.
        plan: Buckets to capture. All other batches are searched eagerly.
        runner: A runner of that device for this search alone.
    """

    def __init__(
        self, search: BeamSearch, layout: PaddedLayout, kind: CatalogueKind, plan: CapturePlan, runner: Runner
    ) -> None:
        self.layout = layout
        self.kind = kind
        self.plan = plan
        self._search = search
        self._device = search.recommender.bos.device
        self._runner = runner
        self._lock = threading.Lock()

        # Static tensors, which captured searches read; the catalogue's are made with the captures.
        self._captured: dict[Bucket, StaticFunction] = {}
        self._active: DeviceCatalogue | None = None  # the catalogue that the static tensors hold
        self._catalogue: tuple[Tensor, ...] = ()
        self._rules = self._create_static(MAX_RULES, layout.mask_bytes, dtype=torch.uint8)
        self._requests = self._create_static(plan.largest.numbers, dtype=torch.int64)
        self._scores = self._create_static(plan.largest.scores, dtype=torch.float32)

        self._staging: SimpleQueue[_StagingBuffer] = SimpleQueue()
        for _ in range(BATCHES_IN_FLIGHT if plan.batches else 0):
            self._staging.put(self._create_staging_buffer())

    def fits(self, trie: Trie, kind: CatalogueKind) -> bool:
        """Return whether a catalogue can be searched here."""
        return self.layout.fits(trie) and self.kind == kind

    @torch.inference_mode()
    def catalogue_to_device(self, trie: Trie, vectors: npt.NDArray[np.float32] | None) -> DeviceCatalogue:
        """Copy a catalogue to the device, beside those that are searched meanwhile."""
        width = self._search.recommender.embedding_dim
        arrays = self.layout.pad_arrays(trie, vectors, width, self.kind.has_pool)
        tensors = tuple(self._to_device(array) for array in arrays)
        everything = self.layout.renumber_masks(trie, [trie.everything.bits])
        return DeviceCatalogue(trie, tensors, self._to_device(everything))

    @torch.inference_mode()
    def capture(self, catalogue: DeviceCatalogue) -> None:
        """Capture all buckets of the plan. Call it once, before the first search; each bucket takes a moment."""
        if not self.plan.batches:
            return
        with self._runner.in_order():
            self._catalogue = tuple(tensor.clone() for tensor in catalogue.tensors)
            self._activate(catalogue)
            for bucket in self.plan.buckets:
                self._requests.zero_()
                bucket.view(self._requests, self._scores).lengths.fill_(1)
                self._captured[bucket] = self._runner.capture(self._search_bucket(bucket))

    @torch.inference_mode()
    def __call__(self, asked: SearchInputs, catalogue: DeviceCatalogue) -> SearchOutputs:
        """Search a batch. A beam that is narrower than the captured one is widened to it."""
        asked = self._renumber(self.plan.widen(asked), catalogue.trie)
        bucket = self.plan.find(asked)
        if bucket is None:
            return self._search_eagerly(asked, catalogue)

        staging = self._staging.get()
        try:
            return self._replay(asked, bucket, staging, catalogue)
        finally:
            self._staging.put(staging)

    def _replay(
        self, asked: SearchInputs, bucket: Bucket, staging: _StagingBuffer, catalogue: DeviceCatalogue
    ) -> SearchOutputs:
        # 1. Write the requests to host memory.
        size = len(asked.lengths)
        rules = staging.rules[: len(asked.rule_bits)]
        bucket.view(staging.requests.numpy(), staging.scores.numpy()).fill(asked)
        rules.numpy()[...] = asked.rule_bits
        answers = [staged[:size] for staged in staging.outputs]

        # 2. Start the copies and the search on the device; nothing here waits for it.
        with self._lock, self._runner.in_order():
            self._activate(catalogue)
            self._requests[: bucket.numbers].copy_(staging.requests[: bucket.numbers], non_blocking=True)
            self._scores[: bucket.scores].copy_(staging.scores[: bucket.scores], non_blocking=True)
            self._rules[1 : 1 + len(rules)].copy_(rules, non_blocking=True)
            for answer, output in zip(answers, self._captured[bucket](), strict=True):
                answer.copy_(output[:size], non_blocking=True)
            wait = self._runner.fence()

        # 3. Wait for the answers.
        wait()
        return SearchOutputs(*(answer.numpy().copy() for answer in answers))

    def _search_eagerly(self, asked: SearchInputs, catalogue: DeviceCatalogue) -> SearchOutputs:
        """Search a batch at its own shape, without a captured search."""
        with self._runner.in_order():
            history, lengths, rules, *rest = (self._to_device(field) for field in asked)
            rules = torch.cat([catalogue.everything, rules])
            pool = _pool(catalogue.tensors, len(asked.candidates))
            outputs = self._search(history, lengths, rules, *rest, *catalogue.tensors[:-1], pool)
            return SearchOutputs(*(output.cpu().numpy() for output in outputs))

    def _search_bucket(self, bucket: Bucket) -> StaticFunction:
        """Return a function that searches the static tensors at the shape of a bucket."""
        fields = bucket.view(self._requests, self._scores)
        beam = torch.arange(self.plan.width, device=self._device)
        candidates = torch.arange(self.plan.candidates, device=self._device)
        pool = _pool(self._catalogue, self.plan.candidates)
        steer_nodes = torch.empty((bucket.batch, 0), dtype=torch.int64, device=self._device)
        steer_nats = torch.empty((bucket.batch, 0), device=self._device)

        def search() -> tuple[Tensor, ...]:
            outputs: tuple[Tensor, ...] = self._search(
                fields.history,
                fields.lengths,
                self._rules,
                fields.rule_of,
                fields.excluded,
                fields.max_per_prefix,
                fields.neighbours,
                fields.neighbour_scores,
                steer_nodes,
                steer_nats,
                beam,
                candidates,
                *self._catalogue[:-1],
                pool,
            )
            return outputs

        return search

    def _activate(self, catalogue: DeviceCatalogue) -> None:
        """Copy a catalogue to the static tensors, unless they hold it already."""
        if self._active is catalogue:
            return
        for static, tensor in zip(self._catalogue, catalogue.tensors, strict=True):
            static.copy_(tensor)
        self._rules[:1].copy_(catalogue.everything)
        self._active = catalogue

    def _renumber(self, asked: SearchInputs, trie: Trie) -> SearchInputs:
        """Return the same batch with the node ids of the padded layout.

        Rule 0 of the result is "everything", which is on the device already: its ``rule_bits`` hold rules 1 … only.
        """
        everything = trie.everything.bits
        is_rule = np.array([not np.array_equal(bits, everything) for bits in asked.rule_bits])
        number = np.cumsum(is_rule) * is_rule
        return asked._replace(
            rule_of=number[asked.rule_of],
            rule_bits=self.layout.renumber_masks(trie, asked.rule_bits[is_rule]),
            excluded=self.layout.renumber_nodes(trie, asked.excluded),
            steer_nodes=self.layout.renumber_nodes(trie, asked.steer_nodes),
        )

    def _create_staging_buffer(self) -> _StagingBuffer:
        create_staging = self._runner.create_staging
        places = (self.plan.largest.batch, self.plan.width + self.plan.candidates)
        levels = len(self.layout.nodes)
        outputs = [create_staging(*places, dtype=kind) for kind in (torch.int64, torch.float32, torch.float32)]
        return _StagingBuffer(
            create_staging(self.plan.largest.numbers, dtype=torch.int64),
            create_staging(self.plan.largest.scores, dtype=torch.float32),
            create_staging(MAX_RULES - 1, self.layout.mask_bytes, dtype=torch.uint8),
            (*outputs, create_staging(*places, levels, dtype=torch.float32)),
        )

    def _create_static(self, *shape: int, dtype: torch.dtype) -> Tensor:
        with torch.inference_mode(), self._runner.in_order():
            return torch.zeros(shape, dtype=dtype, device=self._device)

    def _to_device(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _pool(catalogue: Sequence[Tensor], candidates: int) -> Tensor:
    """Return the item vectors to choose dense candidates from, the last tensor; none if there are no candidates."""
    return catalogue[-1] if candidates else catalogue[-1][:0]
