"""The constrained beam search as one torch module, which is also what gets exported to ONNX.

Definition (docs/ARCHITECTURE.md, the search): the score of an item is the sum over its codes of log-softmax over the
children that the trie holds at that node. Rules mask candidates and never renormalise. A node with one child adds 0.

There is no Python between steps at run time: the loop over L levels unrolls, every choice is a tensor. Shapes: B
requests, W beams, K codes a level, E excluded nodes of a request.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model_store.network.recommender import Cache, Recommender

DEAD = float("-inf")


class BeamSearch(nn.Module):
    """Histories, rules and the trie in; leaves and log-probabilities out. Inputs as in ``search_interface``."""

    def __init__(self, recommender: Recommender) -> None:
        super().__init__()
        self.recommender = recommender
        device = recommender.bos.device
        bits = (torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)) & 1
        self.register_buffer("bit_table", bits.bool().flatten(), persistent=False)  # [256 * 8]

    def forward(
        self,
        codes: Tensor,
        lengths: Tensor,
        rule_bits: Tensor,
        rule_of: Tensor,
        excluded: Tensor,
        max_per_prefix: Tensor,
        beam: Tensor,
        *trie: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Search. Arguments are the fields of :class:`~model_store.search_interface.SearchInputs`, then the trie.

        Returns:
            Leaves ``[B, W]`` (-1 where a beam found nothing) and log-probabilities ``[B, W]``, best first.
        """
        net, width = self.recommender, beam.shape[0]
        child_start, child_code = trie[: net.levels], trie[net.levels :]
        memory = net.encode(codes, lengths)
        history_bias = net.history_bias(memory, lengths[:, None])
        batch = codes.shape[0]
        x = net.bos.expand(batch, 1, -1)
        node = torch.zeros(batch, 1, dtype=torch.int64, device=codes.device)
        score = torch.zeros(batch, 1, device=codes.device)
        group, first_node = node, 0
        cache: Cache = []
        for level in range(net.levels):
            states, cache = net.step(x, cache, memory, history_bias)
            children = _Children(node, score, child_start[level], child_code[level], net.logits(states, level))
            is_open = self._open(children.node + first_node, rule_bits, rule_of)
            is_open = is_open & ~_listed(children, excluded - first_node)
            gained = torch.where(is_open & children.exists, score[:, :, None] + children.log_prob, DEAD)
            score, pick = _best(gained, group, width, max_per_prefix if level else None)
            parent = pick // gained.shape[2]
            code = children.code.flatten(1).gather(1, pick)
            # A beam that found nothing must not point behind the end of the next level's arrays.
            node = torch.where(score > DEAD, children.node.flatten(1).gather(1, pick), 0)
            group = group.gather(1, parent) if level else torch.arange(width, device=codes.device).expand(batch, width)
            first_node = first_node + child_code[level].shape[0] - net.code_embedding.shape[1]
            if level + 1 < net.levels:
                x = net.code_embedding[level][code]
                cache = _reorder(cache, parent)
        return torch.where(score > DEAD, node, -1), score

    def _open(self, node: Tensor, rule_bits: Tensor, rule_of: Tensor) -> Tensor:
        """Whether the rule of each request leaves nodes ``[B, W, K]`` open."""
        row = rule_of[:, None, None] * rule_bits.shape[1]
        byte = rule_bits.flatten()[row + torch.clamp(node // 8, max=rule_bits.shape[1] - 1)]
        table: Tensor = self.bit_table  # type: ignore[assignment]
        return table[byte.long() * 8 + node % 8]


class _Children:
    """The window of K child slots of every beam, ``[B, W, K]`` each."""

    def __init__(self, node: Tensor, score: Tensor, child_start: Tensor, child_code: Tensor, logits: Tensor) -> None:
        codes = logits.shape[2]
        self.first = child_start[node].long()  # [B, W]
        # A dead beam has no children, whatever node it stands on.
        self.count = torch.where(score > DEAD, child_start[node + 1].long() - self.first, 0)
        slot = torch.arange(codes, device=node.device)
        self.node = self.first[:, :, None] + slot
        self.exists = slot < self.count[:, :, None]
        self.code = child_code[self.node].long()
        held = torch.where(self.exists, logits.gather(2, self.code), -1e30)
        self.log_prob = torch.log_softmax(held, dim=-1)


def _listed(children: _Children, excluded: Tensor) -> Tensor:
    """Whether each child slot is among the excluded nodes ``[B, E]`` (numbered within this depth).

    Every excluded node is looked up in the W windows, which costs E·W, not E·W·K: catalogue size plays no part.
    """
    batch, width, codes = children.node.shape
    inside = excluded[:, :, None] - children.first[:, None, :]  # [B, E, W]
    hit = (inside >= 0) & (inside < children.count[:, None, :])
    slot = inside + torch.arange(width, device=excluded.device) * codes
    # Beams stand on different nodes, so at most one window holds a node; misses go to a spare slot at the end.
    at = torch.where(hit, slot, -1).amax(dim=2)
    at = torch.where(at >= 0, at, width * codes)
    listed = torch.zeros(batch, width * codes + 1, dtype=torch.int64, device=excluded.device)
    listed = listed.scatter(1, at, torch.ones_like(at))
    return listed[:, :-1].reshape(batch, width, codes) > 0


def _best(gained: Tensor, group: Tensor, width: int, most: Tensor | None) -> tuple[Tensor, Tensor]:
    """The best ``width`` candidates of ``[B, W, K]``, as scores and flat picks ``[B, width]``.

    Args:
        gained: Scores of all candidates.
        group: ``[B, W]``, which first code each beam descends from.
        width: Candidates kept.
        most: ``[B]``, candidates kept that share a group; ``None``: any number.
    """
    batch, beams, codes = gained.shape
    if most is None:
        padded = torch.cat([gained.flatten(1), torch.full((batch, width), DEAD, device=gained.device)], dim=1)
        score, pick = padded.topk(width, dim=1)
        return score, pick.clamp(max=beams * codes - 1)
    # No beam places more than W candidates, nor more than its group may: its own best W suffice.
    wide = torch.cat([gained, torch.full((batch, beams, width), DEAD, device=gained.device)], dim=2)
    score, slot = wide.topk(width, dim=2)
    pick = slot.clamp(max=codes - 1) + torch.arange(beams, device=gained.device)[:, None] * codes
    score, order = score.flatten(1).topk(beams * width, dim=1)
    pick = pick.flatten(1).gather(1, order)
    of_group = group.gather(1, pick // codes)
    member = of_group[:, :, None] == torch.arange(beams, device=gained.device)
    rank = member.long().cumsum(dim=1).gather(2, of_group[:, :, None]).squeeze(2)
    score = torch.where(rank <= most[:, None], score, DEAD)
    score, kept = score.topk(width, dim=1)
    return score, pick.gather(1, kept)


def _reorder(cache: Cache, parent: Tensor) -> Cache:
    """Follow each beam to its parent's keys and values: ``[B·W', …]`` to ``[B·W, …]``."""
    batch = parent.shape[0]
    before = cache[0][0].shape[0] // batch
    row = (torch.arange(batch, device=parent.device)[:, None] * before + parent).flatten()
    return [(keys[row], values[row]) for keys, values in cache]
