"""Answers of another policy to logged histories: the probability of each item in each place.

The computation is the service's own, so `etegrec-batch` does it, in a process of its own: training never imports the
service.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from model_store.errors import ConfigError, DataError
from training.off_policy.logged_answers import HistoryEntry

_COMMAND = "service.batch.cli"


class OtherAnswer(NamedTuple):
    """What the other policy may answer.

    Attributes:
        items: All items that may come, ``[n]``.
        probabilities: Of each item in each place, ``[n, places]``.
    """

    items: Sequence[str]
    probabilities: npt.NDArray[np.float64]


def write_histories(path: Path, histories: Iterable[list[HistoryEntry]]) -> None:
    """Write the users file of `etegrec-batch`: a row for each answer, whose user is its number."""
    found = list(histories)
    columns = {
        "user": [str(number) for number in range(len(found))],
        "history": [[entry.item_id for entry in history] for history in found],
        "history_types": [[entry.type for entry in history] for history in found],
    }
    texts = pl.List(pl.String)
    pl.DataFrame(columns, schema={"user": pl.String, "history": texts, "history_types": texts}).write_parquet(path)


def compute_answers(users: Path, out: Path, options: Sequence[str], redis_url: str | None) -> None:
    """Let `etegrec-batch` compute the probabilities; what it says goes to standard error.

    Args:
        users: The users file.
        out: Folder of the batch run.
        options: Further options.
        redis_url: Redis of the service, if it is known.

    Raises:
        ConfigError: `etegrec-batch` is not installed here.
        DataError: It failed.
    """
    if find_spec("service") is None:
        raise ConfigError(
            "etegrec-batch is not installed here: it computes the answers of the other policy",
            "run the command where the whole package is installed",
        )
    command = [sys.executable, "-m", _COMMAND, "probabilities", "--users", str(users), "--out", str(out), *options]
    environment = {**os.environ, **({"ETEGREC_REDIS_URL": redis_url} if redis_url else {})}
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise DataError("etegrec-batch could not compute the answers of the other policy", "see what it says above")


def read_answers_of(out: Path, count: int) -> list[OtherAnswer]:
    """Return the answers that a finished batch run wrote, by number.

    Raises:
        DataError: There are not as many.
    """
    table = pl.read_parquet(out / "part-*.parquet", columns=["user", "items", "probabilities"])
    found = {
        int(user): OtherAnswer(items, np.array(rows, dtype=np.float64).reshape(len(items), -1))
        for user, items, rows in table.iter_rows()
    }
    if sorted(found) != list(range(count)):
        raise DataError(f"{out} has {len(found):,} answers, not {count:,}", "remove the folder and begin again")
    return [found[number] for number in range(count)]
