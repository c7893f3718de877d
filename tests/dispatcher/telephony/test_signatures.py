"""Signatures of carriers' webhooks, compared with the carriers' own SDKs."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey
from plivo.utils import validate_v3_signature
from twilio.request_validator import RequestValidator

from dispatcher.telephony.exotel import Exotel
from dispatcher.telephony.plivo import Plivo
from dispatcher.telephony.telnyx import Telnyx
from dispatcher.telephony.twilio import Twilio
from dispatcher.telephony.webhook import MAX_BODY_BYTES, Forged, Malformed
from tests.dispatcher.telephony import signing
from tests.dispatcher.telephony.signing import NOW, SECRET, URL

CARRIERS = {
    "twilio": (Twilio(SECRET), signing.twilio),
    "telnyx": (Telnyx(signing.TELNYX_PUBLIC), signing.telnyx),
    "plivo": (Plivo(SECRET), signing.plivo),
    "exotel": (Exotel("exotel", SECRET), signing.exotel),
}

words = st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), min_size=1, max_size=20)
forms = st.dictionaries(words, words, max_size=8)


@pytest.mark.parametrize("name", CARRIERS)
def test_webhook_passes_when_carrier_signed_it(name):
    carrier, signed = CARRIERS[name]
    carrier.verify(signed(), NOW)


@pytest.mark.parametrize("name", CARRIERS)
def test_webhook_is_refused_when_signature_is_missing(name):
    carrier, signed = CARRIERS[name]
    timestamp = {key: value for key, value in signed().headers.items() if key == "telnyx-timestamp"}
    with pytest.raises(Forged):
        carrier.verify(replace(signed(), headers=timestamp), NOW)


@pytest.mark.parametrize("name", ["twilio", "telnyx", "plivo"])
def test_webhook_is_refused_when_body_was_changed(name):
    carrier, signed = CARRIERS[name]
    webhook = signed()
    with pytest.raises(Forged):
        carrier.verify(replace(webhook, body=webhook.body.replace(b"4155550123", b"4155550999")), NOW)


@pytest.mark.parametrize("name", ["twilio", "plivo"])
def test_webhook_is_refused_when_url_was_changed(name):
    carrier, signed = CARRIERS[name]
    with pytest.raises(Forged):
        carrier.verify(replace(signed(), url=f"{URL}2"), NOW)


@pytest.mark.parametrize(
    ("name", "signed"),
    [
        ("twilio", lambda: signing.twilio(secret="another account's")),
        ("telnyx", lambda: signing.telnyx(key=SigningKey(bytes(32)))),
        ("plivo", lambda: signing.plivo(secret="another account's")),
        ("exotel", lambda: signing.exotel(password="a guess")),
        ("exotel", lambda: signing.exotel(user="somebody")),
    ],
)
def test_webhook_is_refused_when_another_account_signed_it(name, signed):
    with pytest.raises(Forged):
        CARRIERS[name][0].verify(signed(), NOW)


@pytest.mark.parametrize("header", ["é", "\x00", "a" * 100_000, "===", ","])
@pytest.mark.parametrize("name", CARRIERS)
def test_webhook_is_refused_when_signature_is_garbage(name, header):
    carrier, signed = CARRIERS[name]
    webhook = signed()
    broken = {
        key: header if "signature" in key or key == "authorization" else value
        for key, value in webhook.headers.items()
    }
    with pytest.raises(Forged):
        carrier.verify(replace(webhook, headers=broken), NOW)


@pytest.mark.parametrize(
    ("age", "passes"), [(0, True), (299, True), (301, False), (-299, True), (-301, False)]
)
def test_telnyx_webhook_passes_only_within_five_minutes(age, passes):
    webhook = signing.telnyx(at=NOW - age)
    if passes:
        CARRIERS["telnyx"][0].verify(webhook, NOW)
    else:
        with pytest.raises(Forged, match="300 s"):
            CARRIERS["telnyx"][0].verify(webhook, NOW)


@pytest.mark.parametrize("timestamp", ["", "soon", "-1", "1.7e9", "9" * 40, "١٧٠٠٠٠٠٠٠٠"])
def test_telnyx_webhook_is_refused_when_time_is_no_time(timestamp):
    webhook = signing.telnyx()
    with pytest.raises(Forged, match="telnyx-timestamp"):
        CARRIERS["telnyx"][0].verify(
            replace(webhook, headers={**webhook.headers, "telnyx-timestamp": timestamp}), NOW
        )


def test_telnyx_signatures_of_these_tests_pass_in_its_own_sdk():
    # Here, since each worker of the tests imports this file, and the SDK takes 2 s.
    from telnyx import Telnyx as TelnyxClient

    webhook = signing.telnyx(at=time.time())
    client = TelnyxClient(api_key="none", public_key=signing.TELNYX_PUBLIC)
    # The SDK parses JSON after it has verified: a signature that it refuses is another error.
    with pytest.raises(ValueError, match="Expecting value"):
        client.webhooks.unwrap(webhook.body.decode(), headers=dict(webhook.headers))
    forged = dict(webhook.headers) | {"telnyx-timestamp": f"{time.time() + 1:.0f}"}
    with pytest.raises(ValueError, match="signature does not match"):
        client.webhooks.unwrap(webhook.body.decode(), headers=forged)


@pytest.mark.parametrize("key", ["", "short", "é", "A" * 43])
def test_telnyx_public_key_is_refused_when_it_is_no_key(key):
    with pytest.raises(ValueError, match="publicKey"):
        Telnyx(key)


@pytest.mark.parametrize("algorithm", ["HMAC_SHA1", "HMAC_SHA256", "hmac_sha256"])
def test_twilio_webhook_passes_when_shared_key_signed_it(algorithm):
    CARRIERS["twilio"][0].verify(signing.twilio(algorithm=algorithm), NOW)


def test_twilio_webhook_is_refused_when_algorithm_is_unknown():
    webhook = signing.twilio()
    settings = {"x-twilio-webhooks-signature-settings": "key=1,algorithm=NONE"}
    with pytest.raises(Forged, match="HMAC_SHA256"):
        CARRIERS["twilio"][0].verify(replace(webhook, headers={**webhook.headers, **settings}), NOW)


@pytest.mark.parametrize(
    ("signed_url", "our_url"),
    [
        ("https://voice.example:443/t", "https://voice.example/t"),
        ("https://voice.example/t", "https://voice.example:443/t"),
        ("http://voice.example:80/t?a=b", "http://voice.example/t?a=b"),
    ],
)
def test_twilio_webhook_passes_when_it_was_signed_with_or_without_port(signed_url, our_url):
    CARRIERS["twilio"][0].verify(replace(signing.twilio(url=signed_url), url=our_url), NOW)


@given(form=forms, query=forms)
def test_twilio_agrees_with_its_sdk(form, query):
    url = f"{URL}?{signing.urlencode(query)}" if query else URL
    webhook = signing.twilio(form, url=url)
    CARRIERS["twilio"][0].verify(webhook, NOW)
    assert RequestValidator(SECRET).validate(url, form, webhook.headers["x-twilio-signature"])


@given(form=forms, query=forms, method=st.sampled_from(["GET", "POST"]))
def test_plivo_agrees_with_its_sdk(form, query, method):
    url = f"{URL}?{signing.urlencode(query)}" if query and method == "POST" else URL
    webhook = signing.plivo(form, url=url, method=method)
    CARRIERS["plivo"][0].verify(webhook, NOW)
    signature, nonce = webhook.headers["x-plivo-signature-v3"], webhook.headers["x-plivo-signature-v3-nonce"]
    fields = dict(form) if method == "POST" else {}
    assert validate_v3_signature(method, webhook.url, nonce, SECRET, signature, fields)


def test_plivo_webhook_passes_when_one_of_several_signatures_is_right():
    webhook = signing.plivo()
    several = {**webhook.headers, "x-plivo-signature-v3": f"AAAA,{webhook.headers['x-plivo-signature-v3']}"}
    CARRIERS["plivo"][0].verify(replace(webhook, headers=several), NOW)


@pytest.mark.parametrize("name", ["twilio", "plivo"])
@pytest.mark.parametrize("body", [b"a=b&" * 300, b"x" * (MAX_BODY_BYTES + 1), b"a=%ff"])
def test_webhook_is_refused_when_form_is_over_its_limits(name, body):
    carrier, signed = CARRIERS[name]
    with pytest.raises(Malformed, match=r"allowed|form"):
        carrier.verify(replace(signed(), body=body), NOW)
