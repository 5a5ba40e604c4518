"""The search network rewritten for ONNX Runtime: the same results with fewer operations.

The search of one request is a thousand operations of a few microseconds each, so every operation less counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnxscript import opset23 as op
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import guard_or_false

from model_store.network.beams import BestOfGroups, Span
from model_store.network.layers import Mix
from model_store.network.search import BeamSearch


class AttentionNode(nn.Module):
    """Replacement of :class:`~model_store.network.layers.Mix` by one operation, ``Attention`` of ONNX's opset 23."""

    def __init__(self, mix: Mix) -> None:
        super().__init__()
        self.heads = mix.heads

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Compute attention; arguments and result are those of the replaced module."""
        # ONNX Runtime broadcasts the first two axes of a bias, but not the axis of the queries.
        bias = bias[(None,) * (4 - bias.ndim)]
        if guard_or_false(bias.shape[2] == 1):
            bias = bias.expand(-1, -1, query.shape[1], -1)
        mixed, *_ = torch.onnx.ops.attention(query, keys, values, bias, q_num_heads=self.heads, kv_num_heads=self.heads)
        return mixed


class BestWithOptionalLimit(nn.Module):
    """Replacement of :class:`~model_store.network.beams.BestOfGroups` that ranks only if a request has a limit."""

    def __init__(self, best: BestOfGroups) -> None:
        super().__init__()
        self.best = best

    def forward(self, gained: Tensor, group: Tensor | None, beam: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the best; arguments and result are those of the replaced module."""

        def limited(flat: Tensor, beam: Tensor, most: Tensor, *group: Tensor) -> tuple[Tensor, Tensor]:
            gained = flat.unflatten(1, (beam.shape[0], -1))
            return self.best(gained, group[0] if group else None, beam, most)

        def free(flat: Tensor, beam: Tensor, most: Tensor, *group: Tensor) -> tuple[Tensor, Tensor]:
            score, pick = flat.topk(beam.shape[0], dim=1)
            return score, pick

        given = (gained.flatten(1), beam, most) if group is None else (gained.flatten(1), beam, most, group)
        return torch.cond((most < beam.shape[0]).any(), limited, free, given)


class UndecidedPlaces(nn.Module):
    """Replacement of :class:`~model_store.network.beams.AllPlaces` by the places with several children.

    All requests of a batch get as many places as the request that needs most of them.
    """

    def forward(self, span: Span) -> Tensor | None:
        """Choose the places; arguments and result are those of the replaced module."""
        is_undecided = span.size > 1
        count: Any = is_undecided.sum(dim=1).amax(dim=0).clamp(min=1).item()  # at least 1: no shape may be empty

        # The exporter needs these bounds and cannot derive them.
        torch._check(count >= 1)
        torch._check(count <= span.size.shape[1])

        return is_undecided.long().topk(count, dim=1).indices


def rewrite_for_onnx(search: BeamSearch) -> BeamSearch:
    """Replace the modules that have a form for ONNX Runtime, in place; the weights stay the same."""
    for module in list(search.recommender.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Mix):
                setattr(module, name, AttentionNode(child))
    search.select_places = UndecidedPlaces()  # type: ignore[assignment]
    search.select_best = BestWithOptionalLimit(search.select_best)  # type: ignore[assignment]
    return search


def _take(array: Any, index: Any) -> Any:
    return op.Gather(array, index, axis=0)


def _floor_divide(dividend: Any, divisor: Any) -> Any:
    return op.Div(dividend, divisor)


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.take.default: _take,
    torch.ops.aten.floor_divide.default: _floor_divide,
}
"""Operations of torch for which the exporter would write many nodes. The search uses ``take`` on one axis only, and
divides only numbers that are not negative, so ONNX's integer division, which rounds towards zero, rounds down."""
