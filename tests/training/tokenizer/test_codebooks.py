"""Tokenizer training: k-means, revival, pretraining on data with known clusters."""

import numpy as np
import pytest
import torch
from torch import Tensor

from model_store.config import TokenizerConfig
from model_store.network.tokenizer import Tokenizer
from training.diagnostics.tokenizer_health import code_use, reconstruction_error
from training.loop.progress import SilentProgress
from training.tokenizer.codebooks import (
    TokenizerTrainingConfig,
    fit_standardisation,
    initialise_codebooks,
    kmeans,
    pretrain_tokenizer,
    reconstruct,
    revive_dead_codes,
    tokenizer_optimizer,
)
from training.tokenizer.collisions import assign_codes

SHAPE = TokenizerConfig(embedding_dim=10, hidden_dims=(16,), codebook_dim=6, levels=2, codebook_size=8)
SHORT = TokenizerTrainingConfig(epochs=40, batch_size=32, learning_rate=1e-2)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clustered(seed: int, clusters: int, each: int, width: int, spread: float = 0.05) -> tuple[Tensor, Tensor]:
    """Points around well separated centres, in random order, and the centres."""
    source = generator(seed)
    centres = 10 * torch.eye(clusters, width) + 0.1 * torch.randn(clusters, width, generator=source)
    points = centres.repeat(each, 1) + spread * torch.randn(clusters * each, width, generator=source)
    return points[torch.randperm(len(points), generator=source)], centres


@pytest.mark.parametrize("seed", range(10))
def test_kmeans_finds_separated_clusters_exactly(seed: int) -> None:
    points, centres = clustered(seed, 7, 20, 8)
    found = kmeans(points, 7, 10, generator(seed))
    owner = torch.cdist(points, centres).argmin(dim=1)
    means = torch.stack([points[owner == cluster].mean(dim=0) for cluster in range(7)])
    match = torch.cdist(means, found).argmin(dim=1)
    assert sorted(match.tolist()) == list(range(7))
    torch.testing.assert_close(found[match], means, atol=1e-4, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_kmeans_with_fewer_points_than_centres_keeps_every_point(count: int) -> None:
    points = torch.randn(count, 3, generator=generator(0))
    found = kmeans(points, 8, 5, generator(1))
    assert found.shape == (8, 3)
    assert found.isfinite().all()
    assert torch.cdist(points, found).min(dim=1).values.max() < 1e-3


def test_kmeans_copes_with_equal_points() -> None:
    found = kmeans(torch.ones(6, 3), 4, 5, generator(0))
    torch.testing.assert_close(found, torch.ones(4, 3))


def test_codebooks_start_at_the_centres_of_the_residuals() -> None:
    points, _ = clustered(0, 8, 30, 10)
    tokenizer = Tokenizer(SHAPE)
    fit_standardisation(tokenizer, points)
    initialise_codebooks(tokenizer, points, 10, generator(0))
    with torch.no_grad():
        quantised = tokenizer.quantise(tokenizer.latents(points))
    for level in range(2):
        for code in set(quantised.codes[:, level].tolist()):
            mine = quantised.residuals[quantised.codes[:, level] == code, level]
            torch.testing.assert_close(tokenizer.codebooks.detach()[level, code], mine.mean(dim=0), atol=2e-2, rtol=0)
    # The second level explains part of what the first leaves.
    left = (quantised.residuals[:, 1] - quantised.vectors[:, 1]).square().sum(dim=1).mean()
    assert left < 0.8 * quantised.residuals[:, 1].square().sum(dim=1).mean()


def test_revival_moves_dead_codes_onto_residuals_and_no_others() -> None:
    torch.manual_seed(0)
    points, _ = clustered(0, 8, 10, 10)
    tokenizer = Tokenizer(SHAPE)
    fit_standardisation(tokenizer, points)
    initialise_codebooks(tokenizer, points, 10, generator(0))
    with torch.no_grad():
        tokenizer.codebooks[0, 3] = tokenizer.codebooks[1, 5] = 1e3
        quantised = tokenizer.quantise(tokenizer.latents(points))
    before = tokenizer.codebooks.detach().clone()
    dead = {(level, code) for level in range(2) for code in range(8) if not (quantised.codes[:, level] == code).any()}
    assert {(0, 3), (1, 5)} <= dead
    assert revive_dead_codes(tokenizer, points, generator(0)) == len(dead)
    for level in range(2):
        for code in range(8):
            now = tokenizer.codebooks.detach()[level, code]
            if (level, code) in dead:
                assert (quantised.residuals[:, level] == now).all(dim=1).any()
            else:
                assert torch.equal(now, before[level, code])


def test_pretraining_uses_all_codes_and_lowers_the_reconstruction_error() -> None:
    points, _ = clustered(0, 8, 30, 8, spread=1.0)
    shape = SHAPE.model_copy(update={"embedding_dim": 8})
    start, trained = (
        pretrain_tokenizer(points, shape, SHORT.model_copy(update={"epochs": epochs}), 3, SilentProgress())
        for epochs in (0, 40)
    )
    errors, used = [], []
    for tokenizer in (start, trained):
        with torch.no_grad():
            codes = assign_codes(tokenizer.latents(points), tokenizer.codebooks.detach(), "token").codes
        errors.append(reconstruction_error(tokenizer, points))
        used.append([int(np.count_nonzero(counts)) for counts in code_use(codes[:, :2], 8)])
    assert errors[1] < 0.3 < 0.8 < errors[0]
    assert used[1] == [8, 8]
    assert not trained.training
    with torch.no_grad():
        first = trained.quantise(trained.latents(points)).codes[:, 0]
    by_cluster = points.argmax(dim=1)  # each cluster lies along its own axis
    shares = [torch.bincount(first[by_cluster == one]).max() / (by_cluster == one).sum() for one in range(8)]
    assert min(shares) > 0.9


def test_pretraining_depends_on_the_seed_alone() -> None:
    points, _ = clustered(0, 8, 10, 10)
    config = SHORT.model_copy(update={"epochs": 3})
    torch.manual_seed(1)
    first = pretrain_tokenizer(points, SHAPE, config, 5, SilentProgress()).state_dict()
    torch.manual_seed(2)
    second = pretrain_tokenizer(points, SHAPE, config, 5, SilentProgress()).state_dict()
    other = pretrain_tokenizer(points, SHAPE, config, 6, SilentProgress()).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["codebooks"], other["codebooks"])


def test_content_is_standardised_with_the_scale_of_the_learned_part() -> None:
    points = torch.randn(200, SHAPE.embedding_dim, generator=torch.Generator().manual_seed(0)) * 3.0
    points[:, -2:] *= torch.tensor([0.5, 0.01])
    tokenizer = Tokenizer(SHAPE)
    fit_standardisation(tokenizer, points, content_dim=2)

    spread = tokenizer.standardise(points).std(dim=0, correction=0)
    torch.testing.assert_close(spread[:-2], torch.ones(SHAPE.embedding_dim - 2))
    torch.testing.assert_close(spread[-2:], torch.tensor([0.5, 0.01]), rtol=0.2, atol=0)


def test_standardisation_uses_the_statistics_of_all_items() -> None:
    points = 3 + 5 * torch.randn(200, 10, generator=generator(0))
    tokenizer = Tokenizer(SHAPE)
    fit_standardisation(tokenizer, points)
    standard = tokenizer.standardise(points).double().numpy()
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std(0), 1, atol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 7.0, 1234.567])
def test_constant_dimensions_stay_small_and_finite(constant: float) -> None:
    points = torch.randn(64, 10, generator=generator(0))
    points[:, 4] = constant
    trained = pretrain_tokenizer(points, SHAPE, SHORT.model_copy(update={"epochs": 3}), 0, SilentProgress())
    assert trained.scale[4] == 1.0
    assert trained.standardise(points)[:, 4].abs().max() < 1e-3
    assert all(tensor.isfinite().all() for tensor in trained.state_dict().values())


def test_weight_decay_spares_codebooks_and_biases() -> None:
    tokenizer = Tokenizer(SHAPE)
    optimizer = tokenizer_optimizer(tokenizer, 1e-3, 0.05)
    decay = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(decay) == len(list(tokenizer.parameters()))
    for name, parameter in tokenizer.named_parameters():
        assert decay[parameter] == (0.05 if name.endswith(".weight") else 0.0), name


def test_reconstruction_takes_raw_embeddings() -> None:
    points = 100 + 20 * torch.randn(30, 10, generator=generator(0))
    tokenizer = Tokenizer(SHAPE)
    fit_standardisation(tokenizer, points)
    plain = Tokenizer(SHAPE)
    plain.load_state_dict({**tokenizer.state_dict(), "mean": torch.zeros(10), "scale": torch.ones(10)})
    with torch.no_grad():
        _, raw = reconstruct(tokenizer, points)
        _, standardised = reconstruct(plain, tokenizer.standardise(points))
    torch.testing.assert_close(raw, standardised)
