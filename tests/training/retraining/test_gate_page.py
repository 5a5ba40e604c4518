from __future__ import annotations

from tests.support.comparisons import comparison, figures
from training.config import GateConfig
from training.retraining.drift import Drift, Shift
from training.retraining.gate import Gate
from training.retraining.gate_page import render_gate_page


def test_the_page_says_verdict_reason_and_every_line() -> None:
    judgement = Gate(GateConfig()).judge(comparison(figures(0.2, size=9_000_000), 0.2))
    page = render_gate_page("my <shop>", judgement, ["500 users."], ["Look & see."], None).decode()
    assert "<h1>Hold back for a person</h1>" in page
    assert "<p>bytes: 9,000,000, at most 2,000,000 (live: 1,000,000).</p>" in page
    assert "<p>500 users.</p>" in page
    assert '<p class="warning">Look &amp; see.</p>' in page
    assert "<title>Retraining on my &lt;shop&gt;: hold back</title>" in page
    for check in judgement.checks:
        assert f"<tr><td>{check.name}</td>" in page
    assert page.count('<span class="best">') == 1, "only the broken limit stands out"
    assert "It was not measured" in page


def test_shifts_stand_out() -> None:
    judgement = Gate(GateConfig()).judge(comparison(0.2, 0.2))
    shifts = {"codes": Shift(0.01, 0.1, False, "a < b"), "items": Shift(0.4, 0.1, True, "c")}
    page = render_gate_page("shop", judgement, [], [], Drift(1_234, shifts)).decode()
    assert "<caption>1,234 new interactions beside those before</caption>" in page
    assert "<td>0.010</td><td>0.100</td><td>as before</td><td>a &lt; b</td>" in page
    assert '<td>0.400</td><td>0.100</td><td><span class="best">shifted</span></td><td>c</td>' in page
