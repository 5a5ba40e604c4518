"""Random pieces: of the right length, each given out once, and never the same ones in two processes."""

from __future__ import annotations

import os

from model_store.random_bytes import RandomBytes


def test_every_piece_is_given_out_once() -> None:
    source = RandomBytes(6)
    taken = [source.take() for _ in range(1000)]  # several blocks
    assert {len(each) for each in taken} == {6}
    assert len(set(taken)) == 1000


def test_a_forked_process_does_not_repeat_the_pieces_of_its_parent() -> None:
    source = RandomBytes(16)
    source.take()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, source.take())
        os._exit(0)
    os.waitpid(child, 0)

    assert os.read(reading, 16) not in [source.take() for _ in range(300)]
    os.close(reading)
    os.close(writing)
