"""A machine's part of a training under torchrun; it can die in the middle.

torchrun … -m tests.support.training_machine OUT DATA

With ``DIES_AT`` set to ``STAGE EPOCH STEP`` the process kills torchrun's agent and itself there, as a machine dies that
loses its power.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from tests.support.tiny import OVERRIDES
from training.config import load_config
from training.loop import checkpoint, distributed
from training.loop.progress import SilentProgress
from training.pipeline import Pipeline
from training.run_folder import RunFolder

# Only the first process saves its random state, so without dropout a resumed run repeats every number.
SHORT = [
    *OVERRIDES,
    *("sasrec.epochs=2", "sasrec.dropout=0.0", "tokenizer.epochs=4", "tokenizer.batch_size=8", "joint.epochs=4"),
    *("joint.alignment_from=1", "joint.validate_every=1", "finetune.epochs=1"),
]


def die_at(place: str) -> None:
    """Let this machine die after a step of a stage, once it was saved."""
    save_if_due = checkpoint.ResumableLoop._save_if_due

    def save_and_die(loop: checkpoint.ResumableLoop) -> None:
        save_if_due(loop)
        stage = loop._path.name.split(".")[0] if loop._path else ""
        if f"{stage} {loop.epoch} {loop.step}" == place:
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.ResumableLoop._save_if_due = save_and_die  # type: ignore[assignment, method-assign]


def main(out: Path, data: str) -> None:
    """Train together with the other machines."""
    torch.set_num_threads(1)
    checkpoint.SAVE_EVERY_S = 0.0
    checkpoint.SAVING_SHARE = 1e9
    die_at(os.environ.get("DIES_AT", ""))
    with distributed.process_group("cpu"):
        with distributed.first_then_others():
            run = RunFolder.create_or_resume(out, load_config("demo", SHORT), data)
        run.require_shared()
        Pipeline(run, SilentProgress()).train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
