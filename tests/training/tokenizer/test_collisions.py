"""Semantic IDs are unique whatever the latents; who must move goes to the nearest free tuple."""

import itertools
from collections import Counter
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model_store.config import TokenizerConfig
from model_store.errors import CatalogueError
from model_store.network.tokenizer import Tokenizer
from training.tokenizer import collisions
from training.tokenizer.collisions import NEAREST, assign_codes, nearest_tuples

Tuple = tuple[int, ...]


def world(seed: int, items: int, levels: int, size: int, width: int = 3) -> tuple[Tensor, Tensor]:
    """Latents and codebooks; each level's codes are smaller than those above, as residuals are."""
    generator = torch.Generator().manual_seed(seed)
    scale = 0.5 ** torch.arange(levels)[:, None, None]
    codebooks = torch.randn(levels, size, width, generator=generator) * scale
    return torch.randn(items, width, generator=generator), codebooks


def all_tuples(levels: int, size: int) -> list[Tuple]:
    return list(itertools.product(range(size), repeat=levels))


def distances(latents: Tensor, codebooks: Tensor) -> list[dict[Tuple, float]]:
    """Squared distance of each item to the sum of each tuple's vectors, in float64."""
    books = codebooks.double().numpy()
    sums = {codes: books[np.arange(len(books)), list(codes)].sum(0) for codes in all_tuples(len(books), books.shape[1])}
    return [
        {codes: float(((latent - total) ** 2).sum()) for codes, total in sums.items()}
        for latent in latents.double().numpy()
    ]


def greedy(latents: Tensor, codebooks: Tensor) -> list[Tuple]:
    """Residual quantisation, level by level."""
    found = []
    for latent in latents.double().numpy():
        codes = []
        for codebook in codebooks.double().numpy():
            codes.append(int(((latent - codebook) ** 2).sum(-1).argmin()))
            latent = latent - codebook[codes[-1]]
        found.append(tuple(codes))
    return found


def expected_placement(latents: Tensor, codebooks: Tensor, capacity: int) -> list[Tuple]:
    """The policy by brute force: the closest keep their tuple, then the others take the nearest one with room."""
    natural, far = greedy(latents, codebooks), distances(latents, codebooks)
    order = sorted(range(len(natural)), key=lambda row: far[row][natural[row]])
    used: Counter[Tuple] = Counter()
    placed: dict[int, Tuple] = {}
    for row in order:
        if used[natural[row]] < capacity:
            placed[row] = natural[row]
            used[natural[row]] += 1
    for row in order:
        if row not in placed:
            placed[row] = min((codes for codes in far[row] if used[codes] < capacity), key=far[row].__getitem__)
            used[placed[row]] += 1
    return [placed[row] for row in range(len(natural))]


def as_tuples(codes: npt.NDArray[np.integer]) -> list[Tuple]:
    return [tuple(row) for row in codes.tolist()]


@pytest.mark.parametrize(("levels", "size", "items"), [(2, 4, 16), (2, 5, 17), (3, 3, 20), (1, 8, 8)])
@pytest.mark.parametrize("seed", range(5))
def test_reassign_gives_the_nearest_free_tuple(seed: int, levels: int, size: int, items: int) -> None:
    latents, codebooks = world(seed, items, levels, size)
    found = assign_codes(latents, codebooks, "reassign")
    natural = greedy(latents, codebooks)
    assert as_tuples(found.codes) == expected_placement(latents, codebooks, 1)
    sizes = Counter(natural)
    assert found.collision_rate == pytest.approx(sum(sizes[codes] > 1 for codes in natural) / items)
    assert found.largest_group == max(sizes.values())
    assert found.moved == sum(a != b for a, b in zip(as_tuples(found.codes), natural, strict=True))
    assert found.moved == items - len(sizes)


@pytest.mark.parametrize("seed", range(5))
def test_token_overflows_to_the_nearest_tuple_with_room(seed: int) -> None:
    latents, codebooks = world(seed, 25, 2, 3)
    codes = assign_codes(latents, codebooks, "token").codes
    prefixes = as_tuples(codes[:, :-1])
    assert prefixes == expected_placement(latents, codebooks, 3)
    seen: Counter[Tuple] = Counter()
    for prefix, token in zip(prefixes, codes[:, -1].tolist(), strict=True):
        assert token == seen[prefix]
        seen[prefix] += 1


latents_strategy = st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=16)


@settings(deadline=None)
@given(latents=latents_strategy, levels=st.integers(2, 3), size=st.integers(4, 5), seed=st.integers(0, 9))
@pytest.mark.parametrize("policy", ["reassign", "token"])
def test_codes_are_unique_and_in_range(
    policy: str, latents: list[tuple[int, int]], levels: int, size: int, seed: int
) -> None:
    books = np.random.default_rng(seed).integers(-2, 3, (levels, size, 2))  # integers: ties and equal codes abound
    found = assign_codes(torch.tensor(latents).float(), torch.from_numpy(books).float(), policy)  # type: ignore[arg-type]
    assert found.codes.shape == (len(latents), levels + (policy == "token"))
    assert found.codes.dtype == np.int16
    assert len(np.unique(found.codes, axis=0)) == len(latents)
    assert found.codes.min() >= 0
    assert found.codes.max() < size


@pytest.mark.parametrize(("policy", "capacity"), [("reassign", 64), ("token", 256)])
def test_equal_items_fill_the_whole_code_space_and_not_one_more(policy: str, capacity: int) -> None:
    _, codebooks = world(0, 1, 3, 4)
    alike = torch.ones(1, 3)
    full = assign_codes(alike.expand(capacity, 3), codebooks, policy)  # type: ignore[arg-type]
    assert len(np.unique(full.codes, axis=0)) == capacity
    assert full.collision_rate == 1.0
    assert full.largest_group == capacity
    assert Counter(as_tuples(full.codes[:, :3])) == dict.fromkeys(all_tuples(3, 4), capacity // 64)
    with pytest.raises(CatalogueError, match=f"{capacity + 1} items do not fit into 3 levels of 4 codes") as refused:
        assign_codes(alike.expand(capacity + 1, 3), codebooks, policy)  # type: ignore[arg-type]
    assert "codebook_size" in refused.value.hint


def by_level(latent: Tensor, codebooks: Tensor, used: Counter[Tuple], capacity: int) -> Tuple:
    """The nearest code of each level below which there is room."""
    rest = latent.double().numpy()
    codes: Tuple = ()
    for level, book in enumerate(codebooks.double().numpy()):
        below = capacity * len(book) ** (len(codebooks) - level - 1)
        taken = Counter(each[: level + 1] for each in used.elements())
        order = ((rest - book) ** 2).sum(axis=1).argsort(kind="stable").tolist()
        codes = (*codes, next(code for code in order if taken[(*codes, code)] < below))
        rest = rest - book[codes[-1]]
    return codes


@pytest.mark.parametrize(("policy", "capacity"), [("reassign", 1), ("token", 8)])
def test_items_behind_many_of_their_kind_are_placed_level_by_level(
    policy: Literal["reassign", "token"], capacity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, codebooks = world(1, 1, 3, 8)
    items = capacity + NEAREST * capacity + 60
    latents = torch.ones(1, 3).expand(items, 3)  # so they choose by row
    asked: list[int] = []
    search = collisions.nearest_tuples

    def counted(part: Tensor, books: Tensor, width: int) -> tuple[Tensor, Tensor]:
        asked.extend([width] * len(part))
        return search(part, books, width)

    monkeypatch.setattr(collisions, "nearest_tuples", counted)
    found = as_tuples(assign_codes(latents, codebooks, policy).codes[:, :3])
    assert asked.count(NEAREST) == NEAREST  # and nobody was asked for more
    assert set(asked) == {1, NEAREST}

    # One of the nearest tuples is the first choice itself.
    behind = NEAREST if policy == "reassign" else capacity + NEAREST
    used = Counter(found[:behind])
    for row in range(behind, items):
        expected = by_level(latents[row], codebooks, used, capacity)
        assert found[row] == expected
        used[expected] += 1


def test_crowds_of_more_than_16_bits_are_counted() -> None:
    codes = np.zeros((40_000, 2), dtype=np.int64)
    np.testing.assert_array_equal(collisions._rank_in_group(codes), np.arange(40_000))


def test_without_collisions_everyone_keeps_the_tokenizers_codes() -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig(embedding_dim=4, hidden_dims=(), codebook_dim=3, levels=2, codebook_size=5))
    torch.nn.init.normal_(tokenizer.codebooks)
    own = torch.tensor(all_tuples(2, 5))[::3]
    with torch.no_grad():
        latents = tokenizer.codebooks[0][own[:, 0]] * 20 + tokenizer.codebooks[1][own[:, 1]]
        tokenizer.codebooks[0] *= 20
        quantised = tokenizer.quantise(latents).codes
        found = assign_codes(latents, tokenizer.codebooks.detach(), "reassign")
        with_token = assign_codes(latents, tokenizer.codebooks.detach(), "token")
    assert quantised.tolist() == own.tolist() == found.codes.tolist()
    assert (found.collision_rate, found.largest_group, found.moved) == (0.0, 1, 0)
    assert with_token.codes.tolist() == [[*row, 0] for row in own.tolist()]


@pytest.mark.parametrize("policy", ["reassign", "token"])
def test_same_latents_same_codes_and_order_only_breaks_ties(policy: str) -> None:
    latents, codebooks = world(2, 24, 3, 3)
    first, second = (assign_codes(latents, codebooks, policy) for _ in range(2))  # type: ignore[arg-type]
    np.testing.assert_array_equal(first.codes, second.codes)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    shuffled = assign_codes(latents[order], codebooks, policy).codes  # type: ignore[arg-type]
    np.testing.assert_array_equal(shuffled[:, :3], first.codes[order.numpy(), :3])


@pytest.mark.parametrize("seed", range(5))
def test_an_exhaustive_beam_lists_all_tuples_nearest_first(seed: int) -> None:
    latents, codebooks = world(seed, 6, 3, 3)
    codes, error = nearest_tuples(latents, codebooks, 1000)
    assert codes.shape == (6, 27, 3)
    for row, far in enumerate(distances(latents, codebooks)):
        expected = sorted(far, key=far.__getitem__)
        assert as_tuples(codes[row].numpy()) == expected
        np.testing.assert_allclose(error[row].numpy(), [far[one] for one in expected], atol=1e-5)


def test_a_beam_of_one_is_greedy_and_a_narrow_one_is_sorted() -> None:
    latents, codebooks = world(4, 12, 3, 5)
    assert as_tuples(nearest_tuples(latents, codebooks, 1)[0][:, 0].numpy()) == greedy(latents, codebooks)
    codes, error = nearest_tuples(latents, codebooks, 7)
    assert codes.shape == (12, 7, 3)
    assert (error.diff(dim=1) >= 0).all()
    assert all(len(set(as_tuples(row.numpy()))) == 7 for row in codes)


@pytest.mark.parametrize("policy", ["reassign", "token"])
def test_the_memory_bound_does_not_change_the_result(
    policy: Literal["reassign", "token"], monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, codebooks = world(5, items=40, levels=2, size=7)
    whole = assign_codes(latents, codebooks, policy)
    monkeypatch.setattr(collisions, "DISTANCES_AT_ONCE", 50)  # 7 items greedily, then one at a time
    parts = assign_codes(latents, codebooks, policy)
    assert np.array_equal(parts.codes, whole.codes)
    assert (parts.moved, parts.collision_rate) == (whole.moved, whole.collision_rate)
    assert policy == "token" or whole.moved > 0


@pytest.mark.parametrize("policy", ["reassign", "token"])
def test_codes_are_kept_while_they_fit_about_as_well(policy: Literal["reassign", "token"]) -> None:
    random = np.random.default_rng(3)
    codebooks = torch.from_numpy(random.normal(size=(2, 8, 4))).float()
    latents = torch.from_numpy(random.normal(size=(30, 4))).float()
    before = assign_codes(latents, codebooks, policy).codes
    moved = latents + torch.from_numpy(random.normal(size=(30, 4))).float() * 0.3

    def error(codes: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        own = torch.from_numpy(codes[:, :2].astype(np.int64))
        return (moved - codebooks[0][own[:, 0]] - codebooks[1][own[:, 1]]).square().sum(dim=1).numpy()

    np.testing.assert_array_equal(assign_codes(latents, codebooks, policy, before, 0.1).codes, before)
    np.testing.assert_array_equal(assign_codes(moved, codebooks, policy, before, 1e9).codes, before)
    changed = [
        int((assign_codes(moved, codebooks, policy, before, s).codes[:, :2] != before[:, :2]).any(axis=1).sum())
        for s in (0.0, 0.2, 1.0)
    ]
    assert changed[0] > changed[1] > changed[2]
    nearest = nearest_tuples(moved, codebooks, 1)[1][:, 0].numpy()
    sticky = assign_codes(moved, codebooks, "token", before, 0.2).codes
    assert (error(sticky) <= 1.2 * nearest + 1e-5).all()
