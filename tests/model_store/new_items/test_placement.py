"""New items get the nearest code tuple with room: against brute force, and until there is none."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.catalogue.catalogue import Catalogue, ItemPut
from model_store.errors import CatalogueFull
from model_store.new_items import placement
from model_store.new_items.placement import Codebooks, Placement

Policy = Literal["reassign", "token"]
Tuple = tuple[int, ...]
Array = npt.NDArray[np.float64]


def random_codebooks(seed: int, levels: int, size: int, width: int = 3) -> Array:
    """Each level's codes are smaller than those above, as residuals are."""
    return np.random.default_rng(seed).normal(size=(levels, size, width)) * 0.5 ** np.arange(levels)[:, None, None]


def catalogue_of(codes: list[Tuple], size: int) -> Catalogue:
    rows = range(len(codes))
    return Catalogue(
        codebook_size=size,
        item_ids=[f"i{row}" for row in rows],
        codes=np.array(codes, dtype=np.int16),
        titles=["" for _ in rows],
        categories=[() for _ in rows],
        attributes=[{} for _ in rows],
        popularity=np.zeros(len(codes), dtype=np.int64),
    )


def greedy(latent: Array, codebooks: Array) -> Tuple:
    codes = []
    for book in codebooks:
        codes.append(int(np.square(latent - book).sum(axis=1).argmin()))
        latent = latent - book[codes[-1]]
    return tuple(codes)


def brute_force(latent: Array, codebooks: Array, used: Counter[Tuple], capacity: int) -> Tuple:
    """The own choice if it has room, else the nearest of all tuples with room, the first of equals."""
    own = greedy(latent, codebooks)
    if used[own] < capacity:
        return own
    levels, size, _ = codebooks.shape
    free = [codes for codes in itertools.product(range(size), repeat=levels) if used[codes] < capacity]
    error = [np.square(latent - codebooks[np.arange(levels), list(codes)].sum(axis=0)).sum() for codes in free]
    return free[int(np.argmin(error))]


def taken(random: np.random.Generator, levels: int, size: int, items: int) -> list[Tuple]:
    flat = random.choice(size**levels, size=items, replace=False)
    return [tuple(codes) for codes in np.stack(np.unravel_index(flat, (size,) * levels), axis=1).tolist()]


@pytest.mark.parametrize(("levels", "size", "items"), [(1, 8, 3), (2, 5, 12), (3, 4, 30), (3, 3, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_items_are_placed_as_by_brute_force_until_nothing_is_free(
    seed: int, levels: int, size: int, items: int
) -> None:
    random = np.random.default_rng(seed)
    codebooks, known = random_codebooks(seed, levels, size), taken(random, levels, size, items)
    used = Counter(known)
    places = Placement(catalogue_of(known, size), Codebooks.of(codebooks), "reassign")
    for latent in random.normal(size=(size**levels - items, 3)):
        expected = brute_force(latent, codebooks, used, capacity=1)
        assert tuple(places.place(latent).tolist()) == expected
        used[expected] += 1
    with pytest.raises(CatalogueFull, match=f"holds {size**levels} items, as many as {levels} levels of {size} codes"):
        places.place(random.normal(size=3))


@pytest.mark.parametrize("seed", range(4))
def test_a_further_code_tells_items_of_a_tuple_apart(seed: int) -> None:
    levels, size = 2, 3
    random, codebooks = np.random.default_rng(seed), random_codebooks(seed, levels, size)
    known: list[Tuple] = [(0, 0, 0), (0, 0, 2), (2, 1, 1)]
    used = Counter(codes[:levels] for codes in known)
    everything = set(known)
    places = Placement(catalogue_of(known, size), Codebooks.of(codebooks), "token")
    for latent in random.normal(size=(size ** (levels + 1) - len(known), 3)):
        expected = brute_force(latent, codebooks, used, capacity=size)
        free = min(set(range(size)) - {codes[-1] for codes in everything if codes[:levels] == expected})
        found = tuple(places.place(latent).tolist())
        assert found == (*expected, free)
        used[expected] += 1
        everything.add(found)
    with pytest.raises(CatalogueFull):
        places.place(random.normal(size=3))


whole_numbers = st.integers(-2, 2).map(float)
latents = st.lists(st.tuples(whole_numbers, whole_numbers), min_size=1, max_size=20)


@settings(deadline=None)
@given(latents=latents, levels=st.integers(2, 3), size=st.integers(3, 4), seed=st.integers(0, 9))
@pytest.mark.parametrize("policy", ["reassign", "token"])
def test_codes_do_not_depend_on_how_items_are_grouped(
    policy: Policy, latents: list[tuple[float, float]], levels: int, size: int, seed: int
) -> None:
    """One batch, or a batch an item with the catalogue renewed in between: with whole numbers, so that ties abound."""
    first: Tuple = (0,) * (levels + (policy == "token"))
    codebooks = np.random.default_rng(seed).integers(-2, 3, size=(levels, size, 2)).astype(np.float64)
    start = catalogue_of([first], size)
    together = Placement(start, Codebooks.of(codebooks), policy)
    in_one = [together.place(np.array(latent)).tolist() for latent in latents[: size**levels - 1]]
    catalogue, one_by_one = start, []
    for number, latent in enumerate(latents[: size**levels - 1]):
        codes = Placement(catalogue, Codebooks.of(codebooks), policy).place(np.array(latent))
        catalogue = catalogue.with_changes([ItemPut(f"new-{number}", "", (), {}, codes)])
        one_by_one.append(codes.tolist())
    assert in_one == one_by_one
    catalogue.check_integrity()


def test_equal_distances_go_by_code() -> None:
    codebooks = np.array([[[1.0], [-1.0], [1.0]], [[0.5], [-0.5], [0.5]]])
    places = Placement(catalogue_of([(0, 0)], 3), Codebooks.of(codebooks), "reassign")
    # 1.5 is reached by (0, 0), taken, (0, 2), (2, 0) and (2, 2); then by 0.5: (0, 1) and (2, 1).
    found = [tuple(places.place(np.array([1.5])).tolist()) for _ in range(5)]
    assert found == [(0, 2), (2, 0), (2, 2), (0, 1), (2, 1)]


def test_a_narrow_beam_still_finds_the_last_free_tuple(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefixes without room are no beams, so one beam is enough to arrive."""
    monkeypatch.setattr(placement, "BEAMS", 1)
    levels, size = 3, 4
    everything = list(itertools.product(range(size), repeat=levels))
    codebooks = random_codebooks(0, levels, size)
    for free in everything[:: size + 1]:
        places = Placement(
            catalogue_of([codes for codes in everything if codes != free], size), Codebooks.of(codebooks), "reassign"
        )
        assert tuple(places.place(np.zeros(3)).tolist()) == free


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [1, 16, 300, 1024, 1500, 4096])
def test_the_smallest_of_many_are_those_of_sorting(seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    values = random.integers(0, 5 ** (seed + 1), size).astype(np.float64)  # from mostly ties to hardly any
    values[random.random(size) < seed / 5] = np.inf  # from none to all
    ascending = np.argsort(values, kind="stable")
    expected = np.sort(ascending[np.isfinite(values[ascending])][:16])
    assert placement._find_smallest(values, 16).tolist() == expected.tolist()
