"""Splitting a stream into lines: the same for any chunks, with true offsets and bounded memory."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from service.ingest.lines import Line, LineSplitter

TEXT = st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\r\n", b"12345", b"123456789"]), max_size=12).map(b"".join)


def split(text: bytes, cuts: list[int], max_bytes: int = 100) -> list[Line]:
    splitter = LineSplitter(max_bytes)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    lines = [line for start, end in pairwise(places) for line in splitter.feed(text[start:end])]
    rest = splitter.rest()
    return [*lines, rest] if rest else lines


@given(TEXT, st.lists(st.integers(0, 40), max_size=5))
def test_lines_do_not_depend_on_the_chunks(text: bytes, cuts: list[int]) -> None:
    lines = split(text, cuts)
    assert [line.raw for line in lines] == (text.removesuffix(b"\n").split(b"\n") if text else [])
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))
    assert not lines or lines[-1].end == len(text)


@given(TEXT, st.lists(st.integers(0, 40), max_size=5))
def test_reading_goes_on_at_the_offset_of_a_line(text: bytes, cuts: list[int]) -> None:
    lines = split(text, cuts)
    for line in lines:
        rest = LineSplitter(100, line.number, line.end)
        again = list(rest.feed(text[line.end :]))
        last = rest.rest()
        assert [*again, *([last] if last else [])] == lines[line.number :]


@given(TEXT, st.lists(st.integers(0, 40), max_size=5))
def test_a_line_that_is_too_long_keeps_its_beginning_and_its_neighbours(text: bytes, cuts: list[int]) -> None:
    for short, whole in zip(split(text, cuts, 4), split(text, cuts), strict=True):
        assert short == Line(whole.number, whole.raw[:4], whole.end, len(whole.raw) > 4)
