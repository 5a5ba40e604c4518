"""Pretraining of the item tokenizer: standardisation, k-means start, RQ-VAE epochs, revival of dead codes."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from model_store.config import Section, TokenizerConfig
from model_store.network.tokenizer import Quantised, Tokenizer, squared_distances
from training.loop import distributed
from training.loop.checkpoint import Resumable, ResumableLoop, Weights
from training.loop.optimiser import Optimiser, cosine, descend
from training.loop.progress import Progress
from training.losses import quantisation_loss

ITEMS_AT_ONCE = 1 << 16
"""Items whose hidden states or distances to codes are in memory at a time."""


class TokenizerTrainingConfig(Section):
    """Pretraining of the RQ-VAE before the joint cycles."""

    epochs: int = Field(300, ge=0, description="passes over all items")
    batch_size: int = Field(1024, ge=1, description="items of a step")
    learning_rate: float = Field(1e-3, gt=0, description="AdamW step size, cosine to zero")
    weight_decay: float = Field(0.05, ge=0, description="AdamW weight decay; codebooks are exempt")
    beta: float = Field(0.25, ge=0, description="weight of the commitment term")
    kmeans_iterations: int = Field(25, ge=1, description="Lloyd iterations per level of the k-means start")
    revive_every: int = Field(10, ge=1, description="epochs between revivals of dead codes")


def pretrain_tokenizer(
    embeddings: Tensor,
    shape: TokenizerConfig,
    config: TokenizerTrainingConfig,
    seed: int,
    progress: Progress,
    checkpoint: Path | None = None,
    content_dim: int = 0,
) -> Tokenizer:
    """Train an RQ-VAE on raw item embeddings ``[items, d_s]``, from a k-means start.

    The stage is saved in the file ``checkpoint`` as it runs, and resumed from it. ``content_dim`` is the width of the
    content vectors at the end of the embeddings.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    tokenizer = Tokenizer(shape).to(embeddings.device)
    steps = max(1, config.epochs * -(-len(embeddings) // config.batch_size))
    optimizer = tokenizer_optimizer(tokenizer, config.learning_rate, config.weight_decay)
    optimiser = Optimiser(optimizer, cosine(steps), clip=1.0)

    parts: dict[str, Resumable] = {"tokenizer": Weights(tokenizer), "optimiser": optimiser}
    loop = ResumableLoop(checkpoint, generator, parts, embeddings.device)
    if not loop.resumed:
        fit_standardisation(tokenizer, embeddings, content_dim)
        initialise_codebooks(tokenizer, embeddings, config.kmeans_iterations, generator)

    with progress.track("Tokenizer", config.epochs, loop.epoch) as bar:
        for epoch in loop.epochs(config.epochs):
            order = torch.randperm(len(embeddings), generator=generator).to(embeddings.device)
            for rows in loop.batches(order.split(config.batch_size)):
                loss = _loss(tokenizer, embeddings, rows, config.beta)
                descend(loss, optimiser)
                loop.add({"sq": loss})

            # Not in the last tenth: a revived code needs time to become a good one.
            if epoch % config.revive_every == 0 and epoch < 0.9 * config.epochs:
                revive_dead_codes(tokenizer, embeddings, generator)

            means = loop.means()
            bar.record(epoch, means)
            bar.advance(1, note=f"loss {means['sq']:.4f}")
    return tokenizer.eval()


def _loss(tokenizer: Tokenizer, embeddings: Tensor, rows: Tensor, beta: float) -> Tensor:
    """Return this process's share of L_SQ for some items."""
    mine, counts = distributed.take_shard(rows)
    quantised, reconstruction = reconstruct(tokenizer, embeddings[mine])
    loss = quantisation_loss(tokenizer.standardise(embeddings[mine]), reconstruction, quantised, beta)
    return loss * (len(mine) / len(rows) if counts else 0.0)


def reconstruct(tokenizer: Tokenizer, embeddings: Tensor) -> tuple[Quantised, Tensor]:
    """Quantise raw embeddings and decode them with a straight-through gradient.

    Returns:
        The quantisation and z~ ``[N, d_s]``, standardised.
    """
    latents = tokenizer.latents(embeddings)
    quantised = tokenizer.quantise(latents)
    straight_through = latents + (quantised.vectors.sum(dim=1) - latents).detach()
    return quantised, tokenizer.decode(straight_through)


def tokenizer_optimizer(tokenizer: Tokenizer, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Create an AdamW that decays matrices, but no biases, and no codebooks, which would shrink off their clusters.

    On a GPU it steps in one kernel.
    """
    plain = [p for name, p in tokenizer.named_parameters() if name == "codebooks" or p.ndim < 2]
    decayed = [p for name, p in tokenizer.named_parameters() if name != "codebooks" and p.ndim >= 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=tokenizer.codebooks.is_cuda)


@torch.no_grad()
def fit_standardisation(tokenizer: Tokenizer, embeddings: Tensor, content_dim: int = 0) -> None:
    """Store mean and standard deviation of each dimension; dimensions that never vary keep scale 1.

    Content vectors at the end share the scale of the others, so that codes heed content as much as dense scores do, and
    its strong directions more than its weak ones. Each scaled to unit variance, they would be most of what codes tell.
    """
    spread = embeddings.std(dim=0, correction=0)
    if content_dim:
        spread[-content_dim:] = spread[:-content_dim].square().mean().sqrt()
    tokenizer.mean.copy_(embeddings.mean(dim=0))
    tokenizer.scale.copy_(torch.where(spread > 1e-6, spread, 1.0))


@torch.no_grad()
def initialise_codebooks(tokenizer: Tokenizer, embeddings: Tensor, iterations: int, generator: torch.Generator) -> None:
    """Set every codebook to the k-means centres of the residuals at its level."""
    # On the CPU, where the generator is, and sums have a fixed order.
    residual = all_latents(tokenizer, embeddings).cpu()
    for level in range(len(tokenizer.codebooks)):
        centres = kmeans(residual, tokenizer.codebooks.shape[1], iterations, generator)
        tokenizer.codebooks[level].copy_(centres)
        residual = residual - centres[squared_distances(residual, centres).argmin(dim=1)]


@torch.no_grad()
def kmeans(points: Tensor, centres: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Run Lloyd's algorithm from a k-means++ start.

    Args:
        points: ``[N, d]``, on the CPU. With fewer than K points, surplus centres start near points, and may stay.
        centres: K.
        iterations: Refinements after the start.
        generator: Source of all randomness.

    Returns:
        Centres, ``[K, d]``. Those that lose all their points move to the points farthest from any centre, each to
        another point.
    """
    found = _kmeans_plus_plus(points, centres, generator)
    for _ in range(iterations):
        distance, owner = squared_distances(points, found).min(dim=1)
        count = torch.bincount(owner, minlength=centres)
        total = torch.zeros_like(found).index_add_(0, owner, points)
        found = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], found)

        empty = torch.nonzero(count == 0).flatten()[: len(points)]
        found[empty] = points[distance.topk(len(empty)).indices]
    return found


def _kmeans_plus_plus(points: Tensor, centres: int, generator: torch.Generator) -> Tensor:
    """Choose centres among the points, each with a probability proportional to its squared distance from the others."""
    first = torch.randint(len(points), (1,), generator=generator)
    chosen = [points[first[0]]]
    distance = squared_distances(points, points[first]).flatten().clamp(min=0)
    for _ in range(min(centres, len(points)) - 1):
        weight = distance if distance.sum() > 0 else torch.ones_like(distance)
        pick = torch.multinomial(weight, 1, generator=generator)
        chosen.append(points[pick[0]])
        distance = torch.minimum(distance, squared_distances(points, points[pick]).flatten().clamp(min=0))

    surplus = centres - len(chosen)
    if surplus:
        extra = points[torch.randint(len(points), (surplus,), generator=generator)]
        spread = points.std(correction=0) * 1e-2
        chosen.extend(extra + spread * torch.randn(extra.shape, generator=generator))
    return torch.stack(chosen)


@torch.no_grad()
def revive_dead_codes(tokenizer: Tokenizer, embeddings: Tensor, generator: torch.Generator) -> int:
    """Move every code that no item uses to a random item's residual at its level, and return the number of moves."""
    codebooks = tokenizer.codebooks
    levels, size, _ = codebooks.shape
    used = torch.zeros(levels, size, dtype=torch.int64, device=embeddings.device)
    for part in embeddings.split(ITEMS_AT_ONCE):
        codes = tokenizer.quantise(tokenizer.latents(part)).codes
        used += torch.stack([torch.bincount(codes[:, level], minlength=size) for level in range(levels)])

    level, code = torch.nonzero(used == 0, as_tuple=True)
    if not len(level):
        return 0
    counts = torch.bincount(level, minlength=levels).tolist()
    rows = torch.cat([torch.randint(len(embeddings), (count,), generator=generator) for count in counts])
    codebooks[level, code] = _residuals(tokenizer, embeddings, rows.to(embeddings.device), level)
    return len(level)


def _residuals(tokenizer: Tokenizer, embeddings: Tensor, rows: Tensor, level: Tensor) -> Tensor:
    """Return the residuals of items at levels, ``[n, d_c]`` for rows and levels ``[n]``."""
    found = torch.empty(len(rows), tokenizer.codebooks.shape[2], device=embeddings.device)
    for number, part in enumerate(embeddings.split(ITEMS_AT_ONCE)):
        place = torch.nonzero(rows // ITEMS_AT_ONCE == number).flatten()
        if len(place):
            residuals = tokenizer.quantise(tokenizer.latents(part)).residuals
            found[place] = residuals[rows[place] - number * ITEMS_AT_ONCE, level[place]]
    return found


@torch.no_grad()
def all_latents(tokenizer: Tokenizer, embeddings: Tensor) -> Tensor:
    """Encode raw embeddings of all items ``[N, d_s]`` a part at a time, so that memory is bounded: ``[N, d_c]``."""
    return torch.cat([tokenizer.latents(part) for part in embeddings.split(ITEMS_AT_ONCE)])
