"""The pass and its gate: what is published, which version is live afterwards, and what is remembered.

Nothing is trained here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.bundles import publish_small
from tests.support.comparisons import comparison
from tests.support.made_up_passes import FakePipeline, judged_against, last_report, publish_with_data, record
from training.config import load_config
from training.data.prepare import open_or_prepare
from training.loop.progress import PlainProgress
from training.retraining import retrain
from training.retraining.drift import Drift, Shift
from training.retraining.gate import GATE_METRIC
from training.retraining.replay import Replay
from training.retraining.retrain import Retrainer
from training.retraining.schedule import attempt


@pytest.mark.parametrize(("better_by", "is_promoted"), [(0.01, True), (0.0, True), (-0.01, False)])
def test_a_pass_promotes_what_is_not_worse_and_keeps_the_rest_out(
    passes: Retrainer, better_by: float, is_promoted: bool
) -> None:
    incumbent = publish_small(passes.store)
    passes.store.promote(incumbent)
    FakePipeline.fused = 0.4 + better_by

    report = judged_against(passes, 0.4)
    assert report.promoted is is_promoted
    assert report.candidate == {GATE_METRIC: FakePipeline.fused}
    assert report.incumbent[GATE_METRIC] == 0.4
    assert report.gate["verdict"] == ("promote" if is_promoted else "drop")
    assert last_report(passes) == report.as_dict()
    assert passes.store.live() == report.version
    if is_promoted:
        assert report.version != incumbent
        assert passes.store.bundle().manifest.parent == incumbent
        assert passes.store.previous() == incumbent
    else:
        assert passes.store.versions() == [incumbent]


def test_a_candidate_that_answers_its_goldens_otherwise_is_never_live(
    passes: Retrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = comparison(0.5, None, goldens=Replay(24, "golden 3 differs"))
    monkeypatch.setattr(retrain, "compare", lambda *_: (broken, None))
    report = passes.run_once()
    assert report.reason == "not published: the exported search does not answer its goldens, golden 3 differs"
    assert (report.promoted, passes.store.live(), passes.store.versions()) == (False, None, [])


def test_the_limits_of_the_configuration_hold_candidates_back(
    passes: Retrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes.store.promote(publish_small(passes.store))
    monkeypatch.setattr(retrain, "compare", lambda *_: (comparison(0.5, 0.5, codes_moved=0.4), None))
    passes.config = load_config("demo", ["gate.max_codes_moved=0.3"])
    report = passes.run_once()
    assert report.held_back
    assert report.reason.startswith("held back: known items with other codes: 40.0%, at most 30%; `etegrec-models show")
    assert passes.store.withheld()[report.held_back].reason == "known items with other codes: 40.0%, at most 30%"


def test_the_page_and_the_figures_stand_beside_the_report_of_the_run(passes: Retrainer) -> None:
    report = passes.run_once()
    [folder] = FakePipeline.trained
    assert report.page == str(folder / "report" / "gate.html")
    for place in ("report", "bundle/report"):
        assert json.loads((folder / place / "gate.json").read_text()) == report.gate | {"drift": {}}
        assert "No version is live." in (folder / place / "gate.html").read_text()


def test_the_first_candidate_is_promoted_whatever_it_is_worth(passes: Retrainer) -> None:
    FakePipeline.fused = 0.0
    report = passes.run_once()
    assert (report.promoted, report.incumbent) == (True, {})
    assert passes.store.live() == report.version is not None
    assert passes.store.bundle().manifest.parent is None
    assert len(FakePipeline.trained) == 1


def test_only_force_trains_again_on_the_data_of_the_incumbent(passes: Retrainer) -> None:
    data = open_or_prepare(passes.source, passes.work / "base", passes.config.data, lambda _: None)
    incumbent = publish_with_data(passes, data.fingerprint)
    report = passes.run_once()
    said = f"no new interactions, items or settings since {incumbent.version} was trained"
    assert (report.promoted, report.reason) == (False, said)
    assert (report.version, report.candidate, report.incumbent) == (incumbent.version, {}, {})
    assert FakePipeline.trained == []
    assert last_report(passes) == report.as_dict()

    forced = passes.run_once(force=True)
    assert forced.promoted
    assert forced.version != incumbent.version
    [folder] = FakePipeline.trained
    assert folder.parent == passes.work / "runs"
    assert folder.name.startswith(data.fingerprint[:12])


def test_a_candidate_has_the_data_that_it_is_trained_on_beside_it(passes: Retrainer) -> None:
    passes.run_once()
    [folder] = FakePipeline.trained
    data = open_or_prepare(str(folder / "data"), passes.work / "other", passes.config.data, lambda _: None)
    base = open_or_prepare(passes.source, passes.work / "base", passes.config.data, lambda _: None)
    assert data.fingerprint == base.fingerprint


def test_an_implausible_gain_is_held_back_for_a_person(passes: Retrainer) -> None:
    first = passes.run_once().version
    record(passes, "i3")
    FakePipeline.fused = 0.749
    report = judged_against(passes, 0.025)
    held = report.held_back
    assert held
    assert (report.promoted, report.version) == (False, first)
    assert report.reason.startswith("held back: implausible gain, ndcg@10 0.7490 against 0.0250")
    assert f"`etegrec-models promote {held}` makes it live" in report.reason
    assert passes.store.bundle(held).manifest.parent == first
    assert passes.store.withheld()[held].state == "held back"
    assert last_report(passes) == report.as_dict()

    trained = len(FakePipeline.trained)
    again = judged_against(passes, 0.025)
    assert again.reason.startswith(f"not trained: {held} came from the same data and settings and was held back on")
    assert "implausible gain, ndcg@10 0.7490 against 0.0250" in again.reason
    assert len(FakePipeline.trained) == trained
    assert passes.store.versions() == [first, held]

    passes.store.promote(held)  # by a person who looked at it
    assert passes.store.rollback() == first


def test_a_model_like_popularity_is_said_in_report_and_log(
    passes: Retrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    FakePipeline.popularity = 0.9
    passes.progress = PlainProgress(sys.stderr)
    assert attempt(passes)
    report = last_report(passes)
    assert report["promoted"], "the first model is promoted all the same"
    assert report["warnings"][0].startswith("This model is not better than recommending the most popular items")
    assert report["warnings"][0] in capsys.readouterr().err


def test_a_shift_is_said_in_report_page_and_metrics(passes: Retrainer) -> None:
    first = passes.run_once().version
    record(passes, "i3")
    FakePipeline.drift = Drift(5, {"items": Shift(0.31, 0.1, True, "new"), "codes": Shift(0.01, 0.1, False, "old")})
    report = passes.run_once()
    assert report.promoted, "a shift is a reason to go on with the candidate"
    said = f"The 5 interactions since {first} was trained are unlike those before: items (PSI 0.31, limit 0.10: new)."
    assert report.warnings[-1] == said
    assert report.drift["shifts"]["items"] == {"psi": 0.31, "limit": 0.1, "is_found": True, "note": "new"}
    assert report.page
    assert '<span class="best">shifted</span>' in Path(report.page).read_text()

    metrics = (passes.work / "metrics.prom").read_text().splitlines()
    assert 'etegrec_retrain_drift_psi{of="items"} 0.31' in metrics
    assert 'etegrec_retrain_drift_limit{of="codes"} 0.1' in metrics
    assert 'etegrec_retrain_ndcg{model="live"} 0.5' in metrics
    assert 'etegrec_retrain_limits{result="pass"} 12.0' in metrics
    assert "etegrec_retrain_promoted 1.0" in metrics

    passes.run_once()
    assert "etegrec_retrain_promoted 0.0" in (passes.work / "metrics.prom").read_text(), "nothing was new"
    assert "drift_psi{" not in (passes.work / "metrics.prom").read_text()


def test_figures_that_no_json_can_hold_end_the_pass_before_anything_is_published(passes: Retrainer) -> None:
    """Programs of others read ``gate.json``; one in which NaN stands is refused by most of them."""
    FakePipeline.drift = Drift(5, {"items": Shift(float("nan"), 0.1, False, "nothing")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        passes.run_once()
    assert passes.store.versions() == []
