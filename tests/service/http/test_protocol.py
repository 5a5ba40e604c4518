"""Clients that send too much, too early, too slowly or in the wrong form, on real connections."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from service.http import connections, protocol
from service.http.protocol import BoundedHttp
from service.http.request_parser import MAX_HEAD_BYTES, MAX_HEADERS
from tests.support.counting_app import BIG, CountingApp
from tests.support.raw_http import GET, HOST, RawServer, get, post, read_answer, send_all
from tests.support.service_harness import until

pytestmark = pytest.mark.anyio

CLOSE = b"Connection: close\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


async def old_client(port: int, path: bytes) -> bytes:
    """Return all bytes of an answer to HTTP/1.0."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get(path, version=b"1.0"))
    answer = await reader.read()
    writer.close()
    return answer


async def send_for_ever(writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(30):
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            await asyncio.sleep(0.001)


def sized_head(size: int) -> bytes:
    """Return a whole request of this many bytes."""
    bare = GET + CLOSE + b"X: \r\n\r\n"
    return bare.replace(b"X: ", b"X: " + b"a" * (size - len(bare)))


class TestPipelining:
    async def test_requests_sent_ahead_are_answered_in_order_and_one_at_a_time(
        self, server: RawServer, counting: CountingApp
    ) -> None:
        requests = [get(b"/%d" % n) for n in range(300)]
        answers = await send_all(server.port, b"".join(requests), get(b"/slow", HOST + CLOSE))
        assert [answer.body.decode() for answer in answers] == [f"answered /{n}" for n in range(300)] + [
            "answered /slow"
        ]
        assert counting.most_running == 1

    async def test_nothing_is_read_while_a_request_waits_behind_another(self, server: RawServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get(b"/slow") * 100_000)
        await read_answer(reader)
        (connection,) = server.state.connections
        assert isinstance(connection, BoundedHttp)
        for _ in range(10):
            await asyncio.sleep(0.02)
            assert 0 < len(connection._rest) <= connections.READ_BYTES
        assert len(server.state.tasks) == 1
        writer.close()

    async def test_one_client_that_sends_ahead_does_not_keep_others_waiting(self, server: RawServer) -> None:
        _, greedy = await asyncio.open_connection("127.0.0.1", server.port)
        greedy.write(get(b"/") * 50_000)
        await until(lambda: server.state.total_requests > 100)
        before = server.state.total_requests
        await send_all(server.port, get(b"/", HOST + CLOSE))
        assert server.state.total_requests - before < 200  # of the other's 50,000
        greedy.close()

    async def test_a_body_and_the_next_request_may_come_together(self, server: RawServer) -> None:
        sent = post(b"/body", b"Content-Length: 5\r\n") + b"GET /" + get(b"/", HOST + CLOSE)
        assert [answer.body for answer in await send_all(server.port, sent)] == [b"5 bytes", b"answered /"]

    async def test_heads_may_be_cut_anywhere(self, server: RawServer) -> None:
        sent = get(b"/a") + post(b"/body", b"Content-Length: 4\r\n") + b"\r\n\r\n" + get(b"/b", HOST + CLOSE)
        for at in range(1, len(sent)):
            answers = await send_all(server.port, sent[:at], sent[at:])
            assert [answer.body for answer in answers] == [b"answered /a", b"4 bytes", b"answered /b"]

    async def test_what_follows_a_chunked_body_in_the_same_read_is_dropped(self, server: RawServer) -> None:
        sent = post(b"/body", CHUNKED) + b"3\r\nabc\r\n0\r\n\r\n" + get(b"/")
        (answer,) = await send_all(server.port, sent)
        assert (answer.body, answer.headers["connection"]) == (b"3 bytes", "close")

    async def test_a_connection_goes_on_after_a_chunked_body(self, server: RawServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(2):
            writer.write(post(b"/body", CHUNKED) + b"3;a=b\r\nabc\r\n0\r\n\r\n")
            answer = await read_answer(reader)
            assert (answer.body, "connection" in answer.headers) == (b"3 bytes", False)
        writer.close()


class TestTrailers:
    async def test_a_trailer_is_never_a_header(self, server: RawServer) -> None:
        for piece in (b"0\r\nX-API-Key: secret\r\n\r\n", b"1\r\nx\r\n0\r\nX-API-Key: secret\r\n\r\n"):
            for pieces in ([post(b"/headers", CHUNKED) + piece], [post(b"/headers", CHUNKED), piece]):
                (answer,) = await send_all(server.port, *pieces)
                assert answer.status == 400
                assert b"trailers" in answer.body
                assert b"secret" not in answer.body

    @pytest.mark.parametrize("path", [b"/body", b"/"])
    async def test_endless_trailers_end_the_connection(self, server: RawServer, path: bytes) -> None:
        for endless in (b"a:b\r\n" * 200_000, b"a: " + b"b" * 1_000_000, b"a" * 1_000_000):
            answers = await send_all(server.port, post(path, CHUNKED) + b"0\r\n", endless)
            assert [answer.status for answer in answers] in ([400], [200])

    async def test_endless_extensions_of_chunks_end_the_connection(self, server: RawServer) -> None:
        (answer,) = await send_all(server.port, post(b"/body", CHUNKED) + b"5;", b"e" * 1_000_000)
        assert answer.status == 400


class TestEarlyAnswers:
    async def test_an_answer_before_the_end_of_the_body_closes_the_connection(self, server: RawServer) -> None:
        for headers in (b"Content-Length: 10\r\n", CHUNKED):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(post(b"/", headers))
            answer = await read_answer(reader)
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await reader.read() == b""
            await until(lambda: not server.state.connections)  # although the client neither sends nor closes
            writer.close()

    async def test_the_answer_arrives_although_the_client_goes_on_sending(self, server: RawServer) -> None:
        body = b"x" * 1_000_000
        (answer,) = await send_all(server.port, post(b"/", b"Content-Length: 1000000\r\n"), body)
        assert answer.body == b"answered /"

    async def test_an_answer_behind_the_body_keeps_the_connection(self, server: RawServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(post(b"/", b"Content-Length: 3\r\n") + b"abc")
        assert "connection" not in (await read_answer(reader)).headers
        writer.close()

    async def test_a_client_that_never_ends_its_body_is_cut_off(self, server: RawServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(post(b"/", b"Content-Length: 1000000000\r\n"))
        await read_answer(reader)
        with pytest.raises(ConnectionError):
            await send_for_ever(writer)
        assert not server.state.connections


class TestHeads:
    async def test_the_size_of_a_head_is_counted_exactly(self, server: RawServer) -> None:
        for before in (b"", get(b"/"), post(b"/body", b"Content-Length: 1\r\n") + b"x"):
            fits = await send_all(server.port, before + sized_head(MAX_HEAD_BYTES))
            refused = await send_all(server.port, before + sized_head(MAX_HEAD_BYTES + 1))
            assert [fits[-1].status, refused[-1].status] == [200, 431]
        assert server.metric("etegrec_rejected_total", slug="head-too-large") == 3

    async def test_a_head_without_end_is_refused_and_read_no_further(self, server: RawServer) -> None:
        for head in (GET + b"X: " + b"a" * 200_000, b"GET /" + b"a" * 200_000, GET + b"X: a\r\n" * 40_000):
            (answer,) = await send_all(server.port, head)
            document = orjson.loads(answer.body)
            assert answer.status == document["status"] == 431
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["connection"] == "close"
            assert answer.headers["x-request-id"] == document["request_id"]
            assert "aaa" not in document["detail"]

    async def test_the_number_of_headers_is_limited(self, server: RawServer) -> None:
        for count, status in ((MAX_HEADERS - 2, 200), (MAX_HEADERS - 1, 431)):
            (answer,) = await send_all(server.port, get(b"/", HOST + CLOSE + b"X: a\r\n" * count))
            assert answer.status == status

    async def test_bytes_before_a_head_count_as_well(self, server: RawServer) -> None:
        (answer,) = await send_all(server.port, b"\r\n" * 100_000)
        assert answer.status == 431

    async def test_a_request_has_exactly_one_host(self, server: RawServer) -> None:
        for headers in (CLOSE, HOST + HOST + CLOSE, b"Host: a b\r\n" + CLOSE, b"Host: a/b\r\n" + CLOSE):
            (answer,) = await send_all(server.port, get(b"/", headers))
            assert (answer.status, b"Host" in answer.body) == (400, True)
        for headers in (b"Host: [::1]:80\r\n" + CLOSE, b"Host:\r\n" + CLOSE):
            (answer,) = await send_all(server.port, get(b"/", headers))
            assert answer.status == 200
        (old,) = await send_all(server.port, get(b"/", b"", version=b"1.0"))
        assert (old.status, old.headers["connection"]) == (200, "close")

    async def test_blanks_around_a_value_are_no_part_of_it(self, server: RawServer) -> None:
        headers = HOST + CLOSE + b"X-API-Key: \t right \t \r\n"
        (answer,) = await send_all(server.port, get(b"/headers", headers))
        assert b"'x-api-key=right'" in answer.body

    async def test_what_is_no_request_gets_a_problem_and_counts(self, server: RawServer) -> None:
        bad = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GET\r\n\r\n", b"BREW / HTTP/1.1\r\n\r\n", get(b"mail:x")]
        bad += [get(b"/", HOST + b" X: y\r\n"), get(b"/", HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n")]
        bad += [get(b"/", HOST + b"Content-Length: x\r\n"), get(b"/", HOST + CHUNKED + b"Content-Length: 3\r\n")]
        for sent in bad:
            (answer,) = await send_all(server.port, sent)
            assert answer.status == 400
            assert orjson.loads(answer.body)["type"] == "urn:etegrec:problem:bad-http"
        assert server.metric("etegrec_rejected_total", slug="bad-http") == len(bad)

    async def test_a_broken_body_gets_a_problem_while_the_app_waits_for_it(self, server: RawServer) -> None:
        (answer,) = await send_all(server.port, post(b"/body", CHUNKED) + b"3\r\nabcd", pause_s=0.05)
        assert answer.status == 400

    async def test_an_upgrade_is_ignored_and_closes(self, server: RawServer) -> None:
        headers = HOST + b"Connection: upgrade\r\nUpgrade: h2c\r\n"
        (answer,) = await send_all(server.port, get(b"/", headers) + get(b"/smuggled"))
        assert (answer.body, answer.headers["connection"]) == (b"answered /", "close")

    async def test_slow_heads_and_silent_connections_are_given_up(
        self, server: RawServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.1)
        for pieces in ((), (GET,), (b"\r\n",), (GET, b"X: 1\r\n", b"X: 2\r\n", b"X: 3\r\n")):
            assert await send_all(server.port, *pieces, pause_s=0.05) == []
        assert server.metric("etegrec_connections_dropped_total", reason="head_too_slow") == 3

    async def test_a_slow_head_behind_a_request_waits_for_its_answer(
        self, server: RawServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.05)
        (answer,) = await send_all(server.port, get(b"/slow") + GET)
        assert answer.body == b"answered /slow"


class TestAnswers:
    async def test_an_idle_connection_is_closed(self, server: RawServer) -> None:
        (answer,) = await send_all(server.port, get(b"/"))
        assert answer.status == 200
        await until(lambda: not server.state.connections)

    async def test_a_client_that_does_not_take_its_answer_is_given_up(
        self, server: RawServer, counting: CountingApp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "UNREAD_TIMEOUT_S", 0.2)
        for headers in (HOST, HOST + CLOSE):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
            writer.write(get(b"/big", headers))
            await until(lambda: len(server.state.connections) > 0)
            await until(lambda: not server.state.connections)
            writer.close()
        assert counting.running == 0

    async def test_a_client_that_sends_its_body_but_takes_no_answer_is_given_up(
        self, server: RawServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "UNREAD_TIMEOUT_S", 0.3)
        for length, sent in ((20_000, 20_000), (1_000_000, 40_000)):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
            writer.write(post(b"/big", b"Content-Length: %d\r\n" % length))
            await until(lambda: any(getattr(each, "is_write_paused", False) for each in server.state.connections))
            writer.write(b"x" * sent)
            await until(lambda: not server.state.connections)
            writer.close()

    async def test_a_client_that_reads_slowly_gets_all(
        self, server: RawServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "LINGER_S", 0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(get(b"/big", HOST + CLOSE))
        await asyncio.sleep(0.3)
        assert (await read_answer(reader)).body == BIG
        writer.close()

    async def test_head_answers_like_get_without_the_body(self, server: RawServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get(b"/").replace(b"GET", b"HEAD") + get(b"/", HOST + CLOSE))
        heads = (await reader.read()).split(b"\r\n\r\n")
        assert [head.count(b"content-length: 10") for head in heads] == [1, 1, 0]
        assert heads[-1] == b"answered /"
        writer.close()

    async def test_an_answer_without_length_comes_in_chunks(self, server: RawServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get(b"/pieces", HOST + CLOSE))
        assert (await reader.read()).endswith(b"\r\n\r\n3\r\none\r\n5\r\nthree\r\n0\r\n\r\n")
        writer.close()

        assert (await old_client(server.port, b"/pieces")).endswith(b"\r\n\r\nonethree")

    async def test_a_body_is_asked_for_where_the_client_waits(self, server: RawServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(post(b"/body", b"Content-Length: 3\r\nExpect: 100-continue\r\n"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert (await read_answer(reader)).body == b"3 bytes"
        writer.close()

    async def test_large_bodies_wait_for_the_app(self, server: RawServer) -> None:
        size = 30_000_000
        (answer,) = await send_all(server.port, post(b"/body", b"Content-Length: %d\r\n" % size + CLOSE), b"x" * size)
        assert answer.body == b"30000000 bytes"
