"""Ranks of every test user, stored by the evaluation so that a report can compare groups of users.

The file holds int32 arrays: ``rank.<row>.<protocol>`` [test users] for each row of the evaluation, ``beam.users`` [m]
(positions in the test split) and ``beam.kept`` [m].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from training.artefacts import RANKS
from training.evaluation.metrics import Ranks
from training.run_folder import RunFolder

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class UserRanks:
    """Ranks on the test split by row of the evaluation, and the codes of the target that the beam of a sample kept."""

    rows: dict[str, Ranks]
    beam_users: Int64Array  # [m], positions in the test split
    beam_kept: Int64Array  # [m], number of leading codes of the target that the beam kept: 0 … L

    def write(self, run: RunFolder) -> None:
        """Store everything in a run folder."""
        arrays = {f"rank.{row}.{name}": ranks for row, both in self.rows.items() for name, ranks in _by_protocol(both)}
        arrays |= {"beam.users": self.beam_users, "beam.kept": self.beam_kept}
        run.write_tensors(RANKS, {name: torch.from_numpy(array.astype(np.int32)) for name, array in arrays.items()})

    @classmethod
    def read(cls, run: RunFolder) -> UserRanks:
        """Read the ranks that :meth:`write` stored.

        Raises:
            CheckpointError: The file is missing or damaged.
        """
        arrays = {name: tensor.numpy().astype(np.int64) for name, tensor in run.read_tensors(RANKS).items()}
        rows = sorted({name.split(".")[1] for name in arrays if name.startswith("rank.")})
        return cls(
            {row: Ranks(*(arrays[f"rank.{row}.{protocol}"] for protocol in Ranks._fields)) for row in rows},
            arrays["beam.users"],
            arrays["beam.kept"],
        )


def _by_protocol(ranks: Ranks) -> list[tuple[str, Int64Array]]:
    return list(zip(Ranks._fields, ranks, strict=True))
