"""Users whom training never sees: left out whole, to ask whether a model serves people it has not met."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl

from model_store.errors import DataError
from training.data.dataset import Dataset, Split


class LeftOut(NamedTuple):
    """A data set without some of its users, and what these are tested on."""

    dataset: Dataset  # the users who stay; items keep their rows, also those that nobody who stays has
    unseen: Split  # the test target of each user who left; ``users`` are rows of the whole data set


def leave_out(dataset: Dataset, share: float, seed: int) -> LeftOut:
    """Leave a share of the users who can be evaluated out of a data set, drawn by ``seed``.

    Raises:
        DataError: Nobody would leave, or nobody who can be evaluated would stay.
    """
    everyone = dataset.test()
    count = round(share * len(everyone.targets))
    if not 0 < count < len(everyone.targets):
        raise DataError(
            f"{dataset.name}: a share of {share} leaves {count} of {len(everyone.targets)} users out",
            "choose another --unseen-users, 0 to leave nobody out",
        )
    chosen = np.sort(np.random.default_rng(seed).choice(len(everyone.targets), count, replace=False))
    unseen = Split([everyone.histories[row] for row in chosen], everyone.targets[chosen], everyone.users[chosen])
    return LeftOut(_without(dataset, unseen), unseen)


def _without(dataset: Dataset, unseen: Split) -> Dataset:
    stays = np.ones(dataset.users, dtype=bool)
    stays[unseen.users] = False
    kept = np.repeat(stays, dataset.lengths)
    rest = replace(
        dataset,
        user_ids=dataset.user_ids.filter(pl.Series(stays)),
        offsets=np.concatenate([[0], np.cumsum(dataset.lengths[stays])]).astype(np.int64),
        items=dataset.items[kept],
        timestamps=dataset.timestamps[kept],
        notes=(*dataset.notes, f"{len(unseen.users)} users were left out"),
    )
    rest.check_integrity()
    return rest
