"""Trouble with the machine: a full disk, a clock that jumps, a replica cut off from the others."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.attack.findings import Findings
from benchmarks.attack.models import new_item
from benchmarks.service_process import ServiceProcess

DISK_MB = 48
WAIT_S = 30.0


def fill_disk(folder: Path, open_service: Callable[[Path], ServiceProcess], key: str) -> Findings:
    """Fill the disk of the embedded store: recommending and forgetting go on, also after a restart; then it recovers.

    Args:
        folder: An empty folder, where a small file system is mounted; without the right to mount, nothing is tried.
        open_service: Returns a service, not started, that keeps its embedded store in a folder.
        key: A key that may do everything.
    """
    findings = Findings()
    with _small_disk(folder) as is_mounted:
        if not is_mounted:
            findings.facts["disk_full"] = "not run: this user may not mount a file system"
            return findings

        service = open_service(folder / "store")
        headers = {"X-API-Key": key}
        service.start()
        try:
            _record(service, headers, "before")
            filler = _fill(folder)
            refused = _wait_for(lambda: _record(service, headers, "during") == 503)
            findings.check(refused, "events are accepted though the disk is full")
            _check_full(findings, service, headers, "full disk")

            service.terminate()
            service.start()
            _check_full(findings, service, headers, "full disk, after a restart")

            filler.unlink()
            findings.check(_wait_for(lambda: _record(service, headers, "after") == 200), "no recovery after the disk")
            history = json.loads(service.get("/users/disk-user", headers)[1])["history"]
            findings.check({"item-1", "item-3"} <= set(history), f"acknowledged events are gone: {history}", "lost")
        finally:
            service.terminate()
    return findings


def jump_clock(service: ServiceProcess, offset_file: Path, key: str) -> Findings:
    """Let the clock of a service jump by a day and a year, both ways; it must go on as before."""
    findings = Findings()
    headers = {"X-API-Key": key}
    for days in (1, -1, 365, -365, 0):
        offset_file.write_text(str(days * 86_400))
        time.sleep(0.3)
        number = days % 400
        findings.check(_record(service, headers, f"jump {days}") == 200, f"no event is accepted {days} days away")
        asked = {"user_id": "disk-user", "k": 5}
        status, body = service.ask("POST", "/recommend", asked, headers)
        findings.check(
            status == 200 and len(json.loads(body)["items"]) == 5, f"{days} days away: {status} {body[:80]!r}"
        )
        status, _ = service.ask("PUT", f"/items/jumped-{number}", new_item(number), headers)
        findings.check(status == 200, f"no item is accepted {days} days away: {status}")
        for path in ("/popular?k=5", "/trending?k=5", "/health/ready"):
            status, text = service.get(path, headers)
            findings.check(status == 200, f"{path} {days} days away: {status} {text[:80]}")
    return findings


def partition_replica(
    near: ServiceProcess, far: ServiceProcess, cut: Callable[[], None], mend: Callable[[], None], key: str
) -> Findings:
    """Cut one of two replicas off from Redis, change items on the other, and let it come back: both must agree."""
    findings = Findings()
    headers = {"X-API-Key": key}
    cut()
    for number in range(30):
        status, _ = near.ask("PUT", f"/items/parted-{number}", new_item(number), headers)
        findings.check(status == 200, f"the connected replica refuses an item: {status}")
    near.ask("DELETE", "/items/parted-0", headers=headers)

    status, body = far.ask("POST", "/recommend", {"history": ["item-1"], "k": 5}, headers)
    findings.check(status == 200, f"the replica without Redis does not recommend: {status} {body[:80]!r}")
    status, _ = far.ask("PUT", "/items/parted-far", new_item(1), headers)
    findings.check(status == 503, f"the replica without Redis acknowledges a change: {status}")

    mend()
    for number in range(30):
        path = f"/items/parted-{number}"
        agrees = _wait_for(lambda path=path: far.get(path, headers) == near.get(path, headers))  # type: ignore[misc]
        findings.check(agrees, f"{path} differs between the replicas after the partition")
    return findings


def _check_full(findings: Findings, service: ServiceProcess, headers: dict[str, str], when: str) -> None:
    status, body = service.ask("POST", "/recommend", {"user_id": "disk-user", "k": 5}, headers)
    findings.check(status == 200 and len(json.loads(body)["items"]) == 5, f"{when}: recommending: {status}")
    status, _ = service.ask("DELETE", "/users/someone", headers=headers)
    findings.check(status == 200, f"{when}: forgetting a user: {status}")
    status, _ = service.ask("DELETE", "/items/item-9", headers=headers)
    findings.check(status == 200, f"{when}: hiding an item: {status}")
    store = _wait_for(lambda: json.loads(service.get("/health/ready")[1])["live_store"] != "up")
    findings.check(store, f"{when}: readiness says that the store is up")


def _record(service: ServiceProcess, headers: dict[str, str], name: str) -> int:
    item = {"before": "item-1", "after": "item-3"}.get(name, "item-2")
    event = {"event_id": f"disk-{name}-{time.time_ns()}", "user_id": "disk-user", "item_id": item}
    return service.ask("POST", "/events", {**event, "timestamp": 1_790_000_000}, headers)[0]


@contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "attacked", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(folder: Path) -> Path:
    """Fill the file system of a folder to its last byte."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    return filler


def _wait_for(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
