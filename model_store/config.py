"""The typed configuration of a model; together with the weights it rebuilds the network.

Symbols of the whole project: B batch, T history items, L codes of a semantic ID, K codes a level, W beam width, d model
width, d_c codebook width, d_s item-embedding width.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A frozen group of settings. Unknown keys are errors; this is the only place of defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TokenizerConfig(Section):
    """The shape of the item tokenizer, an RQ-VAE (ETEGRec section 3.2)."""

    embedding_dim: int = Field(256, ge=2, le=4096, description="d_s, width of the item embedding that is tokenised")
    hidden_dims: tuple[int, ...] = Field(
        (512, 256), description="hidden widths of the encoder MLP; the decoder mirrors it"
    )
    codebook_dim: int = Field(128, ge=2, le=1024, description="d_c, width of a codebook vector")
    levels: int = Field(3, ge=1, le=6, description="number of residual codebooks")
    codebook_size: int = Field(256, ge=2, le=4096, description="K, codes a level")


class RecommenderConfig(Section):
    """The shape of the T5-shaped encoder-decoder (ETEGRec section 3.3)."""

    d_model: int = Field(128, ge=8, le=2048, description="d, model width")
    d_ff: int = Field(512, ge=8, le=8192, description="width of the feed-forward block")
    heads: int = Field(4, ge=1, le=64, description="attention heads")
    head_dim: int = Field(64, ge=4, le=256, description="width of one head")
    encoder_layers: int = Field(6, ge=1, le=48, description="encoder depth")
    decoder_layers: int = Field(6, ge=1, le=48, description="decoder depth")
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="dropout rate while training")
    max_history: int = Field(50, ge=1, le=1024, description="newest items of a history that the encoder reads")
    history_tokens: Literal["code", "item", "vector"] = Field(
        "code",
        description="encoder tokens: one per code as in the paper, one per item (the sum of its code embeddings), or "
        "one per item that is its vector, so that the encoder can start from SASRec's weights",
    )
    encoder_attention: Literal["bidirectional", "causal"] = Field(
        "bidirectional",
        description="causal lets all prefixes of a user share one encoder pass in training",
    )
    low_pass: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="share of a low-pass filter in how an encoder layer mixes tokens, attention has the rest, beyond "
        "plain T5",
    )
    position_buckets: int = Field(32, ge=4, le=256, description="buckets of the relative position bias")
    max_distance: int = Field(128, ge=8, le=4096, description="distance beyond which positions share the last bucket")
    newest_start: bool = Field(
        False, description="the decoder starts from the newest item's state besides [BOS], beyond plain T5"
    )
    recency_bias: bool = Field(
        True, description="bias cross-attention by how long ago a history item was, beyond plain T5"
    )
    user_encoder: Literal["shared", "own"] = Field(
        "shared",
        description="encoder whose state becomes the user's vector: the decoder's encoder, or a separate one that "
        "stays as SASRec trained it",
    )
    content_dim: int = Field(
        0,
        ge=0,
        description="c, width of the content vectors at the end of item vectors; set by training, see content.dim",
    )
    repeat_bias: bool = Field(
        True,
        description="learn what an item's occurrences in the history add to its scores, beyond plain T5",
    )


class ModelConfig(Section):
    """The whole configuration of a model, enough to rebuild the network of a bundle."""

    tokenizer: TokenizerConfig = TokenizerConfig()
    recommender: RecommenderConfig = RecommenderConfig()
    collisions: Literal["reassign", "token"] = Field(
        "reassign",
        description="reassign: nearest free code tuple; token: one more code tells collided items apart",
    )
    beam_width: int = Field(20, ge=1, le=1000, description="W, beams of the exported search")

    @property
    def code_length(self) -> int:
        """Number of codes of one semantic ID, L, the collision code included."""
        return self.tokenizer.levels + (self.collisions == "token")

    def with_content(self, width: int) -> Self:
        """Return the configuration of a model whose item vectors end with content vectors of this width."""
        tokenizer = self.tokenizer.model_copy(update={"embedding_dim": self.tokenizer.embedding_dim + width})
        recommender = self.recommender.model_copy(update={"content_dim": width})
        return self.model_copy(update={"tokenizer": tokenizer, "recommender": recommender})

    @model_validator(mode="after")
    def _vectors_hold_more_than_content(self) -> Self:
        width = self.tokenizer.embedding_dim
        if self.recommender.content_dim >= width:
            raise ValueError(f"recommender.content_dim must be below tokenizer.embedding_dim ({width})")
        return self

    @model_validator(mode="after")
    def _distances_fit(self) -> Self:
        buckets = self.recommender.position_buckets
        if self.recommender.max_distance <= buckets:
            raise ValueError(f"recommender.max_distance must exceed position_buckets ({buckets})")
        return self
