"""The demo (``make demo``): train on MovieLens-100K, publish, serve, ask for an answer, and show the console.

It takes minutes. Artefacts stay in the folder ``demo``; a second call reuses them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import EVERYONE
from model_store.console import new_app, run
from model_store.errors import EtegrecError
from model_store.option_groups import with_option_groups
from training.commands.data_options import DataOptions
from training.commands.evaluation_tables import evaluation_table
from training.config import TrainingConfig
from training.data.prepare import MOVIELENS_100K
from training.data.remote import redacted
from training.evaluation.metrics import SEEN_EXCLUDED
from training.export.bundle import export_bundle, publish_run
from training.loop.progress import Progress, progress_for
from training.pipeline import Pipeline
from training.report.notes import ranker_note, search_note, warnings
from training.report.style import model_name
from training.run_evaluation import Evaluation
from training.run_folder import RunFolder

HOST = "127.0.0.1"
PORT = 8000
CONSOLE_PORT = 8088
READY_S = 60  # seconds that the service has to become ready
SHOWN_HISTORY = 10  # items

app = new_app("Train on MovieLens-100K, or on your data, publish, serve and ask for recommendations.")
console = Console(highlight=False)


@app.command()
@with_option_groups(data=MOVIELENS_100K, preset="demo")
def demo(
    source: DataOptions,
    folder: Annotated[Path, typer.Option(help="Folder for all files of the demo.")] = Path("demo"),
    oneshot: Annotated[bool, typer.Option(help="Serve on a free port and stop after the first answer.")] = False,
) -> None:
    """Train, publish and recommend, then keep serving until Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the service must not outlive the demo
    port = _find_port(0 if oneshot else PORT)

    progress = progress_for()
    pipeline = Pipeline(_run_folder(folder, source.load_config(), source.data), progress)
    export_bundle(pipeline)
    version = _publish_and_promote(pipeline, ModelStore(folder / "models", trust=EVERYONE, namespace=""))

    evaluation = pipeline.evaluate()
    (folder / "metrics.json").write_text(json.dumps(evaluation.as_dict()) + "\n", encoding="utf-8")
    _show_evaluation(evaluation)

    pages = None
    service = _start_service(folder / "models", port)
    try:
        _wait_until_ready(service, port, progress)
        answer = _recommend(pipeline, port)
        (folder / "response.json").write_text(json.dumps(answer, ensure_ascii=False) + "\n", encoding="utf-8")
        console.print(f"\nanswered by version {version} in {answer['took_ms']:.1f} ms")
        if not oneshot:
            pages = _start_console(port)
            console.print(f"serving on http://{HOST}:{port} (API: /docs) until Ctrl-C")
            service.wait()
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        if pages is not None:
            _stop("console", pages)
        _stop("service", service)


def _run_folder(folder: Path, config: TrainingConfig, source: str) -> RunFolder:
    """Return a folder of data and configuration, so that a changed preset starts a new run and is not refused."""
    own = "" if source == MOVIELENS_100K else f"-{hashlib.sha256(redacted(source).encode()).hexdigest()[:8]}"
    return RunFolder.create_or_resume(folder / f"run-{config.key}{own}", config, source)


def _publish_and_promote(pipeline: Pipeline, store: ModelStore) -> str:
    """Publish and promote the run's model, unless an earlier demo has, and return the version."""
    record = "published.json"
    version = pipeline.run.read_json(record)["version"] if pipeline.run.has(record) else None
    if version is None or version not in store.versions():
        with pipeline.run.timed("publish"):
            version = publish_run(pipeline, store)
        pipeline.run.write_json(record, {"version": version})
    if store.live() != version:
        store.promote(version)
    return str(version)


def _show_evaluation(evaluation: Evaluation) -> None:
    console.print()
    console.print(evaluation_table(evaluation, "", "history items may be answers"))
    console.print(evaluation_table(evaluation, SEEN_EXCLUDED, "history items excluded"))
    for note in filter(None, (search_note(evaluation), ranker_note(evaluation))):
        console.print(note)
    stages = ", ".join(f"{stage} {seconds:g}" for stage, seconds in evaluation.seconds.items())
    console.print(f"seconds of each stage: {stages}; together {sum(evaluation.seconds.values()):.0f}")
    console.print(
        "rows: " + ", ".join(f"{model_name(row)} = {row}" for row in evaluation.test) + " in demo/metrics.json"
    )
    for line in warnings(evaluation):
        console.print(line, markup=False)


def _start_service(store: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "service", "--host", HOST, "--port", str(port)]
    own = {"ETEGREC_STORE": str(store), "ETEGREC_LOG_LEVEL": "warning"}
    return subprocess.Popen(command, env=_environment() | own)


def _start_console(service_port: int) -> subprocess.Popen[bytes] | None:
    """Start the pages for people, which say where they are; without their library, say what is missing."""
    if any(importlib.util.find_spec(package) is None for package in ("nicegui", "etegrec_client")):
        console.print("for pages to look at it: pip install '.[console]' clients/python", markup=False)
        return None

    port = CONSOLE_PORT if _is_free(CONSOLE_PORT) else _find_port(0)
    command = [sys.executable, "-m", "console", "--service", f"http://{HOST}:{service_port}", "--allow-changes"]
    return subprocess.Popen([*command, "--port", str(port)], env=_environment())


def _environment() -> dict[str, str]:
    """Return the environment without this product's variables: another service's keys or Redis are not the demo's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ETEGREC_")}


def _wait_until_ready(service: subprocess.Popen[bytes], port: int, progress: Progress) -> None:
    progress.say(f"starting the service on {HOST}:{port}")
    deadline = time.monotonic() + READY_S
    reason = "it did not answer"

    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise EtegrecError(
                f"the service ended with exit code {service.returncode} before it was ready",
                f"see its error above; if port {port} is in use, stop the other program or set ONESHOT=1",
            )

        try:
            response = httpx.get(f"http://{HOST}:{port}/health/ready", timeout=2)
            if response.status_code == httpx.codes.OK:
                return
            reason = response.text
        except httpx.TransportError as cause:
            reason = str(cause)
        time.sleep(0.2)

    raise EtegrecError(f"the service was not ready after {READY_S} s: {reason}", "see its log lines above")


def _recommend(pipeline: Pipeline, port: int) -> dict[str, Any]:
    """Ask for recommendations for the first user of the data; show the history and the answer."""
    data = pipeline.dataset
    history = data.test().histories[0]
    titles = dict(zip(data.item_ids, data.titles, strict=True))
    recent = [data.item_ids[row] for row in history[-50:]]

    body = {"user_id": data.user_ids[0], "history": recent, "k": 10}
    response = httpx.post(f"http://{HOST}:{port}/recommend", json=body, timeout=10)
    if response.status_code != httpx.codes.OK:
        raise EtegrecError(f"POST /recommend answered {response.status_code}: {response.text}")
    answer: dict[str, Any] = response.json()

    console.print(f"\nuser {data.user_ids[0]} has {len(history)} items, most recently:")
    for item_id in recent[-SHOWN_HISTORY:]:
        console.print(f"  {titles[item_id]}", markup=False)

    table = Table(title="POST /recommend")
    for column in ("", "title", "semantic ID", "log-probability"):
        table.add_column(column)
    for rank, item in enumerate(answer["items"], start=1):
        codes = "-".join(map(str, item["codes"]))
        table.add_row(str(rank), item.get("title") or item["item_id"], codes, f"{item['log_prob']:.3f}")
    console.print(table)
    return answer


def _stop(name: str, process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=45)
        except subprocess.TimeoutExpired:
            process.kill()
            raise EtegrecError(f"the {name} did not stop within 45 s of SIGTERM and was killed") from None


def _is_free(port: int) -> bool:
    try:
        with socket.create_server((HOST, port)):
            return True
    except OSError:
        return False


def _find_port(port: int) -> int:
    """Return the port if it can be used, or a free one for 0. This is checked before minutes of training."""
    try:
        with socket.create_server((HOST, port)) as probe:
            found: int = probe.getsockname()[1]
    except OSError as cause:
        hint = "stop the program that uses it, or run `make demo ONESHOT=1`, which uses a free port"
        raise EtegrecError(f"port {port} of {HOST} cannot be used: {cause.strerror}", hint) from cause
    return found


if __name__ == "__main__":
    sys.exit(run(app, "make demo"))
