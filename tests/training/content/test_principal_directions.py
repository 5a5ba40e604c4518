"""Principal directions are those of the exact decomposition, of dense and of sparse matrices."""

from __future__ import annotations

import pytest
import torch

from training.content.principal_directions import principal_directions


def matrix_with(singular: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, len(singular), generator=generator)).Q for size in (rows, columns))
    matrix: torch.Tensor = (left * singular) @ right.T
    return matrix


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(300, 60), (60, 300)])
def test_the_largest_directions_are_found_in_order(rows: int, columns: int, is_sparse: bool) -> None:
    wanted = 0.9 ** torch.arange(50.0)
    dense = matrix_with(wanted, rows, columns)
    left, singular, right = principal_directions(dense.to_sparse() if is_sparse else dense, 10, seed=3)

    torch.testing.assert_close(singular, wanted[:10], rtol=1e-3, atol=0)
    torch.testing.assert_close(left.T @ left, torch.eye(10), rtol=0, atol=1e-5)
    torch.testing.assert_close(right.T @ right, torch.eye(10), rtol=0, atol=1e-5)
    torch.testing.assert_close(dense @ right, left * singular, rtol=0, atol=1e-5)
    # What they leave over is what the exact decomposition leaves over.
    rest = (dense - (left * singular) @ right.T).norm()
    torch.testing.assert_close(rest, wanted[10:].norm(), rtol=1e-3, atol=0)


def test_directions_beyond_the_rank_are_left_out() -> None:
    left, singular, right = principal_directions(matrix_with(torch.tensor([3.0, 2.0, 1.0]), 40, 30), 8, seed=0)

    torch.testing.assert_close(singular, torch.tensor([3.0, 2.0, 1.0]))
    assert left.shape == (40, 3)
    assert right.shape == (30, 3)


def test_a_seed_gives_the_same_directions_and_leaves_the_global_draws_alone() -> None:
    matrix = matrix_with(0.9 ** torch.arange(20.0), 50, 40)
    state = torch.get_rng_state()
    first, again = (principal_directions(matrix, 5, seed=1) for _ in range(2))

    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
