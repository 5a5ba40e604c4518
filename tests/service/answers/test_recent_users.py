"""Users of late: each once, who asked last first, a bounded number, and none that was forgotten."""

from __future__ import annotations

from service.answers.recent_users import KEPT, RecentUsers


def test_who_asked_last_comes_first_and_each_once() -> None:
    users = RecentUsers()
    for user_id in ("a", "b", "c", "a"):
        users.note(user_id)
    assert users.newest(10) == ["a", "c", "b"]
    assert users.newest(2) == ["a", "c"]


def test_a_bounded_number_is_kept() -> None:
    users = RecentUsers()
    for number in range(KEPT + 3):
        users.note(str(number))
    kept = users.newest(2 * KEPT)
    assert len(kept) == KEPT
    assert kept[-1] == "3"


def test_a_forgotten_user_is_left_out() -> None:
    users = RecentUsers()
    users.note("a")
    users.note("b")
    users.forget("a")
    users.forget("never seen")
    assert users.newest(10) == ["b"]
