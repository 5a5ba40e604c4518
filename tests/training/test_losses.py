"""Every loss against the paper's equations in NumPy, the sign of SIA, and what each term of L_SQ moves."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from model_store.config import TokenizerConfig
from model_store.network.tokenizer import Tokenizer
from training.losses import (
    constrained_loss,
    first_occurrences,
    preference_semantic_loss,
    quantisation_loss,
    recommendation_loss,
    sequence_item_loss,
)
from training.tokenizer.codebooks import reconstruct

Array = npt.NDArray[np.float64]

ROWS, LEVELS, CODES, WIDTH, EMBEDDING = 9, 3, 7, 5, 6


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def make_tokenizer(seed: int, levels: int = LEVELS) -> Tokenizer:
    torch.manual_seed(seed)
    shape = TokenizerConfig(
        embedding_dim=EMBEDDING, hidden_dims=(8,), codebook_dim=WIDTH, levels=levels, codebook_size=CODES
    )
    tokenizer = Tokenizer(shape)
    torch.nn.init.normal_(tokenizer.codebooks, std=0.7)
    return tokenizer


def log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max(-1, keepdims=True)
    normalised: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normalised


def code_distributions(latent: Array, codebooks: Array) -> list[tuple[Array, Array, Array]]:
    """Eq. 6 for one latent: per level the residual v_l, the chosen e^l and log P(. | v_l)."""
    found = []
    for codebook in codebooks:
        log_probability = log_softmax(-((latent - codebook) ** 2).sum(-1))
        chosen = codebook[log_probability.argmax()]
        found.append((latent, chosen, log_probability))
        latent = latent - chosen
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("beta", [0.0, 0.25, 2.0])
def test_quantisation_loss_is_the_papers_with_means(seed: int, beta: float) -> None:
    tokenizer, embeddings = make_tokenizer(seed), torch.randn(ROWS, EMBEDDING)
    quantised, reconstruction = reconstruct(tokenizer, embeddings)
    target = array(tokenizer.standardise(embeddings))
    levels = [code_distributions(row, array(tokenizer.codebooks)) for row in array(tokenizer.latents(embeddings))]
    error = np.mean([((v - e) ** 2).mean() for row in levels for v, e, _ in row])
    expected = ((target - array(reconstruction)) ** 2).mean() + error + beta * error
    loss = quantisation_loss(tokenizer.standardise(embeddings), reconstruction, quantised, beta)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_sequence_item_loss_is_the_mean_symmetric_divergence(seed: int) -> None:
    tokenizer = make_tokenizer(seed)
    items, sequences = 2 * torch.randn(ROWS, WIDTH), 2 * torch.randn(ROWS, WIDTH)
    divergences = []
    for item, sequence in zip(array(items), array(sequences), strict=True):
        pairs = zip(
            *(code_distributions(latent, array(tokenizer.codebooks)) for latent in (item, sequence)), strict=True
        )
        divergences += [((np.exp(p) - np.exp(q)) * (p - q)).sum() for (_, _, p), (_, _, q) in pairs]
    loss = sequence_item_loss(tokenizer.quantise(items).distances, tokenizer.quantise(sequences).distances)
    assert loss.item() == pytest.approx(np.mean(divergences), rel=1e-4)


def test_sequence_item_loss_vanishes_for_equal_distributions_only() -> None:
    tokenizer, latents = make_tokenizer(0), torch.randn(ROWS, WIDTH)
    distances = tokenizer.quantise(latents).distances
    assert sequence_item_loss(distances, distances).item() == pytest.approx(0.0, abs=1e-6)
    # A distance added to all codes of a level alike changes no distribution.
    assert sequence_item_loss(distances, distances + 3.0).item() == pytest.approx(0.0, abs=1e-5)
    other = tokenizer.quantise(torch.randn(ROWS, WIDTH)).distances
    assert sequence_item_loss(distances, other).item() > 0.01


@pytest.mark.parametrize("seed", range(5))
def test_sequence_item_loss_falls_on_the_way_to_the_items_code(seed: int) -> None:
    tokenizer = make_tokenizer(seed, levels=1)
    item = tokenizer.quantise(torch.randn(1, WIDTH))
    code_vector = item.vectors[:, 0].detach()
    far = code_vector + 3 * torch.randn(1, WIDTH)
    on_the_code = tokenizer.quantise(code_vector).distances
    path = [far + share * (code_vector - far) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    losses = [sequence_item_loss(on_the_code, tokenizer.quantise(z).distances).item() for z in path]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1] == pytest.approx(0.0, abs=1e-6)


def test_sequence_item_loss_compares_the_nearest_codes_not_the_farthest() -> None:
    """With +distance in the softmax both would put all mass on the far code, and z_E at the wrong code cost nothing."""
    codebook = torch.tensor([[0.0, 0.0], [3.0, 0.0], [50.0, 0.0]])
    tokenizer = Tokenizer(TokenizerConfig(embedding_dim=2, hidden_dims=(), codebook_dim=2, levels=1, codebook_size=3))
    tokenizer.codebooks.data[0] = codebook
    at_first, at_second = (tokenizer.quantise(codebook[row][None]).distances for row in (0, 1))
    # P differs by e^±9 between the first two codes: (p - q)(log p - log q) is close to 9 for each.
    assert sequence_item_loss(at_first, at_second).item() == pytest.approx(18.0, rel=1e-2)


def test_descending_the_sequence_item_loss_leads_the_history_to_the_items_codes() -> None:
    tokenizer = make_tokenizer(3)
    item = tokenizer.quantise(torch.randn(ROWS, WIDTH))
    codes, distances = item.codes, item.distances.detach()
    sequence = torch.randn(ROWS, WIDTH, requires_grad=True)

    def log_probability_of_codes() -> float:
        found = torch.log_softmax(-tokenizer.quantise(sequence).distances, dim=-1)
        return found.gather(2, codes[:, :, None]).mean().item()

    def loss_now() -> Tensor:
        return sequence_item_loss(distances, tokenizer.quantise(sequence).distances)

    before, loss_before = log_probability_of_codes(), loss_now().item()
    optimizer = torch.optim.Adam([sequence], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        torch.autograd.backward(loss_now())
        optimizer.step()
    assert log_probability_of_codes() > before + 0.1
    assert loss_now().item() < 0.2 * loss_before


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("rows", [1, 2, ROWS])
def test_preference_semantic_loss_is_info_nce_both_ways(temperature: float, rows: int) -> None:
    torch.manual_seed(rows)
    preference, reconstruction = torch.randn(rows, EMBEDDING), 3 * torch.randn(rows, EMBEDDING)
    h, z = (array(x) / np.linalg.norm(array(x), axis=1, keepdims=True) for x in (preference, reconstruction))
    similarity = h @ z.T / temperature
    expected = -np.diag(log_softmax(similarity)).mean() - np.diag(log_softmax(similarity.T)).mean()
    got = preference_semantic_loss(preference, reconstruction, temperature)
    assert got.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_preference_semantic_loss_prefers_the_own_item_and_ignores_length() -> None:
    items = torch.eye(4)
    right = preference_semantic_loss(5 * items, items, 0.07)
    wrong = preference_semantic_loss(5 * items.roll(1, 0), items, 0.07)
    assert right.item() < 1e-4
    assert wrong.item() > 20
    torch.testing.assert_close(right, preference_semantic_loss(items, 9 * items, 0.07))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_recommendation_loss_is_the_mean_over_rows_and_codes(smoothing: float) -> None:
    torch.manual_seed(1)
    logits = [2 * torch.randn(ROWS, CODES) for _ in range(4)]
    codes = torch.randint(CODES, (ROWS, 4))
    rows = np.arange(ROWS)
    by_level = []
    for level, level_logits in enumerate(logits):
        log_probability = log_softmax(array(level_logits))
        own = log_probability[rows, codes[:, level].numpy()]
        by_level.append((1 - smoothing) * own.mean() + smoothing * log_probability.mean())
    got = recommendation_loss(logits, codes, smoothing)
    assert got.item() == pytest.approx(-np.mean(by_level), rel=1e-5)


def test_a_row_of_weight_3_counts_like_three_rows() -> None:
    torch.manual_seed(1)
    times = torch.tensor([3, 0, 1, 2] + [1] * (ROWS - 4))
    again = torch.arange(ROWS).repeat_interleave(times)
    logits = [2 * torch.randn(ROWS, CODES) for _ in range(4)]
    codes = torch.randint(CODES, (ROWS, 4))
    weighted = recommendation_loss(logits, codes, 0.1, ROWS, times.float())
    torch.testing.assert_close(weighted, recommendation_loss([each[again] for each in logits], codes[again], 0.1, ROWS))

    log_prob = [torch.log_softmax(each, dim=1) for each in logits]
    slot = list(codes.split(1, dim=1))
    shares = [torch.softmax(torch.randn(ROWS, CODES), dim=1) for _ in range(4)]
    weighted = constrained_loss(log_prob, slot, shares, 0.3, ROWS, times.float())
    log_prob, slot, shares = ([each[again] for each in columns] for columns in (log_prob, slot, shares))
    torch.testing.assert_close(weighted, constrained_loss(log_prob, slot, shares, 0.3, ROWS))


def test_first_occurrences_drop_repetitions() -> None:
    assert first_occurrences(np.array([5, 2, 5, 9, 2, 2, 0])).tolist() == [0, 1, 3, 6]
    assert first_occurrences(np.array([3, 3, 3])).tolist() == [0]
    assert first_occurrences(np.empty(0, dtype=np.int64)).tolist() == []


def gradients(loss: Tensor, tokenizer: Tokenizer) -> dict[str, float]:
    """Largest absolute gradient of each part of the tokenizer, 0 where none arrives."""
    names, parameters = zip(*tokenizer.named_parameters(), strict=True)
    largest: dict[str, float] = {}
    for name, gradient in zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        part = name.split(".")[0]
        largest[part] = max(largest.get(part, 0.0), 0.0 if gradient is None else gradient.abs().max().item())
    return largest


def test_reconstruction_gradient_passes_straight_through_the_quantiser() -> None:
    tokenizer, embeddings = make_tokenizer(0), torch.randn(ROWS, EMBEDDING)
    quantised, reconstruction = reconstruct(tokenizer, embeddings)
    torch.testing.assert_close(reconstruction, tokenizer.decode(quantised.vectors.sum(dim=1)))
    loss = (reconstruction - tokenizer.standardise(embeddings)).square().mean()
    reached = gradients(loss, tokenizer)
    assert reached["encoder"] > 1e-4
    assert reached["decoder"] > 1e-4
    assert reached["codebooks"] == 0.0


def test_reconstruction_gradient_of_the_encoder_is_that_of_the_decoders_input() -> None:
    tokenizer, embeddings = make_tokenizer(0), torch.randn(ROWS, EMBEDDING)
    decoder_input = tokenizer.quantise(tokenizer.latents(embeddings)).vectors.sum(dim=1).detach().requires_grad_()
    (at_decoder,) = torch.autograd.grad(tokenizer.decode(decoder_input).square().mean(), decoder_input)
    expected = torch.autograd.grad(tokenizer.latents(embeddings), list(tokenizer.encoder.parameters()), at_decoder)
    _, reconstruction = reconstruct(tokenizer, embeddings)
    got = torch.autograd.grad(reconstruction.square().mean(), list(tokenizer.encoder.parameters()))
    torch.testing.assert_close(got, expected)


def test_codebook_term_moves_codebooks_only() -> None:
    tokenizer, embeddings = make_tokenizer(0), torch.randn(ROWS, EMBEDDING)
    quantised, reconstruction = reconstruct(tokenizer, embeddings)
    reached = gradients(quantisation_loss(reconstruction.detach(), reconstruction.detach(), quantised, 0.0), tokenizer)
    assert reached["codebooks"] > 1e-3
    assert reached["encoder"] == reached["decoder"] == 0.0


def test_commitment_term_moves_the_encoder_only() -> None:
    tokenizer, embeddings = make_tokenizer(0), torch.randn(ROWS, EMBEDDING)
    quantised, reconstruction = reconstruct(tokenizer, embeddings)
    without_codebook_term = quantised._replace(vectors=quantised.vectors.detach())
    same = reconstruction.detach()
    reached = gradients(quantisation_loss(same, same, without_codebook_term, 1.0), tokenizer)
    assert reached["encoder"] > 1e-3
    assert reached["codebooks"] == reached["decoder"] == 0.0
