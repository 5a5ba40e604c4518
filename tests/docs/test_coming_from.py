"""Every request of the pages for who comes from elsewhere is answered by the real service; other commands exist."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.encodable_bundles import encodable_bundle
from tests.support.service_harness import serving

pytestmark = pytest.mark.anyio

DOCS = Path(__file__).parents[2] / "docs"


def commands(page: str, program: str) -> list[list[str]]:
    """Return the words of all commands of a program in a page's indented blocks; a quoted body may span lines."""
    text = (DOCS / page).read_text()
    lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    text = re.sub(r"\\\n", " ", "\n".join(lines))
    starts = re.split(rf"(?m)^(?={program}|curl|etegrec-)", text)
    return [shlex.split(part) for part in starts if part.startswith(program)]


async def send(client: httpx.AsyncClient, words: list[str]) -> httpx.Response:
    """Send what a curl command would."""
    body = words[words.index("-d") + 1] if "-d" in words else None
    method = words[words.index("-X") + 1] if "-X" in words else ("POST" if body else "GET")
    [url] = [word.removeprefix("localhost:8000") for word in words if word.startswith("localhost:8000")]
    return await client.request(method, url, content=body, headers={"content-type": "application/json"})


@pytest.mark.parametrize(("page", "least"), [("MIGRATING.md", 15), ("GORSE.md", 4)])
async def test_every_request_is_answered(page: str, least: int, tmp_path: Path) -> None:
    requests = commands(page, "curl")
    assert len(requests) >= least
    encodable_bundle(tmp_path)
    async with serving(tmp_path) as (client, _):
        for words in requests:
            response = await send(client, words)
            assert response.status_code == 200, (words, response.text)


def test_the_other_commands_exist() -> None:
    programs = {words[0] for words in commands("MIGRATING.md", "etegrec-")}
    assert programs == {"etegrec-train", "etegrec-serve", "etegrec-batch"}
    assert [name for name in programs if shutil.which(name, path=str(Path(sys.executable).parent)) is None] == []
