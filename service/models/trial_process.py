"""Process that tries to load a version: ``python -m service.models.trial_process``, started by the trial.

It reads one line of JSON, the version and the settings, and answers with one line: the digest of the manifest and the
memory that loading took, or the error. Whatever else is written to standard output by then is a message and goes to
standard error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import structlog

from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import Trust
from model_store.errors import BundleRefused, EtegrecError
from model_store.replication.item_payload import NewItem
from service.models.loading import as_trained, load_model, open_coder, open_engine
from service.models.trial import PASSED_ERRORS, Tried
from service.settings import Settings
from service.telemetry.logs import set_up_logs

log = structlog.get_logger()

MEMORY_MB = 2048
"""Memory that a trial may take besides :data:`MEMORY_FACTOR` times the version's files, if no limit is set."""

MEMORY_FACTOR = 8

OOM_SCORE = Path("/proc/self/oom_score_adj")
STATM = Path("/proc/self/statm")
STATUS = Path("/proc/self/status")

NICENESS = 10
"""How much the trial yields to the process that serves."""

LONGEST_MESSAGE = 4000
"""Characters of a message at most, so that an answer fits into the other side's buffer."""


def main() -> None:
    """Answer one question and end the process."""
    answers = _take_standard_output()
    question = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()

    settings = Settings(**question["settings"])
    set_up_logs(settings.log_level)
    structlog.contextvars.bind_contextvars(process="trial")
    _yield_to_others(settings)
    answers.write(json.dumps(answer(question["version"], settings)).encode() + b"\n")
    answers.flush()
    os._exit(0)  # nothing that was opened is worth closing


def answer(version: str, settings: Settings) -> dict[str, Any]:
    """Try a version and return the answer."""
    try:
        return try_version(version, settings)._asdict()
    except EtegrecError as error:
        kind = next(each for each in PASSED_ERRORS if isinstance(error, each))
        return {"error": kind.__name__, "message": str(error)[:LONGEST_MESSAGE], "hint": error.hint}
    except Exception as error:  # noqa: BLE001  whatever a version does to the libraries, it is refused for it
        message = f"version {version} refused: {type(error).__name__}: {error}"
        return {"error": BundleRefused.__name__, "message": message[:LONGEST_MESSAGE], "hint": ""}


def try_version(version: str, settings: Settings) -> Tried:
    """Do everything with a version that serving it will do, and return what was found.

    Raises:
        BundleRefused: It must not be loaded.
        EtegrecError: It cannot be tried now.
        MemoryError: It takes more memory than it may.
    """
    trust = Trust.at(settings.trusted_keys_file)
    bundle = ModelStore(settings.store, trust=trust, namespace=settings.namespace).bundle(version)
    _limit_memory(settings.load_memory_mb or MEMORY_MB + MEMORY_FACTOR * (bundle.manifest.size >> 20))
    before = _resident_bytes()

    catalogue = bundle.verify()
    model = load_model(bundle, as_trained(catalogue.with_room()), settings, open_engine)

    # Either item is refused by a version that takes the other kind; a graph that cannot run raises.
    width = bundle.config.tokenizer.embedding_dim
    items = [NewItem("title", ("category",), {"year": 2000}), NewItem("", (), {}, [1.0] * width)]
    open_coder(bundle, settings).encode_all(items)
    model.engine.close()
    return Tried(bundle.manifest.digest, max(bundle.manifest.size, _peak_bytes() - before))


def _resident_bytes() -> int:
    """Return the memory that this process has now; 0 where that is not known."""
    if not STATM.exists():
        return 0
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak_bytes() -> int:
    """Return the most memory that this process ever had (Linux); 0 where that is not known.

    ``getrusage`` would do, but it begins at the memory of the process that started this one, a service's gigabytes.
    """
    if not STATUS.exists():
        return 0
    return next(int(line.split()[1]) << 10 for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))


def _take_standard_output() -> BinaryIO:
    """Return the standard output for answers, and let everything else that is written to it go to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _end_with_parent() -> None:
    """Wait until the input closes, which happens when the other process is gone, and end this one."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _yield_to_others(settings: Settings) -> None:
    """Let the process that serves go first, when cores are scarce and when memory is; never outlive the time limit."""
    if sys.platform == "win32":
        return

    import resource

    os.nice(NICENESS)
    _limit(resource.RLIMIT_CPU, int(settings.load_timeout_s * (os.cpu_count() or 1)) + 1)
    if OOM_SCORE.exists():
        try:
            OOM_SCORE.write_text("1000")  # if the machine or container runs out of memory, this process is to end
        except OSError as refused:  # some sandboxes show the file and allow no one to write it
            log.info("trial_keeps_its_oom_score", cause=str(refused))


def _limit_memory(megabytes: int) -> None:
    """Limit the memory that this process may allocate (Linux; elsewhere the limit covers less)."""
    if sys.platform == "win32":
        return

    import resource

    _limit(resource.RLIMIT_DATA, megabytes << 20)


def _limit(kind: int, wanted: int) -> None:
    """Lower a limit of this process; one that is lower already stays."""
    import resource

    _, most = resource.getrlimit(kind)
    allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(kind, (allowed, allowed))


if __name__ == "__main__":
    main()
