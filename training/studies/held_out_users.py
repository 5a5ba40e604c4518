"""Data sets without some of their users, to test a model on users that it was not trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl

from model_store.errors import DataError
from training.data.dataset import Dataset, Split


class LeftOut(NamedTuple):
    """Data set without some of its users, and the test targets of those."""

    dataset: Dataset  # the users that are kept; items keep their rows, also without interactions
    unseen: Split  # the test target of each user that was left out; ``users`` are rows of the whole data set


def leave_out(dataset: Dataset, share: float, seed: int) -> LeftOut:
    """Remove a share of the users that can be evaluated, drawn by ``seed``, from a data set.

    Raises:
        DataError: No user would be removed, or no user that can be evaluated would be kept.
    """
    everyone = dataset.test()
    count = round(share * len(everyone.targets))
    if not 0 < count < len(everyone.targets):
        raise DataError(
            f"{dataset.name}: a share of {share} leaves {count} of {len(everyone.targets)} users out",
            "choose another --unseen-users, or 0 to leave no user out",
        )

    chosen = np.sort(np.random.default_rng(seed).choice(len(everyone.targets), count, replace=False))
    unseen = Split([everyone.histories[row] for row in chosen], everyone.targets[chosen], everyone.users[chosen])
    return LeftOut(_remove_users(dataset, unseen), unseen)


def _remove_users(dataset: Dataset, unseen: Split) -> Dataset:
    is_kept = np.ones(dataset.users, dtype=bool)
    is_kept[unseen.users] = False
    kept = np.repeat(is_kept, dataset.lengths)

    rest = replace(
        dataset,
        user_ids=dataset.user_ids.filter(pl.Series(is_kept)),
        offsets=np.concatenate([[0], np.cumsum(dataset.lengths[is_kept])]).astype(np.int64),
        items=dataset.items[kept],
        timestamps=dataset.timestamps[kept],
        event_types=dataset.event_types[kept],
        notes=(*dataset.notes, f"{len(unseen.users)} users were left out"),
    )
    rest.check_integrity()
    return rest
