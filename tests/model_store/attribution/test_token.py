"""The token of an answer: what goes in comes out, nothing else passes, and it is never too long."""

from __future__ import annotations

import base64
import hmac

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_store.attribution.keys import AttributionKey, AttributionKeys
from model_store.attribution.names import hash_of
from model_store.attribution.token import (
    MAX_CHARACTERS,
    MAX_EXPLORED_RANKS,
    MAX_RANKS,
    Answered,
    Attribution,
    Chance,
    Refusal,
    decode_propensities,
    encode_propensities,
    sign,
    subject_of,
    verify,
)
from model_store.errors import ConfigError

NOW = 1_767_607_200
TTL_S = 3600
KEYS = AttributionKeys.of([b"the first key of all", b"an older key"], "")

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A loaded machine must not fail a test of behaviour."""

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
NAMES = st.none() | st.text(min_size=1, max_size=20)
ANSWERS = st.builds(
    Answered,
    seconds=st.integers(0, 2**32 - 1),
    subject=st.builds(subject_of, st.none() | IDS, st.none() | IDS),
    version=st.text(min_size=1, max_size=40),
    item_ids=st.lists(IDS, max_size=120, unique=True),
    served_by=st.sampled_from(["model", "cache", "popular"]),
    placement=NAMES,
    experiment=NAMES,
    variant=st.integers(0, 255),
    is_implicit=st.booleans(),
    chance=st.none(),
)


def answer(*item_ids: str, **given: object) -> Answered:
    fields = {"seconds": NOW, "subject": "uA", "version": "v1", "item_ids": item_ids or ("a", "b", "c"), **given}
    return Answered(**fields)  # type: ignore[arg-type]


def read(token: str, keys: AttributionKeys = KEYS, at: int = NOW) -> Attribution:
    found = verify(token, keys, TTL_S, at)
    assert isinstance(found, Attribution)
    return found


@PATIENT
@given(ANSWERS)
def test_what_goes_in_comes_out(given_answer: Answered) -> None:
    found = read(sign(given_answer, KEYS.signing), at=given_answer.seconds)

    assert found.seconds == given_answer.seconds
    assert found.version == hash_of(given_answer.version)
    assert found.placement == hash_of(given_answer.placement)
    assert found.experiment == hash_of(given_answer.experiment)
    assert (found.variant, found.served_by) == (given_answer.variant, given_answer.served_by)
    assert found.is_implicit == given_answer.is_implicit
    assert found.is_cut == (len(given_answer.item_ids) > MAX_RANKS)
    assert len(found.items) == min(len(given_answer.item_ids), MAX_RANKS)
    for rank, item_id in enumerate(given_answer.item_ids[:MAX_RANKS], 1):
        assert found.rank(item_id) is not None
        # two of 38 items share their two bytes now and then; then the first one is found
        assert found.rank(item_id) == rank or found.items[rank - 1] in found.items[: rank - 1]


@PATIENT
@given(ANSWERS, st.booleans())
def test_no_token_is_too_long_whatever_k_is(given_answer: Answered, explores: bool) -> None:
    held = min(len(given_answer.item_ids), MAX_EXPLORED_RANKS)
    chance = Chance(np.full(held, 0.5), b"chance") if explores else None
    token = sign(given_answer._replace(chance=chance), KEYS.signing)
    assert len(token) <= MAX_CHARACTERS
    assert token.replace("-", "").replace("_", "").isalnum()


@PATIENT
@given(ANSWERS, st.data())
def test_a_flipped_bit_is_refused(given_answer: Answered, data: st.DataObject) -> None:
    token = sign(given_answer, KEYS.signing)
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    forged = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    assert verify(forged, KEYS, TTL_S, given_answer.seconds) in (Refusal.FORGED, Refusal.MALFORMED)


@PATIENT
@given(ANSWERS, st.data())
def test_another_character_is_refused(given_answer: Answered, data: st.DataObject) -> None:
    """Also one that decodes to the same bytes: a token is written in one way only."""
    token = sign(given_answer, KEYS.signing)
    place = data.draw(st.integers(0, len(token) - 1))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=~ "
    other = data.draw(st.sampled_from([each for each in letters if each != token[place]]))
    changed = token[:place] + other + token[place + 1 :]
    assert isinstance(verify(changed, KEYS, TTL_S, given_answer.seconds), Refusal)


@PATIENT
@given(st.text(max_size=200))
def test_any_text_is_refused_without_an_error(text: str) -> None:
    assert verify(text, KEYS, TTL_S, NOW) in (Refusal.FORGED, Refusal.MALFORMED)


def test_tokens_are_those_of_earlier_releases() -> None:
    """Those that are on their way when a replica starts anew must verify, so their bytes stay what they are."""
    whole = answer("a", "b", "ü", served_by="cache", placement="home", experiment="exp@1", variant=1)
    assert (
        sign(whole, KEYS.signing, b"\x01\x02\x03\x04\x05\x06")
        == "AWlbi6BXPPS8kvS1d3FGuI2sPTPEb1kBEQECAwQFBq6BQK0wF6aH7h1EoYSqsGLlIw"
    )
    cut = answer(*(f"item-{number}" for number in range(40)), subject="")
    assert sign(cut, KEYS.signing, b"abcdef") == (
        "AWlbi6AAAAAAAAC1d3FGAAAAAAAAAAAAUGFiY2RlZp8jI9QEmoKvTuNZCWuPpHfKEgK8C-6CiD2dALm0p5iAO2ez75A9sF4opE0yPH90BUpdx_"
        "dDPGb-xNKcWeYC8fpc35k3VH4mtAwxo_Za_wJHAHThP9tw-Mw"
    )


@PATIENT
@given(st.binary(min_size=1, max_size=64), st.binary(max_size=200))
def test_the_mac_is_hmac_sha256(secret: bytes, body: bytes) -> None:
    key = AttributionKey(secret)
    assert key.mac(body) == key.mac(body) == hmac.digest(secret, body, "sha256")


def test_a_key_is_not_shown() -> None:
    assert KEYS.signing.secret.hex()[:8] not in repr(KEYS)
    assert repr(KEYS.signing) == "AttributionKey()"


def test_a_token_of_another_key_or_shop_is_forged() -> None:
    for foreign in (AttributionKeys.of([b"some other key"], ""), AttributionKeys.of([b"the first key of all"], "shop")):
        assert verify(sign(answer(), foreign.signing), KEYS, TTL_S, NOW) is Refusal.FORGED
        assert verify(sign(answer(), KEYS.signing), foreign, TTL_S, NOW) is Refusal.FORGED


def test_an_older_key_still_verifies() -> None:
    older = AttributionKeys.of([b"an older key"], "")
    assert read(sign(answer(), older.signing)).rank("c") == 3


def test_a_token_expires() -> None:
    token = sign(answer(), KEYS.signing)
    assert read(token, at=NOW + TTL_S).seconds == NOW
    assert verify(token, KEYS, TTL_S, NOW + TTL_S + 1) is Refusal.EXPIRED


def test_the_subject_names_nobody_and_differs_between_keys() -> None:
    older = AttributionKeys.of([b"an older key"], "")
    same = read(sign(answer(), KEYS.signing)).subject
    assert read(sign(answer(), KEYS.signing)).subject == same
    assert read(sign(answer(), older.signing)).subject != same
    assert read(sign(answer(subject="uB"), KEYS.signing)).subject != same
    assert read(sign(answer(subject=""), KEYS.signing)).subject == bytes(6)


def test_a_user_is_no_session() -> None:
    assert subject_of("x", "y") == subject_of("x", None) != subject_of(None, "x")
    assert subject_of(None, None) == ""


def test_an_item_that_was_not_shown_has_no_rank() -> None:
    found = read(sign(answer("a", "b"), KEYS.signing))
    assert (found.rank("a"), found.rank("b"), found.rank("c")) == (1, 2, None)


def test_items_that_clash_in_one_answer_do_not_in_others() -> None:
    """Each answer has fingerprints of its own, so that no two items are taken for each other for ever."""
    ids = [f"item-{number}" for number in range(38)]
    clashes: set[tuple[int, int]] = set()
    tokens = 3000
    for _ in range(tokens):
        items = read(sign(answer(*ids), KEYS.signing)).items.tolist()
        if len(set(items)) < len(items):
            first = next(place for place, item in enumerate(items) if items.index(item) < place)
            clashes.add((items.index(items[first]), first))
    # 703 pairs, each with 1 of 65,536: 32 of 3000 answers have a clash, nearly always of another pair
    assert 10 <= len(clashes) <= 64


def test_propensities_come_back_to_a_thirtieth() -> None:
    probabilities = np.concatenate([np.linspace(0.001, 1, 500), [1e-5, 2e-7]])
    back = decode_propensities(encode_propensities(probabilities))
    assert np.abs(np.log(back / probabilities)).max() <= 1 / 32 + 1e-9
    assert decode_propensities(encode_propensities(np.array([0.0])))[0] == pytest.approx(1.2e-7, rel=0.01)


def test_an_answer_that_explored_says_how_probable_its_items_were() -> None:
    ids = [f"i{number}" for number in range(30)]
    probabilities = np.geomspace(1, 1e-4, 30)
    explored = answer(*ids, chance=Chance(probabilities[:MAX_EXPLORED_RANKS], b"chance"))
    found = read(sign(explored, KEYS.signing))
    assert found.answer_id == b"chance"
    assert found.propensities is not None
    assert len(found.items) == len(found.propensities) == MAX_EXPLORED_RANKS
    assert found.is_cut
    assert np.allclose(found.propensities, probabilities[:MAX_EXPLORED_RANKS], rtol=0.033)
    assert found.rank("i24") == 25


def test_an_answer_without_a_probability_for_each_item_is_refused() -> None:
    with pytest.raises(ValueError, match="2 probabilities for 3 items"):
        sign(answer("a", "b", "c", chance=Chance(np.array([0.5, 0.5]), b"chance")), KEYS.signing)


def test_ranks_fit_as_the_documents_say() -> None:
    assert (MAX_RANKS, MAX_EXPLORED_RANKS) == (38, 25)


def test_keys_are_checked() -> None:
    assert AttributionKeys.configured(" , ", "") is None
    with pytest.raises(ConfigError, match="key 2 has 5 characters, but needs at least 16"):
        AttributionKeys.configured(f"{'k' * 16},short", "")
    keys = AttributionKeys.configured(f"{'k' * 16}, {'l' * 300}", "shop")
    assert keys is not None
    assert read(sign(answer(), keys.all[1]), keys).rank("b") == 2
