"""The content profile: recent items count most, nothing later is read, and what says nothing is like nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model_store.network.content_profile import AGES, DECAY, ContentProfile, content_vectors, join_content


def said(rows: int, width: int = 6) -> Tensor:
    torch.manual_seed(0)
    return content_vectors(functional.pad(torch.randn(rows, width - 1), (0, 1)))


def test_it_is_the_mean_of_the_newest_items_weighted_by_age() -> None:
    items = said(AGES + 3)
    prefix = torch.tensor([[2, len(items)]])

    found = ContentProfile()(items[None], prefix)

    two = items[1] + DECAY * items[0]
    newest = items.flip(0)[:AGES]
    all_of_them = (newest * DECAY ** torch.arange(AGES)[:, None]).sum(dim=0)
    torch.testing.assert_close(found[0], functional.normalize(torch.stack([two, all_of_them]), dim=-1))


def test_padding_and_later_items_change_nothing() -> None:
    items = said(7)
    changed = items.clone()
    changed[4:] = said(3).flip(0)

    profile = ContentProfile()
    torch.testing.assert_close(
        profile(items[None], torch.tensor([[4]])), profile(changed[None], torch.tensor([[4]])), rtol=0, atol=0
    )


def test_items_that_say_nothing_are_flagged_and_no_part_of_a_profile() -> None:
    nothing = content_vectors(torch.zeros(2, 6))
    assert nothing.tolist() == [[0, 0, 0, 0, 0, 1]] * 2

    profile = ContentProfile()
    assert (profile(nothing[None], torch.tensor([[2]])) == 0).all()
    mixed = torch.cat([said(1), nothing])[None]
    torch.testing.assert_close(profile(mixed, torch.tensor([[3]]))[0], said(1))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_product_of_joined_vectors_is_the_weighted_sum_of_both_cosines(share: float) -> None:
    torch.manual_seed(1)
    learned = functional.normalize(torch.randn(4, 5), dim=1)
    content = said(4)

    joined = join_content(learned, content, share)

    torch.testing.assert_close(joined.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(joined @ joined.T, (1 - share) * learned @ learned.T + share * content @ content.T)
