"""Item tokenizer, an RQ-VAE: item embedding -> residual codes -> reconstruction (ETEGRec section 3.2).

Shapes: N items, L residual levels, K codes a level, d_s embedding width, d_c codebook width. The tokenizer takes raw
embeddings; the statistics that standardise them are stored with its weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model_store.config import TokenizerConfig


class Quantised(NamedTuple):
    """Residual quantisation of latents."""

    codes: Tensor  # [N, L], nearest code of each level
    residuals: Tensor  # [N, L, d_c], v_l, the input of level l
    vectors: Tensor  # [N, L, d_c], e^l of the chosen codes
    distances: Tensor  # [N, L, K], squared distance of v_l to every code of level l


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in, width_out in itertools.pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Tokenizer(nn.Module):
    """RQ-VAE: encoder MLP, residual codebooks, decoder MLP."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = (config.embedding_dim, *config.hidden_dims, config.codebook_dim)
        self.encoder = _mlp(widths)
        self.decoder = _mlp(widths[::-1])
        self.codebooks = nn.Parameter(torch.randn(config.levels, config.codebook_size, config.codebook_dim) * 0.1)
        self.register_buffer("mean", torch.zeros(config.embedding_dim))
        self.register_buffer("scale", torch.ones(config.embedding_dim))

    def standardise(self, embeddings: Tensor) -> Tensor:
        """Scale raw item embeddings ``[N, d_s]`` to zero mean and unit variance; without it the RQ-VAE collapses."""
        return (embeddings - self.mean) / self.scale

    def latents(self, embeddings: Tensor) -> Tensor:
        """Encode raw embeddings ``[N, d_s]`` to latents ``[N, d_c]``, r of the paper."""
        latent: Tensor = self.encoder(self.standardise(embeddings))
        return latent

    def quantise(self, latents: Tensor) -> Quantised:
        """Quantise level by level (Eq. 6): the most likely code under softmax(-distance) is the nearest one."""
        residual = latents
        codes = []
        residuals = []
        vectors = []
        distances = []
        for codebook in self.codebooks:
            distance = squared_distances(residual, codebook)
            code = distance.argmin(dim=-1)
            vector = codebook[code]

            codes.append(code)
            residuals.append(residual)
            vectors.append(vector)
            distances.append(distance)
            residual = residual - vector

        return Quantised(
            codes=torch.stack(codes, 1),
            residuals=torch.stack(residuals, 1),
            vectors=torch.stack(vectors, 1),
            distances=torch.stack(distances, 1),
        )

    def decode(self, latents: Tensor) -> Tensor:
        """Decode quantised latents ``[N, d_c]`` to standardised embeddings ``[N, d_s]``, z~ of the paper."""
        decoded: Tensor = self.decoder(latents)
        return decoded

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the codes of every level in order of preference; this is the exported graph.

        Args:
            embeddings: Raw, ``[N, d_s]``.

        Returns:
            Codes by ascending distance ``[N, L, K]``, those distances, and the latents ``[N, d_c]``. Level l's order
            assumes the nearest codes at the levels above; for other tuples the caller needs the latents.
        """
        latents = self.latents(embeddings)
        distances = self.quantise(latents).distances
        ordered, codes = distances.topk(distances.shape[-1], dim=-1, largest=False)
        return codes, ordered, latents


def squared_distances(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Return ``||v - e_k||^2`` of vectors ``[N, d_c]`` and codes ``[K, d_c]``: ``[N, K]``, differentiable in both."""
    cross = vectors @ codebook.t()
    return vectors.square().sum(-1, keepdim=True) - 2 * cross + codebook.square().sum(-1)
