"""Questions of the page Ask, and how answers move."""

from __future__ import annotations

from typing import Any

from console.forms.question import MOST_ITEMS, Question, dropped, movement


def answer(*item_ids: str) -> Any:
    return {"items": [{"item_id": item_id} for item_id in item_ids]}


def test_a_question_is_sent_with_its_rules_and_only_with_those() -> None:
    question = Question(k=7, leave_out_history=False)
    question.add("a", "A")
    question.add("b", None)
    plain = question.request()
    assert (plain["history"], plain["k"], plain["exclude_seen"]) == (["a", "b"], 7, False)
    assert (plain["filter"], plain["max_per_prefix"], plain["explain"]) == (None, None, False)

    question.categories = ["Drama"]
    question.max_per_prefix = 2
    ruled = question.request(explain=True)
    assert (ruled["filter"], ruled["max_per_prefix"], ruled["explain"]) == ({"categories": ["Drama"]}, 2, True)
    absent = question.why_not("c")
    assert absent["item_id"] == "c"
    assert {name: ruled[name] for name in absent if name != "item_id"} == {  # type: ignore[literal-required]
        name: value for name, value in absent.items() if name != "item_id"
    }


def test_the_oldest_item_goes_when_a_history_is_full() -> None:
    question = Question()
    for place in range(MOST_ITEMS + 2):
        question.add(str(place), None)
    assert [item_id for item_id, _ in question.history] == [str(place) for place in range(2, MOST_ITEMS + 2)]
    question.remove(0)
    assert question.history[0][0] == "3"


def test_movements_are_told_from_the_answer_before() -> None:
    before = answer("a", "b", "c")
    assert [movement(before, item_id, rank) for rank, item_id in enumerate("bax", start=1)] == ["▲ 1", "▼ 1", "new"]
    assert movement(before, "c", 3) == ""
    assert movement(None, "a", 1) == ""
    assert [each["item_id"] for each in dropped(before, answer("b", "x"))] == ["a", "c"]
    assert dropped(None, before) == []
