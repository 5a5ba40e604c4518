"""Parser of the requests of one connection: one at a time, heads and framing within exact limits."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import httptools

from service.errors import BadHttp, HeadTooLarge

Header = tuple[bytes, bytes]
"""Name, in lower case, and value of a header, without the blanks around it."""

MAX_HEAD_BYTES = 65_536
"""Size of the largest head (request line and headers, with the empty line that ends them)."""

MAX_HEADERS = 256
"""Largest number of headers: thousands of short ones would take far more memory than bytes on the line."""

MAX_FRAMING_BYTES = 4096
"""Largest number of bytes between two pieces of a chunked body: sizes and extensions of chunks."""

_HEAD_END = b"\r\n\r\n"
_READ_HERE = frozenset({b"content-length", b"expect", b"host"})
_HOST = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=%:\[\]]*")
_BLANKS = b" \t"


class Head(NamedTuple):
    """Request line and headers of a request."""

    method: str
    path: bytes  # as it came, percent-encoded
    query: bytes
    version: str
    headers: list[Header]
    expects_continue: bool


class RequestParser:
    """Parser of one connection, which stops at the end of each request until :meth:`begin_next` is called.

    What follows a request is therefore never parsed before that request is answered, however much a client sends
    ahead. For that, bytes are handed to the parser in pieces that end where a head or a body of known length ends.
    The end of a chunked body is only found by parsing it: if more follows in the same read, :attr:`keep_alive` becomes
    false, and what follows is dropped.

    Args:
        on_head: Called with each head.
        on_body: Called with each piece of a body.
    """

    def __init__(self, on_head: Callable[[Head], None], on_body: Callable[[bytes], None]) -> None:
        self.in_head = True
        self.is_complete = False
        self.keep_alive = True
        self._give_head = on_head
        self._give_body = on_body
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._start_head()

    @property
    def has_begun(self) -> bool:
        """True once a byte of the current request has come."""
        return self._head_bytes > 0

    def begin_next(self) -> None:
        """Expect the next request; the last one is answered."""
        self.in_head = True
        self.is_complete = False
        self._start_head()

    def close(self) -> None:
        """Break the cycle of references with the parser, which garbage collection would find late."""
        self._parser = None

    def feed(self, data: bytes | bytearray, at: int, end: int) -> int:
        """Parse ``data[at:end]`` up to the end of the request; return the place of the first byte not parsed.

        Raises:
            BadHttp: The bytes are no HTTP request that this service takes.
            HeadTooLarge: The head has more than ``MAX_HEAD_BYTES`` bytes or ``MAX_HEADERS`` headers.
            RequestError: Whatever ``on_head`` raised.
        """
        view = memoryview(data)
        while at < end and not self.is_complete:
            stop = self._head_stop(data, at, end) if self.in_head else self._body_stop(at, end)
            self._parse(view[at:stop])
            at = stop
        return at

    def _start_head(self) -> None:
        self._url = b""
        self._headers: list[Header] = []
        self._hosts: list[bytes] = []
        self._expects_continue = False
        self._head_bytes = 0
        self._head_tail = b""
        self._body_left = 0
        self._framing_bytes = 0

    def _head_stop(self, data: bytes | bytearray, at: int, end: int) -> int:
        """Return the place behind the head's end, or the end of the data; count the bytes."""
        found = -1
        if self._head_tail:  # the four bytes that end a head may come in two reads
            around = self._head_tail + data[at : min(at + 3, end)]
            found = around.find(_HEAD_END)
            if found >= 0:
                found += at - len(self._head_tail)
        if found < 0:
            found = data.find(_HEAD_END, at, end)

        stop = end if found < 0 else found + len(_HEAD_END)
        self._head_bytes += stop - at
        if self._head_bytes > MAX_HEAD_BYTES:
            raise HeadTooLarge(MAX_HEAD_BYTES, MAX_HEADERS)
        if found < 0:
            self._head_tail = (self._head_tail + data[at:end])[-3:]
        return stop

    def _body_stop(self, at: int, end: int) -> int:
        return min(end, at + self._body_left) if self._body_left else end

    def _parse(self, piece: memoryview) -> None:
        assert self._parser is not None
        self._framing_bytes += 0 if self.in_head else len(piece)
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self.keep_alive = False  # upgrades are ignored; where the body of such a request ends is not known
        except httptools.HttpParserError as failure:
            self._explain(failure)

        if self._framing_bytes > MAX_FRAMING_BYTES and not self.is_complete and not self._body_left:
            raise BadHttp("the framing of the chunked body is too large")

    def _explain(self, failure: httptools.HttpParserError) -> None:
        """Raise the reason why the parser failed; return if only what follows the request is wrong."""
        cause = failure.__context__
        if self.is_complete:
            self.keep_alive = False
        elif isinstance(failure, httptools.HttpParserCallbackError) and cause is not None:
            raise cause from None
        else:
            raise BadHttp("the bytes are no valid HTTP/1.1 request") from None

    # Called by the parser.

    def on_message_begin(self) -> None:
        """Refuse a request behind the current one."""
        if self.is_complete:
            raise _MoreFollows

    def on_url(self, url: bytes) -> None:
        """Collect the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header of the head; refuse trailers, which are no headers."""
        if not self.in_head:
            raise BadHttp("trailers behind a chunked body are not taken")

        if len(self._headers) == MAX_HEADERS:
            raise HeadTooLarge(MAX_HEAD_BYTES, MAX_HEADERS)
        name = name.lower()
        value = value.rstrip(_BLANKS)
        self._headers.append((name, value))
        if name in _READ_HERE:
            self._read_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the head and pass it on."""
        parser = self._parser
        assert parser is not None
        version = parser.get_http_version()
        if len(self._hosts) != 1 and (version != "1.0" or self._hosts):
            raise BadHttp("a request must have exactly one header Host")
        if self._hosts and not _HOST.fullmatch(self._hosts[0]):
            raise BadHttp("the header Host is not valid")

        self.in_head = False
        self.keep_alive = version != "1.0" and parser.should_keep_alive()
        path, query = _split_target(self._url)
        method = parser.get_method().decode("ascii")
        self._give_head(Head(method, path, query, version, self._headers, self._expects_continue))

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body."""
        self._body_left = max(0, self._body_left - len(body))
        self._framing_bytes = 0
        self._give_body(body)

    def on_message_complete(self) -> None:
        """Stop here."""
        self.is_complete = True

    def _read_header(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts.append(value)
        elif name == b"expect":
            self._expects_continue = value.lower() == b"100-continue"
        else:
            self._body_left = int(value)  # the parser has refused whatever is no number


class _MoreFollows(Exception):
    """More bytes follow a chunked body."""


def _split_target(target: bytes) -> tuple[bytes, bytes]:
    """Return path and query of a request's target, which may also be a whole URL."""
    if not target.startswith(b"/"):
        try:
            url = httptools.parse_url(target)
        except httptools.HttpParserInvalidURLError:
            raise BadHttp("the target of the request is neither a path nor a URL") from None
        return url.path or b"/", url.query or b""

    path, _, query = target.partition(b"#")[0].partition(b"?")
    return path, query
