"""T5-shaped recommender: a history in, the next item's codes out (ETEGRec section 3.3).

A history is read as codes, as in the paper, or as item vectors. Besides states for the decoder, the encoder gives the
user's vector; its cosine with an item's vector is that item's dense score.

One encoder pass can serve several targets of the same row: with causal encoder attention, all prefixes of a user share
it; with bidirectional attention a row has one target, which sees the whole history. The search decodes step by step
with cached keys and values; training feeds all codes of the targets at once. Both run the same layers.

Shapes: B rows, T history items, L codes of a semantic ID, S encoder tokens (T, or T·L with one token per code),
P targets of a row, W beams, H heads, D head width, d model width, d_c and d_s widths of codebooks and item embeddings.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.config import ModelConfig, RecommenderConfig
from model_store.network.content_profile import ContentProfile, join_content
from model_store.network.encoder import EncoderShape, HistoryEncoder, VectorMap
from model_store.network.layers import NEGATIVE, DecoderLayer, Dropout, RelativeBias, RmsNorm
from model_store.network.repeat_bias import RepeatBias

DECODER_START = 0.1
"""Initial scale of the output matrices of decoder layers, so that a deep stack does not drown the residual stream."""

REPEAT_SCALE = 10.0
"""Scale of the repeat bias of logits, which has to reach several nats at the step size of the network."""

Cache = list[tuple[Tensor, Tensor]]
"""Self-attention keys and values of all places decoded so far, per decoder layer: [B, places, H·D] each."""


class Memory(NamedTuple):
    """Encoded histories, computed once and shared by all beams and targets of a row."""

    states: Tensor  # [B, S, d], encoder output
    cross: list[tuple[Tensor, Tensor]]  # per decoder layer: keys and values [B, S, H·D]
    user_states: Tensor  # [B, S or T, d], states that users' vectors come from
    content: Tensor  # [B, T, c], content vectors of the items


class TargetStates(NamedTuple):
    """Outputs of a training forward pass, for each target."""

    decoder: Tensor  # [B, P, L, d], state that predicts each code; position 0 has read [BOS] only
    sequence: Tensor  # [B, P, d_c], z_E: projected mean of the encoder states (SIA)
    preference: Tensor  # [B, P, d_s], h_D: projected decoder state at [BOS] (PSA)
    user: Tensor  # [B, P, d_s], the user's vector (dense scores)


def _adapter(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width_in), nn.ReLU(), nn.Linear(width_in, width_out))


def _gather_states(states: Tensor, position: Tensor) -> Tensor:
    """Return the states ``[B, P, d]`` that ``[B, S, d]`` has at positions ``[B, P]``."""
    return states.gather(1, position.clamp(min=0)[:, :, None].expand(-1, -1, states.shape[2]))


def encoder_shape(shape: RecommenderConfig) -> EncoderShape:
    """Return the shape of the recommender's encoder."""
    return EncoderShape(
        d_model=shape.d_model,
        d_ff=shape.d_ff,
        heads=shape.heads,
        head_dim=shape.head_dim,
        layers=shape.encoder_layers,
        position_buckets=shape.position_buckets,
        max_distance=shape.max_distance,
        is_causal=shape.encoder_attention == "causal",
        low_pass=shape.low_pass,
    )


class Recommender(nn.Module):
    """Encoder-decoder with one embedding table per code level, shared with that level's output head, and both adapters.

    The adapters project states for the alignment losses: SIA and PSA (section 3.4).

    Attributes:
        content_share: Share of content in dense scores, 0 … 1, a scalar; the rest is learned.
    """

    content_share: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        shape = config.recommender
        embedding_dim = config.tokenizer.embedding_dim
        layer = (shape.d_model, shape.d_ff, shape.heads, shape.head_dim, shape.dropout)
        bias = (shape.position_buckets, shape.max_distance, shape.heads)
        self.shape = shape
        self.levels = config.code_length

        # The order of these lines is the order in which initial weights are drawn.
        tables = torch.empty(self.levels, config.tokenizer.codebook_size, shape.d_model)
        self.code_embedding = nn.Parameter(nn.init.normal_(tables, std=shape.d_model**-0.5))
        self.bos = nn.Parameter(nn.init.normal_(torch.empty(shape.d_model), std=shape.d_model**-0.5))
        self.encoder = HistoryEncoder(encoder_shape(shape), shape.dropout)
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(shape.decoder_layers))
        self.decoder_norm = RmsNorm(shape.d_model)
        self.decoder_bias = RelativeBias(*bias, bidirectional=False)
        self.recency_bias = RelativeBias(*bias, bidirectional=False) if shape.recency_bias else None
        self.sequence_adapter = _adapter(shape.d_model, config.tokenizer.codebook_dim)
        self.preference_adapter = _adapter(shape.d_model, embedding_dim)
        self.vector_in = VectorMap.into_model(embedding_dim, shape.d_model) if self.reads_vectors else None
        self.vector_out = VectorMap(shape.d_model, embedding_dim - shape.content_dim)
        self.repeat_bias = RepeatBias() if shape.repeat_bias else None

        # An encoder of its own for the user's vector keeps SASRec's weights: it is never trained here.
        self.user_in: VectorMap | None = None
        self.user_encoder: HistoryEncoder | None = None
        if shape.user_encoder == "own":
            self.user_in = VectorMap.into_model(embedding_dim - shape.content_dim, shape.d_model)
            self.user_encoder = HistoryEncoder(encoder_shape(shape)._replace(is_causal=True), dropout=0.0)
            for part in self.user_parts.values():
                part.requires_grad_(False)

        self.code_repeat_bias = RepeatBias(self.levels, REPEAT_SCALE) if shape.repeat_bias else None
        self.content_profile = ContentProfile() if shape.content_dim else None
        self.register_buffer("content_share", torch.zeros(()))
        self.dropout = Dropout(shape.dropout)
        self._scale_decoder_outputs()

    @property
    def user_parts(self) -> dict[str, nn.Module]:
        """Modules that dense scores come from, by their names in SASRec."""
        parts: dict[str, nn.Module | None] = {
            "vector_in": self.user_in or self.vector_in,
            "encoder": self.user_encoder or self.encoder,
            "vector_out": self.vector_out,
            "repeat_bias": self.repeat_bias,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def reads_vectors(self) -> bool:
        """True if histories enter as item vectors, false if as codes."""
        return self.shape.history_tokens == "vector"

    @property
    def tokens_per_item(self) -> int:
        """Number of encoder tokens for one history item."""
        return self.levels if self.shape.history_tokens == "code" else 1

    @property
    def embedding_dim(self) -> int:
        """Width d_s of users' and items' vectors."""
        return self.vector_out.out_features + self.shape.content_dim

    @property
    def _decoder_layers(self) -> list[DecoderLayer]:
        return cast(list[DecoderLayer], list(self.decoder))

    def encode(self, codes: Tensor, vectors: Tensor, lengths: Tensor) -> Memory:
        """Encode histories.

        Args:
            codes: ``[B, T, L]``, oldest item first, padded on the right.
            vectors: Unit length, ``[B, T, d_s]``, of the same items. The encoder reads codes or vectors, not both.
            lengths: ``[B]``, items of each row.
        """
        if self.vector_in is not None:
            x = self.vector_in(vectors)
        else:
            offset = torch.arange(self.levels, device=codes.device) * self.code_embedding.shape[1]
            x = functional.embedding(codes + offset, self.code_embedding.flatten(0, 1))
            x = x.flatten(1, 2) if self.shape.history_tokens == "code" else x.sum(dim=2)

        states = self.dropout(self.encoder(self.dropout(x), lengths, self.tokens_per_item))
        cross = [layer.cross_attention.keys_values(states) for layer in self._decoder_layers]
        learned, content = self._split_vectors(vectors)
        if self.user_encoder is None or self.user_in is None:
            return Memory(states, cross, states, content)
        return Memory(states, cross, self.user_encoder(self.user_in(learned), lengths), content)

    def newest(self, memory: Memory, lengths: Tensor) -> Tensor:
        """Return the state of the newest item of histories that are ``[B, P]`` items long: ``[B, P, d]``."""
        return _gather_states(memory.states, lengths * self.tokens_per_item - 1)

    def user_vectors(self, memory: Memory, lengths: Tensor) -> Tensor:
        """Return the users' vectors for dense scores, ``[B, P, d_s]``, not normalised.

        With content, the squared length of the last part is :attr:`content_share` of the whole, as in item vectors.
        """
        if self.user_encoder is None:
            newest = self.newest(memory, lengths)
        else:
            newest = _gather_states(memory.user_states, lengths - 1)
        learned: Tensor = self.vector_out(newest)
        if self.content_profile is None:
            return learned
        profile = self.content_profile(memory.content, lengths)
        return join_content(functional.normalize(learned, dim=-1), profile, self.content_share)

    def start(self, memory: Memory, lengths: Tensor) -> Tensor:
        """Return the decoder's first input ``[B, P, d]``: [BOS], with ``newest_start`` plus the newest item's state."""
        if self.shape.newest_start:
            return self.bos + self.newest(memory, lengths)
        return self.bos.expand(*lengths.shape, -1)

    def history_bias(self, memory: Memory, lengths: Tensor) -> Tensor:
        """Return the cross-attention bias of each target: masks for items that it must not see, recency for others.

        Args:
            memory: Encoded rows.
            lengths: ``[B, P]``, items of the row that each target may see.

        Returns:
            ``[B, H or 1, P, S]``.
        """
        tokens = memory.states.shape[1]
        item = torch.arange(tokens, device=lengths.device) // self.tokens_per_item
        age = lengths[:, :, None] - 1 - item
        mask = ((age < 0) * NEGATIVE)[:, None]
        if self.recency_bias is None:
            return mask
        return self.recency_bias(age).permute(0, 3, 1, 2) + mask

    def forward(self, codes: Tensor, vectors: Tensor, lengths: Tensor, targets: Tensor, prefix: Tensor) -> TargetStates:
        """Return the states for the targets of each row; all codes are fed at once (teacher forcing).

        Args:
            codes: Histories, ``[B, T, L]``.
            vectors: The same as item vectors, ``[B, T, d_s]``.
            lengths: ``[B]``, items of each row.
            targets: Codes of the next items, ``[B, P, L]``; with fewer than L columns, only as many states are computed
                (one column: [BOS] alone).
            prefix: ``[B, P]``, number of history items before each target, 1 … length. With bidirectional attention
                it must equal the row's length: the encoder has seen all of it.
        """
        memory = self.encode(codes, vectors, lengths)
        rows, count, steps = targets.shape
        d_model = memory.states.shape[2]

        bias = self.history_bias(memory, prefix).repeat_interleave(steps, dim=2)
        fed = [self.code_embedding[level][targets[:, :, level]] for level in range(steps - 1)]
        x = torch.stack([self.start(memory, prefix), *fed], dim=2)
        x = self.dropout(x).reshape(rows * count, steps, d_model)
        step = torch.arange(steps, device=codes.device)
        distance = step[:, None] - step
        self_bias = self.decoder_bias(distance).permute(2, 0, 1) + (distance < 0) * NEGATIVE

        # A target attends to its own codes alone, but all targets of a row attend to the history in one product.
        for layer, (keys, values) in zip(self._decoder_layers, memory.cross, strict=True):
            normed = layer.self_norm(x)
            x = layer.attend_self(x, normed, *layer.self_attention.keys_values(normed), self_bias)
            x = layer.attend_history(x.view(rows, count * steps, d_model), keys, values, bias)
            x = x.view(rows * count, steps, d_model)

        x = self.dropout(self.decoder_norm(x)).view(rows, count, steps, d_model)
        preference = self.preference_adapter(x[:, :, 0])
        return TargetStates(x, self._project_sequence(memory, prefix), preference, self.user_vectors(memory, prefix))

    def step(
        self, x: Tensor, cache: Cache, memory: Memory, history_bias: Tensor, ancestors: Tensor
    ) -> tuple[Tensor, Cache]:
        """Decode one more code at several places (beams, candidates) of every request; for evaluation, without dropout.

        Keys and values stay where they were written, in the order of the steps; ``ancestors`` says which of them a
        place reads. So nothing is copied when beams change their order, and all places of a request attend at once.

        Args:
            x: ``[B, P, d]``, embedding of each place's newest code, or ``[B, 1, d]``, [BOS].
            cache: Keys and values of the places before; empty at [BOS].
            memory: Encoded histories.
            history_bias: ``[B, H or 1, 1, S]``, from :meth:`history_bias`.
            ancestors: ``[B, P, steps]`` int64, the places that each one descends from, oldest first, itself last.
                Places are numbered in the order in which they were decoded; these ones follow those of the cache.

        Returns:
            States ``[B, P, d]`` and the cache with these places appended.
        """
        self_bias = self._ancestor_bias(ancestors, cache[0][0].shape[1] + x.shape[1]) if cache else None

        new_cache: Cache = []
        for index, layer in enumerate(self._decoder_layers):
            normed = layer.self_norm(x)
            keys, values = layer.self_attention.keys_values(normed)
            if self_bias is None:
                x = x + layer.self_attention.out(values)  # the only key has all the weight
            else:
                keys = torch.cat([cache[index][0], keys], dim=1)
                values = torch.cat([cache[index][1], values], dim=1)
                x = layer.attend_self(x, normed, keys, values, self_bias)
            new_cache.append((keys, values))
            x = layer.attend_history(x, *memory.cross[index], history_bias)
        return self.decoder_norm(x), new_cache

    def _ancestor_bias(self, ancestors: Tensor, places: int) -> Tensor:
        """Return the self-attention bias ``[B, H, P, places]``: by age for ancestors; all other places are masked."""
        steps = ancestors.shape[2]
        by_age = self.decoder_bias(torch.arange(steps - 1, -1, -1, device=ancestors.device)).t()  # [H, steps]
        masked = by_age.new_full((ancestors.shape[0], by_age.shape[0], ancestors.shape[1], places), NEGATIVE)
        at = ancestors[:, None].expand(-1, by_age.shape[0], -1, -1)
        return masked.scatter(3, at, by_age[:, None].expand_as(at))

    def logits(self, states: Tensor, level: int) -> Tensor:
        """Return the scores of all K codes of a level, ``[…, K]``, for states ``[…, d]``."""
        return states @ self.code_embedding[level].t()

    def repeat_logits(self, level: int, codes: Tensor, is_below: Tensor, prefix: Tensor) -> Tensor:
        """Return the repeat bias of the :meth:`logits` of a level, ``[B, P, K]``; zeros for a model without it.

        Args:
            level: 0 … L - 1.
            codes: Of the history's items at this level, ``[B, T]``.
            is_below: ``[B, P, T]``, true where a history item shares all codes decoded before; its last axis may be 1.
            prefix: ``[B, P]`` or ``[B, 1]``, number of history items that count.
        """
        if self.code_repeat_bias is None:
            return self.bos.new_zeros(codes.shape[0], is_below.shape[1], self.code_embedding.shape[1])
        added = self.code_repeat_bias(level, codes.shape[1], prefix) * is_below

        code = torch.arange(self.code_embedding.shape[1], device=codes.device)
        # A product with one-hot codes adds up the bias of items with the same code.
        return added @ (codes[:, :, None] == code).to(added.dtype)

    def dense_repeats(self, items: int, prefix: Tensor) -> Tensor:
        """Return the repeat bias of each of T history items' dense scores, ``[B, P, T]``; see :class:`RepeatBias`."""
        if self.repeat_bias is None:
            return self.bos.new_zeros(*prefix.shape, items)
        added: Tensor = self.repeat_bias(0, items, prefix)
        return added

    def _split_vectors(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Split item vectors ``[B, T, d_s]`` into their learned part, at unit length, and their content vectors."""
        width = self.vector_out.out_features
        learned = vectors[..., :width]
        return functional.normalize(learned, dim=-1) if self.shape.content_dim else learned, vectors[..., width:]

    def _scale_decoder_outputs(self) -> None:
        """Multiply the output matrices of decoder layers by :data:`DECODER_START`."""
        with torch.no_grad():
            for layer in self._decoder_layers:
                for part in (layer.self_attention.out, layer.cross_attention.out, layer.feed_forward.contract):
                    part.weight.mul_(DECODER_START)

    def _project_sequence(self, memory: Memory, prefix: Tensor) -> Tensor:
        """Return z_E ``[B, P, d_c]``: the projected mean of the encoder states of each prefix."""
        tokens = prefix * self.tokens_per_item
        index = (tokens - 1).clamp(min=0)[:, :, None].expand(-1, -1, memory.states.shape[2])
        total = memory.states.cumsum(dim=1).gather(1, index)
        projected: Tensor = self.sequence_adapter(total / tokens.clamp(min=1)[:, :, None])
        return projected
