"""The sampled softmax: what it estimates, and how it draws."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from training.embedding.sasrec import SasrecConfig
from training.loop.item_softmax import (
    SAMPLED_ABOVE,
    Additions,
    Candidates,
    Proposal,
    full_softmax_loss,
    sampled_softmax_loss,
)

ITEMS, ROWS, WIDTH = 40, 12, 6


@pytest.fixture
def popularity(rng: np.random.Generator) -> np.ndarray:
    """Training targets, long-tailed; every item occurs."""
    return np.concatenate([np.arange(ITEMS), (ITEMS * rng.random(400) ** 3).astype(np.int64)])


def additions_of(row: torch.Tensor, item: torch.Tensor, value: torch.Tensor, rows: int) -> Additions:
    return Additions(row, item, value, np.searchsorted(row.numpy(), np.arange(rows + 1)))


def gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, inputs)])


def test_expected_gradient_approaches_the_full_one(rng: np.random.Generator, popularity: np.ndarray) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(ROWS, WIDTH, requires_grad=True), torch.randn(ITEMS, WIDTH, requires_grad=True)
    batch = rng.choice(popularity, ROWS)
    targets = torch.from_numpy(batch)
    full = full_softmax_loss(hidden, weight, targets)
    wanted, errors = gradients(full, hidden, weight), []
    for negatives in (20, 400, 8000):
        proposal = Proposal(popularity, ITEMS, negatives)
        # The batch's own targets are draws like the others: averaged over batches with the same targets to predict.
        found = [
            sampled_softmax_loss(
                hidden, weight, targets, proposal.candidates(rng.choice(popularity, ROWS), np.random.default_rng(draw))
            )
            for draw in range(20)
        ]
        mean = gradients(torch.stack(found).mean(), hidden, weight)
        errors.append(((mean - wanted).norm() / wanted.norm()).item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 < 0.1 < errors[0]
    assert found[-1].item() == pytest.approx(full.item(), rel=0.02)


def test_all_items_as_candidates_of_weight_one_give_the_full_loss() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(ROWS, WIDTH), torch.randn(ITEMS, WIDTH)
    targets = torch.randint(ITEMS, (ROWS,))
    everything = Candidates(torch.arange(ITEMS), torch.zeros(ITEMS))  # the target among them: an accidental hit, masked
    found = sampled_softmax_loss(hidden, weight, targets, everything)
    torch.testing.assert_close(found, full_softmax_loss(hidden, weight, targets))


@pytest.mark.parametrize("count", [1, 300, 700])
def test_additions_enter_scores_and_gradients(count: int) -> None:
    torch.manual_seed(count)
    hidden, weight = torch.randn(count, WIDTH, requires_grad=True), torch.randn(ITEMS, WIDTH, requires_grad=True)
    targets = torch.randint(ITEMS, (count,))
    row = torch.randint(count, (3 * count,)).sort().values  # some rows have none, some repeat an item
    value = torch.randn(3 * count, requires_grad=True)
    additions = additions_of(row, torch.randint(ITEMS, (3 * count,)), value, count)
    scores = (hidden @ weight.T).index_put((row, additions.item), additions.value, accumulate=True)
    plain = torch.nn.functional.cross_entropy(scores, targets)
    wanted = gradients(plain, hidden, weight, additions.value)
    everything = Candidates(torch.arange(ITEMS), torch.zeros(ITEMS))
    for found in (
        full_softmax_loss(hidden, weight, targets, additions=additions),
        sampled_softmax_loss(hidden, weight, targets, everything, additions=additions),
    ):
        torch.testing.assert_close(found, plain)
        torch.testing.assert_close(gradients(found, hidden, weight, additions.value), wanted, atol=1e-5, rtol=1e-4)


def test_additions_to_items_that_were_not_drawn_change_nothing() -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(2, WIDTH), torch.randn(ITEMS, WIDTH), torch.tensor([4, 7])
    few = Candidates(torch.tensor([4, 7, 9]), torch.zeros(3))
    additions = additions_of(torch.tensor([0, 1]), torch.tensor([8, ITEMS - 1]), torch.tensor([5.0, 5.0]), 2)
    found = sampled_softmax_loss(hidden, weight, targets, few, additions=additions)
    torch.testing.assert_close(found, sampled_softmax_loss(hidden, weight, targets, few))


def test_candidates_are_drawn_by_popularity_and_weighted_against_it(popularity: np.ndarray) -> None:
    proposal = Proposal(popularity, ITEMS, 100_000)
    batch = np.array([3, 3, 7])
    found = proposal.candidates(batch, np.random.default_rng(0))
    assert found.items.tolist() == sorted(set(found.items.tolist()))
    # Each stands for about one item: drawn as often as expected.
    torch.testing.assert_close(found.log_weight.exp(), torch.ones(ITEMS), rtol=0, atol=0.2)
    few = Proposal(popularity, ITEMS, 1).candidates(batch, np.random.default_rng(0))
    assert {3, 7} <= set(few.items.tolist())
    share = (popularity == 3).mean()
    weight = few.log_weight[few.items.tolist().index(3)].exp().item()
    assert weight == pytest.approx(2 / (4 * share), rel=1e-5)
    again = proposal.candidates(batch, np.random.default_rng(0))
    assert torch.equal(again.items, found.items)


def test_other_items_among_the_candidates_change_no_loss(popularity: np.ndarray) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(3, WIDTH, requires_grad=True), torch.randn(ITEMS, WIDTH, requires_grad=True)
    batch = np.array([3, 3, 7])
    proposal = Proposal(popularity, ITEMS, 4)
    plain = proposal.candidates(batch, np.random.default_rng(0))
    wider = proposal.candidates(batch, np.random.default_rng(0), np.arange(ITEMS))
    assert wider.items.tolist() == list(range(ITEMS))
    losses = [sampled_softmax_loss(hidden, weight, torch.from_numpy(batch), each) for each in (plain, wider)]
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(*(gradients(loss, hidden, weight) for loss in losses))


def test_items_are_sampled_where_they_are_very_many_or_when_asked_for() -> None:
    assert not SasrecConfig().is_sampled(SAMPLED_ABOVE)
    assert SasrecConfig().is_sampled(SAMPLED_ABOVE + 1)
    assert SasrecConfig(softmax="sampled").is_sampled(10)
    assert not SasrecConfig(softmax="full").is_sampled(10**7)
    with pytest.raises(ValidationError, match="negatives"):
        SasrecConfig(negatives=0)


@pytest.mark.parametrize("is_sampled", [False, True])
def test_a_target_of_weight_3_counts_like_three_targets(is_sampled: bool) -> None:
    """Loss and gradients, those of additions included; more rows than a slice holds."""
    torch.manual_seed(0)
    times = torch.randint(0, 4, (300,))
    hidden = torch.randn(300, WIDTH, requires_grad=True)
    weight = torch.randn(ITEMS, WIDTH, requires_grad=True)
    targets = torch.randint(ITEMS, (300,))
    value = torch.randn(300, requires_grad=True)
    everything = Candidates(torch.arange(ITEMS), torch.zeros(ITEMS))

    def loss(row: torch.Tensor, target_weights: torch.Tensor | None) -> torch.Tensor:
        added = additions_of(torch.arange(len(row)), targets[row] // 2, value[row], len(row))
        if is_sampled:
            return sampled_softmax_loss(hidden[row], weight, targets[row], everything, 300, added, target_weights)
        return full_softmax_loss(hidden[row], weight, targets[row], 300, None, added, target_weights)

    weighted = loss(torch.arange(300), times.float())
    repeated = loss(torch.arange(300).repeat_interleave(times), None)
    torch.testing.assert_close(weighted, repeated)
    inputs = (hidden, weight, value)
    torch.testing.assert_close(gradients(weighted, *inputs), gradients(repeated, *inputs))
