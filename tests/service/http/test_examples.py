"""Every operation has an example: its request works, and its answer has the fields of a real one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from service.app import create_app
from service.http.examples import EXAMPLES
from service.http.routes import ENDPOINTS
from tests.support.hash_coder import hash_coder
from tests.support.service_harness import fast_settings, live_store, running, until

pytestmark = pytest.mark.anyio

ORDER = (
    *("upload_items", "put_item", "patch_item", "put_experiment", "put_placement", "record_events"),
    *("recommend", "get_item", "get_user"),
)
"""Operations that others build on: items and placements before recommendations, events before their history."""
FREE_FORM = {
    *("get_model", "get_models", "metrics", "get_attribution", "get_experiment_report", "preview_item", "get_user"),
}
"""Operations whose examples are cut short, have data for names of fields, or lists that a few users leave empty."""


def shape_of(value: Any) -> Any:
    """Return the fields of a document, at every depth; of a list, those of its first entry."""
    if isinstance(value, dict):
        return {name: shape_of(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape_of(value[0])] if value and isinstance(value[0], dict) else []
    return None


async def counted(client: httpx.AsyncClient) -> None:
    """Wait until the counts of events are read from the store."""
    async with asyncio.timeout(30):
        while not (await client.get("/trending")).json()["items"]:
            await asyncio.sleep(0.02)


async def test_every_example_works_and_its_answer_has_the_fields_of_a_real_one(tmp_path: Path) -> None:
    live_store(tmp_path)
    app = create_app(fast_settings(tmp_path, catalogue_poll_s=0.01, trends_s=0.02), coders=hash_coder)
    endpoints = {endpoint.operation_id: endpoint for endpoint in ENDPOINTS}
    assert endpoints.keys() == EXAMPLES.keys()

    first = [endpoints[name] for name in ORDER]
    others = [endpoint for name, endpoint in endpoints.items() if name not in ORDER]
    async with running(app) as client:
        await until(lambda: app.state.service.models.current is not None)
        for endpoint in (*first, *sorted(others, key=lambda each: each.method == "DELETE")):
            example = EXAMPLES[endpoint.operation_id]
            path = endpoint.path.replace(":id", "").format(**example.path)
            body = {"content": example.body} if isinstance(example.body, str) else {"json": example.body}
            headers = {"Content-Type": endpoint.body_media} if example.body is not None else {}
            answer = await client.request(
                endpoint.method, path, params=dict(example.query), headers=headers, **(body if headers else {})
            )
            assert answer.status_code == 200, (endpoint.operation_id, answer.text)
            if endpoint.operation_id == "record_events":
                await counted(client)
            if endpoint.operation_id not in FREE_FORM:
                assert shape_of(example.answer) == shape_of(answer.json()), endpoint.operation_id
                TypeAdapter(endpoint.answer).validate_python(example.answer)


async def test_the_description_has_the_examples_tags_and_names(tmp_path: Path) -> None:
    document = create_app(fast_settings(tmp_path)).openapi()
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert {each["operationId"] for each in operations} == EXAMPLES.keys()
    for operation in operations:
        assert [tag in tags for tag in operation["tags"]] == [True]
        assert operation["description"]
        for media in operation["responses"]["200"]["content"].values():
            assert "example" in media
        for media in operation.get("requestBody", {"content": {}})["content"].values():
            assert "example" in media
        for parameter in operation.get("parameters", ()):
            assert "example" in parameter or not parameter["required"]


async def test_a_bulk_upload_is_described_as_text_of_lines(tmp_path: Path) -> None:
    document = create_app(fast_settings(tmp_path)).openapi()
    [(media_type, media)] = document["paths"]["/items/bulk"]["post"]["requestBody"]["content"].items()
    assert media_type == "application/jsonl"
    assert media["schema"]["type"] == "string"
    line = document["components"]["schemas"][media["schema"]["contentSchema"]["$ref"].rpartition("/")[2]]
    assert line["required"] == ["item_id"]
