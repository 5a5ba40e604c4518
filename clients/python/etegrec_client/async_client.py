"""The asynchronous client, with the methods of :mod:`etegrec_client.client`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from etegrec_client import calls
from etegrec_client import types as t
from etegrec_client.calls import Call
from etegrec_client.errors import InvalidRequest
from etegrec_client.exchange import TIMEOUT_S, arguments_of, headers_of, read_answer, unreachable
from etegrec_client.retries import Retries
from etegrec_client.uploads import PART_ITEMS, UploadTotal, split

A = TypeVar("A")


class AsyncClient:
    """Client of one service. Use it as an asynchronous context manager, and share it: it keeps connections.

    Args:
        url: Address of the service, such as ``http://localhost:8000``.
        key: API key, if the service needs one.
        timeout_s: Seconds for a connection, and for each wait for bytes of an answer.
        retries: When to repeat a request.
        transport: Transport of httpx, for proxies and tests.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=headers_of(key), timeout=timeout_s, transport=transport)
        self._retries = retries or Retries()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def recommend(self, **request: Unpack[t.RecommendRequest]) -> t.RecommendResponse:
        """Recommend items to a user, by ``user_id`` or ``history``."""
        return await self._send(calls.recommend(request))

    async def recommend_batch(self, requests: Sequence[t.RecommendRequest]) -> list[t.RecommendResponse]:
        """Answer many requests at once, in the same order."""
        return await self._send(calls.recommend_batch(requests))

    async def why_not(self, **request: Unpack[t.WhyNotRequest]) -> t.WhyNotResponse:
        """Say why an item is not in the answer to a request."""
        return await self._send(calls.why_not(request))

    async def put_placement(
        self, name: str, placement: t.Placement, *, revision: int | None = None
    ) -> t.PlacementResponse:
        """Store a placement; with ``revision`` only in place of that one, 0 for none."""
        return await self._send(calls.put_placement(name, placement, revision))

    async def get_placement(self, name: str) -> t.PlacementResponse:
        """Show a placement."""
        return await self._send(calls.get_placement(name))

    async def list_placements(self) -> t.PlacementsResponse:
        """Show all placements."""
        return await self._send(calls.list_placements())

    async def delete_placement(self, name: str, *, revision: int | None = None) -> t.DeletedPlacementResponse:
        """Delete a placement; with ``revision`` only if that one is stored."""
        return await self._send(calls.delete_placement(name, revision))

    async def preview_placement(
        self, placement: t.Placement, *, replaces: str | None = None, histories: int = 50, at: int | None = None
    ) -> t.PlacementPreviewResponse:
        """Show what rules would change, compared with those of a placement; nothing is stored."""
        return await self._send(calls.preview_placement(placement, replaces, histories, at))

    async def put_experiment(
        self, name: str, experiment: t.Experiment, *, revision: int | None = None
    ) -> t.ExperimentResponse:
        """Store an experiment; with ``revision`` only in place of that one, 0 for none."""
        return await self._send(calls.put_experiment(name, experiment, revision))

    async def get_experiment(self, name: str) -> t.ExperimentResponse:
        """Show an experiment."""
        return await self._send(calls.get_experiment(name))

    async def list_experiments(self) -> t.ExperimentsResponse:
        """Show all experiments."""
        return await self._send(calls.list_experiments())

    async def delete_experiment(
        self, name: str, *, revision: int | None = None, force: bool = False
    ) -> t.DeletedExperimentResponse:
        """Delete an experiment; one that runs only with ``force``."""
        return await self._send(calls.delete_experiment(name, revision, force=force))

    async def get_experiment_report(self, name: str) -> t.ExperimentReportResponse:
        """Show what each variant led to, and whether they differ."""
        return await self._send(calls.get_experiment_report(name))

    async def record_event(self, **event: Unpack[t.Event]) -> t.EventsResponse:
        """Record one event."""
        return await self._send(calls.record_events([event]))

    async def record_events(self, events: Iterable[t.Event]) -> t.EventsResponse:
        """Record events; those that were recorded already count once, by their ids."""
        return await self._send(calls.record_events(events))

    async def get_item(self, item_id: t.Id) -> t.ItemResponse:
        """Show an item, hidden or not."""
        return await self._send(calls.get_item(item_id))

    async def put_item(self, item_id: t.Id, **item: Unpack[t.Item]) -> t.PutResponse:
        """Add an item, or replace all of its content."""
        return await self._send(calls.put_item(item_id, item))

    async def preview_item(self, item: t.Item, *, k: int = 10, histories: int = 50) -> t.ItemPreviewResponse:
        """Show where a new item would stand, who would see it and what it would displace; nothing is stored."""
        return await self._send(calls.preview_item(item, k, histories))

    async def patch_item(self, item_id: t.Id, **patch: Unpack[t.ItemPatch]) -> t.ItemResponse:
        """Change some fields of an item; ``hidden=False`` brings a deleted one back."""
        return await self._send(calls.patch_item(item_id, patch))

    async def delete_item(self, item_id: t.Id) -> t.DeleteResponse:
        """Hide an item from all answers."""
        return await self._send(calls.delete_item(item_id))

    async def upload_items(self, items: Iterable[t.BulkItem], *, part_items: int = PART_ITEMS) -> t.BulkResponse:
        """Add or replace many items, part by part; each part is stored as a whole, or not at all.

        Raises:
            InvalidRequest: Items are wrong; ``fields`` counts them from 1. Earlier parts are stored; repeat all.
        """
        total = UploadTotal()
        for part in split(items, part_items):
            try:
                total.add(await self._send(calls.upload_items(part)))
            except InvalidRequest as refused:
                total.renumber(refused)
                raise
        return total.answer

    async def search_items(self, query: str = "", *, limit: int = 20, offset: int = 0) -> t.ItemsResponse:
        """Search items by words of their titles, or by id; hidden ones are found as well."""
        return await self._send(calls.search_items(query, limit, offset))

    async def similar_items(self, item_id: t.Id, *, k: int = 10) -> t.SimilarResponse:
        """Show items like a given one."""
        return await self._send(calls.similar_items(item_id, k))

    async def first_codes(self, *, limit: int = 20, offset: int = 0) -> t.CodesResponse:
        """Show all items and the first codes that they have."""
        return await self._send(calls.first_codes(limit, offset))

    async def items_by_codes(self, prefix: Sequence[int], *, limit: int = 20, offset: int = 0) -> t.CodesResponse:
        """Show the items whose semantic ID begins with these codes."""
        return await self._send(calls.items_by_codes(prefix, limit, offset))

    async def popular_items(self, *, category: str | None = None, k: int = 10) -> t.PopularResponse:
        """Show what users without history get."""
        return await self._send(calls.popular_items(category, k))

    async def trending_items(self, *, category: str | None = None, k: int = 10) -> t.PopularResponse:
        """Show the items with most events of late."""
        return await self._send(calls.trending_items(category, k))

    async def get_user(self, user_id: t.Id) -> t.UserResponse:
        """Show the stored history of a user."""
        return await self._send(calls.get_user(user_id))

    async def delete_user(self, user_id: t.Id) -> t.ForgottenResponse:
        """Erase what is stored of a user."""
        return await self._send(calls.delete_user(user_id))

    async def get_attribution(self, *, days: int = 7) -> t.AttributionResponse:
        """Return what the answers of the newest days led to; needs a key with the scope admin."""
        return await self._send(calls.get_attribution(days))

    async def get_code_attribution(self, *, days: int = 7) -> t.CodeAttributionResponse:
        """Return what was shown and clicked by first code, and drift; needs a key with the scope admin."""
        return await self._send(calls.get_code_attribution(days))

    async def get_model(self) -> dict[str, Any]:
        """Show the manifest of the model that answers."""
        return await self._send(calls.get_model())

    async def get_models(self) -> t.ModelsResponse:
        """Show the live model, those of aliases, and how a canary goes; needs a key with the scope admin."""
        return await self._send(calls.get_models())

    async def health_live(self) -> dict[str, Any]:
        """Return if the process runs."""
        return await self._send(calls.health_live())

    async def health_ready(self) -> dict[str, Any]:
        """Return if the service can answer; raise :class:`Overloaded` with the reason if not."""
        return await self._send(calls.health_ready())

    async def _send(self, call: Call[A]) -> A:
        attempt = 1
        while True:
            try:
                response = await self._http.request(**arguments_of(call))
            except httpx.TransportError as failure:
                wait_s = self._retries.wait_after(attempt, failure)
                if wait_s is None:
                    raise unreachable(failure) from failure
            else:
                wait_s = self._retries.wait_after(attempt, response)
                if wait_s is None:
                    return read_answer(call, response)

            await asyncio.sleep(wait_s)
            attempt += 1
