"""The first day of a shop, lived by the real commands: ``make first-day`` runs it and writes ``docs/FIRST_DAY.md``.

A shop is generated with every mess that real exports have. Each step runs, is checked, and goes to the page with what
it printed; a day that goes wrong ends with an error and writes nothing.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.messy_tables import MessyShop, write_messy_shop

USERS = 200
WEEK = 4
"""Purchases of each customer in the week after."""

HABIT = 0.7
"""Share of them that follow the habit of that week."""

SENT_AT_ONCE = 100

PAGE = Path(__file__).with_name("FIRST_DAY.md")
PORT = 8000
"""Port on the page. The day itself takes a free one."""

SHOWN_LINES = 24
SHOWN_WIDTH = 118
"""Most lines of an answer on the page, and characters of a line."""

LAST_LINES = 5
"""Lines that are shown of the end of a longer answer: there the result stands."""

WAIT_S = 120.0
FULL_COMMAND_S = 1800.0

OWN_COLUMNS = '--items products.csv --items-key "Product Number" --attributes price,in_stock,release_date'


class DayFailed(Exception):
    """A step did not do what this page promises."""


class Day:
    """The day as it is lived: runs steps in a folder and writes down what happened.

    Args:
        folder: Folder of the shop.
        port: Port of its service.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.page: list[str] = []
        self.commands: list[str] = []

    def tell(self, text: str) -> None:
        """Add a heading or a paragraph."""
        self.page.append(text.strip())

    def run(self, command: str, exit_code: int = 0) -> str:
        """Run a command as a reader would type it, and return what it printed.

        Raises:
            DayFailed: It ended with another exit code.
        """
        done = subprocess.run(
            shlex.split(command),
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=FULL_COMMAND_S,
            check=False,
        )
        printed = _decode(done.stdout).replace(f"{self.folder}/", "")
        self._write_down(command, printed)
        if done.returncode != exit_code:
            raise DayFailed(f"`{command}` ended with {done.returncode}, not {exit_code}:\n{printed[-3000:]}")
        return printed

    def ask(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """Send a request, written down as a ``curl`` command, and return the answer.

        Raises:
            DayFailed: It has another status.
        """
        answer = httpx.request(method, f"http://127.0.0.1:{self.port}{path}", json=body, timeout=WAIT_S)
        verb = "" if method == "GET" or (method == "POST" and body is not None) else f"-X {method} "
        data = "" if body is None else f" --json {shlex.quote(json.dumps(body, ensure_ascii=False))}"
        self._write_down(f"curl {verb}localhost:{PORT}{path}{data}", _readable(answer.json()))
        if answer.status_code != status:
            raise DayFailed(f"{method} {path} was answered with {answer.status_code}, not {status}: {answer.text}")
        return answer.json()

    def check(self, is_right: bool, what: str) -> None:
        """Raise :class:`DayFailed` unless what the page says is so."""
        if not is_right:
            raise DayFailed(what)

    @contextmanager
    def service(self) -> Iterator[None]:
        """Run the service until the block ends."""
        self._write_down("etegrec-serve --store models &", "")
        command = ["etegrec-serve", "--store", "models", "--port", str(self.port)]
        variables = self._environment() | {"ETEGREC_LOG_LEVEL": "warning", "ETEGREC_RELOAD_S": "0.5"}
        log = self.folder / "service.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(command, cwd=self.folder, env=variables, stdout=sink, stderr=sink)
        try:
            self.wait_for(lambda: self._is_ready(process), f"the service is not ready; its log is {log}")
            yield
        finally:
            process.terminate()
            process.wait(60)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds.

        Raises:
            DayFailed: It took too long.
        """
        end = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() > end:
                raise DayFailed(what)
            time.sleep(0.2)

    def _is_ready(self, process: subprocess.Popen[bytes]) -> bool:
        if process.poll() is not None:
            raise DayFailed(f"the service ended with {process.returncode}: {self.folder / 'service.log'}")
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def _environment(self) -> dict[str, str]:
        """Return the environment of a new user: no settings, and the commands of this Python."""
        usual = {name: value for name, value in os.environ.items() if not name.startswith("ETEGREC_")}
        path = os.pathsep.join([str(Path(sys.executable).parent), usual.get("PATH", "")])
        return usual | {"PATH": path, "NO_COLOR": "1", "COLUMNS": str(SHOWN_WIDTH), "OMP_NUM_THREADS": "1"}

    def _write_down(self, command: str, printed: str) -> None:
        self.commands.append(command)
        lines = [line.rstrip() for line in printed.splitlines()]
        if len(lines) > SHOWN_LINES:
            left_out = len(lines) - SHOWN_LINES
            lines = [*lines[: SHOWN_LINES - LAST_LINES], f"… ({left_out} more lines)", *lines[-LAST_LINES:]]
        shown = [line if len(line) <= SHOWN_WIDTH else line[: SHOWN_WIDTH - 1] + "…" for line in lines]
        self.page.append("\n".join(["```console", f"$ {_wrapped(command)}", *shown, "```"]))


def _decode(printed: bytes) -> str:
    """Return text, also of a file of the shop that is not UTF-8."""
    try:
        return printed.decode()
    except UnicodeDecodeError:
        return printed.decode("cp1252")


def _readable(answer: Any) -> str:
    """Return JSON over several lines, with lists of numbers in one."""
    text = json.dumps(answer, indent=1, ensure_ascii=False)
    return re.sub(r"\[[\d\s,]+\]", lambda found: f"[{', '.join(re.findall(r'[0-9]+', found.group()))}]", text)


def _wrapped(command: str) -> str:
    """Break a long command before its options."""
    lines = [""]
    for part in re.split(r" (?=--)", command):
        if len(lines[-1]) + len(part) > SHOWN_WIDTH - 4:
            lines.append(part)
        else:
            lines[-1] = f"{lines[-1]} {part}".strip()
    return " \\\n    ".join(lines)


def live(day: Day, shop: MessyShop) -> None:
    """Live the whole day.

    Raises:
        DayFailed: A step did not do what the page says.
    """
    day.tell(
        f"""
# A first day

From an export to recommendations, and what comes after. Every command below ran, and printed what stands below it
(`make first-day` runs it again and writes this page; long answers are cut). The shop is generated, and as messy as real
exports are: {len(shop.meant):,} orders of {USERS} customers, {len(shop.prices)} products.
"""
    )
    _look_and_check(day, shop)
    _train_and_publish(day)
    with day.service():
        _recommend(day, shop)
        _record(day, shop)
        _spend_a_week(day, shop)
        _retrain_and_roll_back(day)
    day.tell(
        """
## What next

Keys before anyone else can reach the port, signatures for models, alarms: [Operating](OPERATIONS.md) and
[Security](SECURITY.md). All fields of the API: [API](API.md), or `GET /docs` of your service. Retraining by the clock:
`etegrec-train schedule`. What people ask in the first week: [Questions](QUESTIONS.md).
"""
    )


def _look_and_check(day: Day, shop: MessyShop) -> None:
    day.tell("## Look at the export")
    day.run("head -n 3 orders.csv products.csv")

    day.tell(
        """
## Check it

Semicolons, capitals, a key with another name in the other file, prices as text: most of it is found out. `validate`
reads as training will read, says what it found and what it cannot use, and ends with 1 if there is anything to decide.
"""
    )
    found = day.run(f"etegrec-train validate --data orders.csv {OWN_COLUMNS}", exit_code=1)
    day.check("FAIL" in found, "validate must name the lines that cannot be used")


def _train_and_publish(day: Day) -> None:
    day.tell("## Train\n\nA line that cannot be used stops the run before it costs time:")
    refused = day.run(f"etegrec-train run --data orders.csv {OWN_COLUMNS} --preset demo --out runs/first", exit_code=4)
    day.check(len(refused.splitlines()) < 12, "an error must not print the file")

    day.tell("Left out and listed, it does not. The same `--out` is fine, as nothing was trained in it:")
    day.run(f"etegrec-train run --data orders.csv {OWN_COLUMNS} --skip-bad --preset demo --out runs/first")
    day.run("head -n 3 runs/first/data/skipped.csv")

    day.tell("## Publish and serve")
    day.run("etegrec-train publish runs/first --store models --create-store --promote")


def _recommend(day: Day, shop: MessyShop) -> None:
    customer = shop.meant[0][0]

    def is_known() -> bool:
        answer = httpx.get(f"http://127.0.0.1:{day.port}/users/{customer}")
        return answer.status_code == 200 and bool(answer.json()["history"])

    day.wait_for(is_known, "the histories of the training data were not imported")
    day.tell("Customers of the training data are known at once:")
    answer = day.ask("POST", "/recommend", {"user_id": customer, "k": 3})
    day.check(answer["served_by"] == "model", "a customer of the training data must be answered by the model")

    unsold = shop.unsold[0]
    day.tell(
        "A product that nobody has bought yet is recommended by what is said about it; rules hold inside the search:"
    )
    genre = shop.genres[unsold][0]
    rule = {"categories": [genre], "allow": shop.unsold}
    answer = day.ask("POST", "/recommend", {"user_id": customer, "k": 2, "filter": rule})
    day.check(len(answer["items"]) > 0, "products without sales must be served")

    day.tell("Prices are numbers:")
    cheap = {"attributes": [{"field": "price", "lte": 30}]}
    answer = day.ask("POST", "/recommend", {"user_id": customer, "k": 2, "filter": cheap})
    prices = [shop.prices[item["item_id"]] for item in answer["items"]]
    day.check(len(prices) == 2 and max(prices) <= 30, f"a range must hold, not answer {prices}")

    day.tell("A field that holds none is refused instead of answered with nothing:")
    wrong = {"attributes": [{"field": "prize", "lte": 30}]}
    refused = day.ask("POST", "/recommend", {"user_id": customer, "filter": wrong}, status=422)
    day.check("prize" in json.dumps(refused), "the refusal must name the field")


def _record(day: Day, shop: MessyShop) -> None:
    customer = shop.meant[0][0]
    best = day.ask("POST", "/recommend", {"user_id": customer, "k": 1})["items"][0]["item_id"]
    day.tell(
        "## Tell it what people do\n\nThe customer buys what was recommended. Id and time are made by the service:"
    )
    day.ask("POST", "/events", {"user_id": customer, "item_id": best, "type": "purchase"})
    day.tell("What was bought is not recommended again:")
    again = day.ask("POST", "/recommend", {"user_id": customer, "k": 1})
    day.check(again["items"][0]["item_id"] != best, "what was bought must not be recommended again")


def _spend_a_week(day: Day, shop: MessyShop) -> None:
    """Record the purchases of every customer: mostly the next product of the same genre after the one before."""
    draw = random.Random(1)
    sold = sorted({item for _, item, _, _ in shop.meant}, key=int)
    last = {customer: item for customer, item, _, _ in shop.meant}
    now = int(time.time())
    events = []
    for step in range(WEEK):
        for customer in last:
            genre = [item for item in sold if int(item) % 4 == int(last[customer]) % 4]
            follower = genre[(genre.index(last[customer]) + 1) % len(genre)]
            last[customer] = follower if draw.random() < HABIT else draw.choice(genre)
            event = {"user_id": customer, "item_id": last[customer], "type": "purchase"}
            events.append(event | {"timestamp": now - 100_000 + 1_000 * step})

    for start in range(0, len(events), SENT_AT_ONCE):
        sent = events[start : start + SENT_AT_ONCE]
        answer = httpx.post(f"http://127.0.0.1:{day.port}/events", json=sent, timeout=WAIT_S)
        day.check(answer.is_success and answer.json()["accepted"] == len(sent), f"events were refused: {answer.text}")
    day.tell(f"A week later there are {len(events):,} more: `POST /events` takes lists, too.")


def _retrain_and_roll_back(day: Day) -> None:
    retrain = f"etegrec-train retrain --data orders.csv {OWN_COLUMNS} --skip-bad --store models --work runs/retrain"
    day.tell("## Retrain\n\nThe same data and options as before, and the events of the week:")
    day.run(f"{retrain} --preset demo")
    before, after = _previous_and_live(day)
    day.check(before is not None, "a model that knows the week must be better")

    day.tell("## Roll back, and have it hold\n\nSomebody does not like it. The next pass leaves it at that:")
    day.run('etegrec-models rollback --store models --reason "the start page looked odd"')
    report = day.run(f"{retrain} --preset demo")
    day.check("was rolled back" in report, "a rolled back model must not come back")
    day.run("etegrec-models list --store models")
    _, live = _previous_and_live(day)
    day.check(live == before and live != after, "the rollback must hold")


def _previous_and_live(day: Day) -> tuple[str | None, str | None]:
    """Return the previous and the live version."""
    listed = subprocess.run(
        [Path(sys.executable).parent / "etegrec-models", "list", "--store", "models", "--json"],
        cwd=day.folder,
        check=True,
        capture_output=True,
    )
    found = json.loads(listed.stdout)
    return found["previous"], found["live"]


def make(folder: Path) -> Day:
    """Generate the shop and live the day in a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    day = Day(folder, port)
    live(day, write_messy_shop(folder, users=USERS))
    return day


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        PAGE.write_text("\n\n".join(make(Path(temporary)).page) + "\n", encoding="utf-8")
