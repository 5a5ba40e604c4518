"""Rollbacks and retraining: what a person rolled back stays back until there is something new."""

from __future__ import annotations

import sys

import pytest

from tests.support.made_up_passes import FakePipeline, judged_against, publish_with_data, record
from training.data.prepare import open_or_prepare
from training.loop.progress import PlainProgress
from training.retraining.retrain import Retrainer
from training.retraining.schedule import attempt


def test_a_rollback_holds_until_there_is_something_new(passes: Retrainer, two_passes: tuple[str, str]) -> None:
    first, second = two_passes
    passes.store.rollback("clicks fell")
    trained = list(FakePipeline.trained)
    for _ in range(2):
        report = passes.run_once()
        assert (report.promoted, report.version, report.candidate) == (False, first, {})
        assert report.reason.startswith(f"not trained: {second} came from the same data and settings and was rolled")
        assert "UTC (clicks fell); " in report.reason
        assert f"`etegrec-models promote {second}` overrides" in report.reason
    assert not passes.run_once(force=True).promoted
    assert FakePipeline.trained == trained
    assert passes.store.versions() == [first, second]

    passes.store.gc(keep=0)  # the version is gone, the decision is not
    assert passes.store.versions() == [first]
    assert not passes.run_once().promoted

    record(passes, "i7")
    report = judged_against(passes, 0.5)
    assert report.promoted
    assert list(passes.store.withheld()) == [second], "promotions by retraining override nothing"


def test_new_settings_are_judged_again_after_a_rollback(passes: Retrainer, two_passes: tuple[str, str]) -> None:
    passes.store.rollback()
    passes.config = passes.config.model_copy(update={"threads": 1})
    assert not passes.run_once().promoted, "threads make no other model"
    passes.config = passes.config.model_copy(update={"seed": 7})
    assert judged_against(passes, 0.5).promoted


def test_new_settings_are_trained_although_nothing_else_is_new(passes: Retrainer, two_passes: tuple[str, str]) -> None:
    passes.config = passes.config.model_copy(update={"seed": 7})
    report = judged_against(passes, 0.5)
    assert report.promoted
    assert passes.store.bundle().manifest.training == passes.config.fingerprint


def test_of_versions_of_older_releases_only_the_data_count(passes: Retrainer) -> None:
    data = open_or_prepare(passes.source, passes.work / "base", passes.config.data, lambda _: None)
    kept = publish_with_data(passes, "f" * 64)
    old = publish_with_data(passes, data.fingerprint, seed=1)
    assert old.manifest.training is None
    assert passes.store.rollback() == kept.version
    report = passes.run_once()
    assert report.reason.startswith(f"not trained: {old.version} came from the same data")
    assert FakePipeline.trained == []


def test_a_promotion_by_a_person_overrides_the_rollback(passes: Retrainer, two_passes: tuple[str, str]) -> None:
    _, second = two_passes
    passes.store.rollback()
    passes.store.promote(second)
    assert passes.run_once().reason.startswith("no new interactions, items or settings")
    assert passes.store.live() == second


def test_a_switch_back_by_promotion_holds_as_well(passes: Retrainer, two_passes: tuple[str, str]) -> None:
    first, second = two_passes
    passes.store.promote(first)
    trained = len(FakePipeline.trained)
    report = passes.run_once()
    assert report.reason == (
        f"not trained: {second} came from the same data and settings and was live before {first}; "
        f"`etegrec-models promote {second}` brings it back"
    )
    assert len(FakePipeline.trained) == trained
    passes.store.gc(keep=0, pinned=[])
    passes.store.root.child(second).remove_all()
    assert judged_against(passes, 0.5).promoted, "it cannot be brought back any more"


def test_a_rollback_during_a_pass_holds(passes: Retrainer, two_passes: tuple[str, str]) -> None:
    first, second = two_passes
    record(passes, "i7")
    FakePipeline.meanwhile = [lambda: passes.store.rollback("clicks fell")]
    report = judged_against(passes, 0.5)
    assert (report.promoted, report.version) == (False, first)
    assert report.reason == (
        f"not promoted: the live version changed from {second} to {first} during the pass; the next pass compares again"
    )
    assert passes.store.versions() == [first, second], "nothing is published"
    FakePipeline.meanwhile = []
    assert judged_against(passes, 0.5).promoted, "new data: the next pass compares with what is live now"


def test_the_same_model_that_is_rolled_back_during_a_pass_is_not_promoted(
    passes: Retrainer, two_passes: tuple[str, str]
) -> None:
    first, second = two_passes
    passes.store.root.write("LIVE", f"{first}\n".encode())  # nobody remembers that the second one was live

    def try_and_reject() -> None:
        passes.store.promote(second)
        passes.store.rollback("clicks fell")

    FakePipeline.meanwhile = [try_and_reject]
    report = judged_against(passes, 0.5)
    assert (report.promoted, report.version) == (False, first)
    assert report.reason.startswith(f"not promoted: {second} is the same and was rolled back")


def test_the_schedule_says_why_it_rests(
    passes: Retrainer, two_passes: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    passes.store.rollback("clicks fell")
    passes.progress = PlainProgress(sys.stderr)
    assert attempt(passes)
    said = capsys.readouterr().err
    assert f"not trained: {two_passes[1]} came from the same data" in said
    assert "(clicks fell)" in said
