"""Advice about the models: what to do with the live version, a candidate and a shadow, and by which commands.

The service reads the model store and never writes to it, so that what is live changes by ``etegrec-models`` alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from etegrec_client.types import AliasReport, CanaryEndReport, CanaryReport, ModelsResponse, ShadowReport

from console.advice.card import Advice
from console.advice.report_words import FIGURES
from console.parts import number, share

FEWEST_REQUESTS = 30
"""Requests of the candidate, and of the live version, below which the service judges nothing."""

CANDIDATE_SHARE = 0.05
"""Share that commands propose for a candidate."""

SHADOW_SHARE = 0.1
"""Share that commands propose for a shadow."""

WORSE_SHARE = 0.01
"""Share of requests by which a shadow may fail more, or find nothing more often, before someone should look."""

MANY_DROPPED = 0.5
"""Share of the sampled requests whose loss makes the figures of a shadow doubtful."""

LIST = "etegrec-models list"


def promote(version: str) -> str:
    """Return the command that makes a version live."""
    return f"etegrec-models promote {shlex.quote(version)}"


def verify(version: str) -> str:
    """Return the command that checks the files of a version."""
    return f"etegrec-models verify {shlex.quote(version)}"


def set_alias(name: str, version: str, part: float) -> str:
    """Return the command that has a version tried beside the live one."""
    return f"etegrec-models alias {name} {shlex.quote(version)} --share {part:g}"


def remove_alias(name: str) -> str:
    """Return the command that ends a trial."""
    return f"etegrec-models alias {name} --remove"


def rollback() -> str:
    """Return the command that makes the version before live again."""
    return "etegrec-models rollback --reason 'say why'"


def live_advice(models: ModelsResponse) -> Advice | None:
    """Return what to do about the live version; ``None`` if it serves and nothing is wrong."""
    live = models["live"]
    if live["version"] is None:
        return Advice(
            f"No version answers: {live['problem'] or 'none is loaded yet'}",
            "Choose one of the list and promote it; services load it by themselves.",
            "attention",
            (LIST, promote("VERSION")),
        )
    if live["problem"]:
        return Advice(
            f"The promoted version does not serve as it should: {live['problem']}",
            f"{live['version']} answers meanwhile. The service's log says more. Mend what it names, or go back to the "
            "version before.",
            "attention",
            ("etegrec-models verify", rollback()),
        )
    return None


def candidate_advice(models: ModelsResponse) -> Advice | None:
    """Return what to do about the candidate; ``None`` if no version has the alias."""
    alias = models["candidate"]
    if alias is None:
        return None
    if alias["state"] != "serving":
        return _of_absent(models, "candidate", alias)
    if not alias["share"]:
        return Advice(
            "The candidate is loaded, and nobody gets it: its share is 0",
            "Give it a share of the users.",
            "plain",
            (set_alias("candidate", alias["version"], CANDIDATE_SHARE), remove_alias("candidate")),
        )
    if models["canary"] is None:
        return Advice(
            "The candidate is loaded, and its trial has not begun here",
            "Wait some seconds and refresh. If it stays so, see the overview: while Redis is away, a replica that "
            "started cannot know whether the candidate was rolled back, and gives it to nobody.",
            "plain",
        )
    return _of_canary(models["canary"])


def shadow_advice(models: ModelsResponse) -> Advice | None:
    """Return what to do about the shadow; ``None`` if no version has the alias."""
    alias = models["shadow"]
    if alias is None:
        return None
    if alias["state"] != "serving":
        return _of_absent(models, "shadow", alias)
    found = models["comparison"]
    requests = 0 if found is None else found["shadow"]["answers"] + found["shadow"]["errors"]
    if found is None or not requests + found["dropped"]:
        return Advice(
            "The shadow is loaded, and has searched nothing yet",
            "Wait for requests: it searches those again that the model answered."
            if alias["share"]
            else "Its share is 0. Give it a share of the requests.",
            "plain",
            () if alias["share"] else (set_alias("shadow", alias["version"], SHADOW_SHARE),),
        )
    return _of_comparison(alias, found, requests)


def _of_absent(models: ModelsResponse, name: str, alias: AliasReport) -> Advice:
    """Return what to do about a version that has an alias and does not serve on this replica."""
    version = alias["version"]
    if alias["state"] == "loading":
        return Advice(f"The {name} is being loaded", "Wait; the live version answers everybody meanwhile.", "plain")
    if alias["state"] == "ended":
        return Advice(
            f"The {name} was rolled back: {_reason(models['rolled_back'], version)}",
            "The live version answers everybody again. Take the alias away; or set it again, which is a new trial.",
            "attention",
            (remove_alias(name), set_alias(name, version, alias["share"])),
        )
    if alias["state"] == "refused":
        return Advice(
            f"The {name} was not loaded: {alias['problem']}",
            "The live version answers everybody. If memory is short, raise ETEGREC_SECOND_MODELS_MB; else check the "
            "version, and read the service's log.",
            "attention",
            (verify(version), remove_alias(name)),
        )
    if version == models["live"]["version"]:
        return Advice(
            f"The {name} is the live version",
            "It was promoted, so there is nothing left to try. Take the alias away.",
            "plain",
            (remove_alias(name),),
        )
    return Advice(f"The {name} waits: {alias['problem']}", "Promote a version first.", "attention", (LIST,))


def _reason(ends: Sequence[CanaryEndReport], version: str) -> str:
    return next((end["reason"] for end in ends if end["version"] == version), "its reason is not kept any more")


def _of_canary(canary: CanaryReport) -> Advice:
    version = canary["version"]
    guardrails = (canary["all_replicas"] or canary["here"])["guardrails"]
    broken = [FIGURES[each["figure"]] for each in guardrails if each["holds"] is False]
    clicks = canary["clicks"]
    if clicks is not None and clicks["verdict"] == "lower":
        broken.append(FIGURES["clicked"])
    if broken:
        return Advice(
            f"The candidate does worse: {', '.join(broken)}",
            "Nothing: it is rolled back by itself within seconds, and the live version answers everybody. Refresh.",
            "attention",
        )
    if not guardrails or any(each["holds"] is None for each in guardrails):
        return Advice(
            "Too few requests to judge the candidate",
            f"Wait: the service compares from {FEWEST_REQUESTS} requests of each version on. If nobody gets it, check "
            "that the shop names its visitors by user_id or session_id.",
            "plain",
            (remove_alias("candidate"),),
        )
    if clicks is not None and clicks["verdict"] == "higher":
        return Advice(
            "The candidate does better: more users and sessions click",
            "Promote it; everybody gets it then, and the trial is over.",
            "well",
            (promote(version),),
        )
    return Advice(
        "The candidate does no worse so far",
        f"{_clicks_so_far(canary)} Promote it when that is enough for you; or take it back.",
        "plain",
        (promote(version), remove_alias("candidate")),
    )


def _clicks_so_far(canary: CanaryReport) -> str:
    """Return what clicks can say while they differ by no more than chance."""
    clicks = canary["clicks"]
    if clicks is None or clicks["difference"] is None:
        return "Errors, empty answers and latency are as good; about clicks too little is known yet, so better wait."
    low, high = (f"{100 * clicks['difference'][end]:+.2f}" for end in ("low", "high"))
    return (
        "Errors, empty answers and latency are as good. The share who click differs by something between "
        f"{low} and {high} percentage points; waiting makes that narrower."
    )


def _of_comparison(alias: AliasReport, found: ShadowReport, requests: int) -> Advice:
    version = alias["version"]
    sampled = requests + found["dropped"]
    if found["dropped"] > MANY_DROPPED * sampled:
        smaller = alias["share"] / 4
        return Advice(
            f"{share(found['dropped'] / sampled)} of the sampled requests were dropped",
            "The shadow has one core and no request waits for it. Give it a smaller share, so that it sees quiet and "
            "busy hours alike.",
            "attention",
            (set_alias("shadow", version, smaller),),
        )
    worse = _worse(found)
    if worse:
        return Advice(
            f"The shadow has more {' and more '.join(worse)} than the live version",
            "Give it to nobody. See the service's log and the report of the version, then take the alias away.",
            "attention",
            (f"etegrec-models show {shlex.quote(version)}", remove_alias("shadow")),
        )
    if requests < FEWEST_REQUESTS:
        return Advice(
            f"The shadow has searched {number(requests)} requests so far",
            f"Wait until there are {FEWEST_REQUESTS} or more.",
            "plain",
        )
    return Advice(
        "The shadow answers as well as the live version, as far as figures without users can say",
        "Whether people like its answers, only people show: make it the candidate for some of them.",
        "well",
        (set_alias("candidate", version, CANDIDATE_SHARE), remove_alias("shadow")),
    )


def _worse(found: ShadowReport) -> list[str]:
    """Return the kinds of failures that a shadow has more often than the live version, by more than is allowed."""
    live, shadow = found["live"], found["shadow"]
    shares = {
        "failed searches": [each["errors"] / max(1, each["answers"] + each["errors"]) for each in (live, shadow)],
        "empty answers": [each["empty_answers"] / max(1, each["answers"]) for each in (live, shadow)],
    }
    return [name for name, (before, now) in shares.items() if now > before + WORSE_SHARE]
