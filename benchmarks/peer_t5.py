"""Peer of our benchmarks: a Hugging Face T5 of the same layers and widths, with codes as its vocabulary."""

from __future__ import annotations

from transformers import T5Config, T5ForConditionalGeneration

from model_store.config import ModelConfig

SPECIAL = 2
"""Number of tokens before the codes: padding, which also starts decoding, and an end token that is never used. After
them every level of codes has its own part of the vocabulary."""


def peer_t5(config: ModelConfig) -> T5ForConditionalGeneration:
    """Return the untrained peer, with the dropout of our recommender."""
    shape = config.recommender

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=SPECIAL + config.code_length * config.tokenizer.codebook_size,
            d_model=shape.d_model,
            d_kv=shape.head_dim,
            d_ff=shape.d_ff,
            num_layers=shape.encoder_layers,
            num_decoder_layers=shape.decoder_layers,
            num_heads=shape.heads,
            dropout_rate=shape.dropout,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=None,
        )
    )
