"""Only so many bulk uploads are read at the same time, and each gives its place back."""

from __future__ import annotations

import pytest

from service.access.upload_slots import UploadSlots
from service.errors import TooManyUploads


def test_one_more_upload_than_there_are_slots_is_refused_and_names_the_setting() -> None:
    slots = UploadSlots(2)
    with slots.taken(), slots.taken():
        with pytest.raises(TooManyUploads, match=r"2 bulk uploads .*max_bulk_uploads"), slots.taken():
            pytest.fail("a third upload was let in")
        with pytest.raises(TooManyUploads), slots.taken():  # the refused one has taken nothing, nor given back
            pytest.fail("a third upload was let in")


def test_a_slot_is_free_again_after_an_upload_also_one_that_failed() -> None:
    slots = UploadSlots(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), slots.taken():
            raise ValueError("broken")
    with slots.taken(), pytest.raises(TooManyUploads), slots.taken():
        pytest.fail("a second upload was let in")
