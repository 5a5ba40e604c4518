"""Scripts that train in forked processes: torch is imported once, and each process is a fork of that.

python -m tests.support.training_forks killed FOLDER    # kill a run in every stage, resume it each time
python -m tests.support.training_forks moved FOLDER     # lose the machine of a mirrored run, resume it on another
python -m tests.support.training_forks together FOLDER  # the same training in one process and in two
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import polars as pl
import torch
import torch._dynamo  # what optimisers import at their first step: once here instead of in every fork
from safetensors.torch import save_file
from torch import Tensor

from model_store.config import ModelConfig
from model_store.console import say
from tests.support.tiny import OVERRIDES, write_cycle
from training import run_mirror
from training.config import load_config
from training.data.dataset import Dataset
from training.embedding.sasrec import SasrecConfig
from training.embedding.training import train_sasrec
from training.joint.learner import new_learner
from training.joint.phase_losses import JointConfig
from training.joint.training import FinetuneConfig, finetune, train_joint
from training.loop import checkpoint, distributed
from training.loop.progress import SilentProgress
from training.pipeline import Pipeline
from training.run_folder import RunFolder
from training.tokenizer.codebooks import TokenizerTrainingConfig, pretrain_tokenizer

SHORT = [
    *OVERRIDES,
    *("sasrec.epochs=3", "sasrec.dropout=0.3", "tokenizer.epochs=6", "tokenizer.batch_size=8"),
    *("tokenizer.revive_every=2", "model.recommender.dropout=0.2", "joint.epochs=4", "joint.alignment_from=1"),
    *("joint.validate_every=1", "finetune.epochs=2"),
]

DEATHS = (
    ("sasrec", 1, 2),
    ("tokenizer", 3, 2),
    ("joint", 1, 2),  # inside a tokenizer epoch: codes are older than the tokenizer
    ("joint", 3, 0),  # between two epochs
    ("finetune", 1, 2),
    ("tiger_joint", 2, 1),
    ("tiger_finetune", 0, 3),
)
"""Stage, epoch and finished batches of the epoch at which a process dies, just before it would save them."""


def fork(work: Callable[[], None]) -> int:
    """Run work in a fork; return its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        work()
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait_for(child: int) -> int:
    """Wait for a fork; return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(folder: Path, data: Path, death: tuple[str, int, int] | None = None) -> None:
    """Train everything, saving after every step; die at the given stage, epoch and batch."""
    write_state = checkpoint.write_state

    def write_or_die(path: Path, state: checkpoint.State) -> None:
        stage = path.name.removesuffix(".checkpoint.safetensors")
        if (stage, state.values["epoch"], state.values["step"]) == death:
            os.kill(os.getpid(), signal.SIGKILL)
        write_state(path, state)

    checkpoint.SAVE_EVERY_S = 0.0
    checkpoint.SAVING_SHARE = 1e9
    checkpoint.write_state = write_or_die
    run = RunFolder.create_or_resume(folder, load_config("demo", SHORT), str(data))
    Pipeline(run, SilentProgress()).train(tiger=True)


def killed(folder: Path) -> None:
    """Train once undisturbed, and once with a death and a resume in every stage."""
    data = write_cycle(folder / "cycle.txt", users=30)
    assert wait_for(fork(lambda: train(folder / "calm", data))) == 0
    for death in DEATHS:
        assert wait_for(fork(partial(train, folder / "killed", data, death))) == -signal.SIGKILL, death
        assert (folder / "killed" / f"{death[0]}.checkpoint.safetensors").is_file(), death
    assert wait_for(fork(lambda: train(folder / "killed", data))) == 0


def moved(folder: Path) -> None:
    """Train once undisturbed, and once on two machines: the first dies, the second has nothing but the mirror."""
    data = write_cycle(folder / "cycle.txt", users=30)
    assert wait_for(fork(lambda: train(folder / "calm", data))) == 0

    run_mirror.COPY_EVERY_S = 0.01

    def train_mirrored(machine: str, death: tuple[str, int, int] | None) -> None:
        open_run = partial(RunFolder.create_or_resume, folder / machine, load_config("demo", SHORT), str(data))
        with run_mirror.mirrored(folder / machine, str(folder / "bucket"), open_run, say):
            train(folder / machine, data, death)

    assert wait_for(fork(lambda: train_mirrored("first", ("joint", 3, 0)))) == -signal.SIGKILL
    assert (folder / "bucket" / "joint.checkpoint.safetensors").is_file()
    assert wait_for(fork(lambda: train_mirrored("second", None))) == 0


def cyclic() -> Dataset:
    """Return data in which item i is followed by item i + 1, the last by the first; lengths vary."""
    rows = [(f"u{user}", f"i{(user + step) % 30:02}", step) for user in range(40) for step in range(5 + user % 9)]
    frame = pl.DataFrame(rows, schema={"user": pl.String, "item": pl.String, "timestamp": pl.Int64}, orient="row")
    return Dataset.from_frame("cyclic", frame, {})


def train_all_phases(out: Path) -> None:
    """Train a few steps of every phase; write tensors and losses to ``out``, a folder of this process."""
    tensors: dict[str, Tensor] = {}
    losses: dict[str, object] = {}
    data = cyclic()
    silent = SilentProgress()

    shape = {"embedding_dim": 16, "layers": 1, "max_history": 6, "dropout": 0.0, "batch_tokens": 64, "epochs": 2}
    for softmax in ("full", "sampled"):
        sasrec = SasrecConfig.model_validate({**shape, "softmax": softmax, "negatives": 40})
        found = train_sasrec(data, sasrec, 3, silent)
        tensors |= {f"sasrec {softmax}/{key}": value for key, value in found.model.state_dict().items()}
        losses[f"sasrec {softmax}"] = found.valid

    model = ModelConfig.model_validate(
        {
            "tokenizer": {
                **{"embedding_dim": 16, "hidden_dims": (12,), "codebook_dim": 6, "levels": 2, "codebook_size": 8}
            },
            "recommender": {
                **{"d_model": 16, "d_ff": 32, "heads": 2, "head_dim": 8, "encoder_layers": 1, "decoder_layers": 1},
                **{"dropout": 0.0, "max_history": 8, "encoder_attention": "causal", "history_tokens": "item"},
            },
            "beam_width": 10,
        }
    )
    embeddings = torch.randn(30, 16, generator=torch.Generator().manual_seed(0))

    # The last of 29 + 1 items is a batch of its own: one process has nothing to do there.
    pretraining = TokenizerTrainingConfig(epochs=6, batch_size=29, revive_every=2)
    for alternating in (True, False):
        tokenizer = pretrain_tokenizer(embeddings, model.tokenizer, pretraining, 3, silent)
        tensors |= {f"tokenizer/{key}": value.clone() for key, value in tokenizer.state_dict().items()}
        learner = new_learner(model, tokenizer, embeddings, 3)
        config = JointConfig(epochs=4, alternating=alternating, alignment_from=1, targets_per_batch=40)
        config = config.model_copy(update={"sia_weight": 0.3, "psa_weight": 0.3, "tokenizer_rate": 1e-3})
        train_joint(learner, data.training_sequences(), data.validation(), config, 3, silent)
        finetune(learner, data.training_sequences(), data.validation(), config, FinetuneConfig(epochs=1), 3, silent)
        name = f"joint alternating={alternating}"
        tensors |= {f"{name}/{key}": value for key, value in learner.tensors().items()}
        losses[name] = learner.history
        tensors[f"{name}/codes"] = torch.from_numpy(learner.assignment.codes)

    save_file(tensors, out / f"tensors-{distributed.rank()}.safetensors")
    (out / f"losses-{distributed.rank()}.json").write_text(json.dumps(losses))


@contextmanager
def free_port() -> Iterator[int]:
    """Yield a port that is free."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    yield port


def together(folder: Path) -> None:
    """Run the same training in one process and in two that share the work."""

    def joint(rank: int, port: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        with distributed.process_group("cpu"):
            train_all_phases(folder / "two")

    for name in ("one", "two"):
        (folder / name).mkdir()
    assert wait_for(fork(lambda: train_all_phases(folder / "one"))) == 0
    with free_port() as port:
        children = [fork(partial(joint, rank, port)) for rank in range(2)]
    assert [wait_for(child) for child in children] == [0, 0]


if __name__ == "__main__":
    {"killed": killed, "moved": moved, "together": together}[sys.argv[1]](Path(sys.argv[2]))
