"""A call, read from its carrier's webhook."""

from __future__ import annotations

import pytest

from dispatcher.telephony.exotel import Exotel
from dispatcher.telephony.plivo import Plivo
from dispatcher.telephony.telnyx import Telnyx
from dispatcher.telephony.twilio import Twilio
from dispatcher.telephony.webhook import Call, Forged, Malformed
from tests.dispatcher.telephony import signing
from tests.dispatcher.telephony.signing import SECRET, URL

NUMBERS = ("+14155550123", "+14155550100")


@pytest.mark.parametrize(
    ("carrier", "webhook", "call"),
    [
        (
            Twilio(SECRET),
            signing.twilio(),
            Call("twilio", signing.TWILIO_FORM["CallSid"], signing.TWILIO_FORM["AccountSid"], *NUMBERS),
        ),
        (
            Twilio(SECRET),
            signing.twilio({**signing.TWILIO_FORM, "SipHeader_X-Shop": "7"}, url=f"{URL}?lang=de"),
            Call(
                "twilio",
                signing.TWILIO_FORM["CallSid"],
                signing.TWILIO_FORM["AccountSid"],
                *NUMBERS,
                {"lang": "de", "X-Shop": "7"},
            ),
        ),
        (
            Telnyx(signing.TELNYX_PUBLIC),
            signing.telnyx(url=f"{URL}?lang=de"),  # Telnyx does not sign the URL
            Call("telnyx", signing.TELNYX_FORM["CallSid"], signing.TELNYX_FORM["AccountSid"], *NUMBERS),
        ),
        (
            Plivo(SECRET),
            signing.plivo({**signing.PLIVO_FORM, "X-PH-Shop": "7"}, url=f"{URL}?lang=de"),
            Call(
                "plivo",
                signing.PLIVO_FORM["CallUUID"],
                "",
                "14155550123",
                "14155550100",
                {"lang": "de", "Shop": "7"},
            ),
        ),
        (
            Plivo(SECRET),
            signing.plivo(method="GET"),
            Call("plivo", signing.PLIVO_FORM["CallUUID"], "", "14155550123", "14155550100"),
        ),
        (
            Exotel("exotel", SECRET),
            signing.exotel({**signing.EXOTEL_QUERY, "lang": "de"}),
            Call("exotel", signing.EXOTEL_QUERY["CallSid"], "", "09876543210", "08047112233", {"lang": "de"}),
        ),
    ],
)
def test_call_is_read_from_webhook(carrier, webhook, call):
    assert carrier.call(webhook) == call


@pytest.mark.parametrize(
    ("carrier", "webhook", "field"),
    [
        (Twilio(SECRET), lambda form: signing.twilio({**signing.TWILIO_FORM, **form}), "CallSid"),
        (
            Telnyx(signing.TELNYX_PUBLIC),
            lambda form: signing.telnyx({**signing.TELNYX_FORM, **form}),
            "CallSid",
        ),
        (Plivo(SECRET), lambda form: signing.plivo({**signing.PLIVO_FORM, **form}), "CallUUID"),
        (
            Exotel("exotel", SECRET),
            lambda form: signing.exotel({**signing.EXOTEL_QUERY, **form}),
            "CallSid",
        ),
    ],
)
@pytest.mark.parametrize("value", ["", "a b", "ü", "a\nb", "a" * 201])
def test_call_is_refused_by_name_when_id_is_not_allowed(carrier, webhook, field, value):
    with pytest.raises(Malformed, match=rf"^{field}: .*allowed"):
        carrier.call(webhook({field: value}))


@pytest.mark.parametrize(
    ("form", "named"),
    [
        ({"From": "+" * 257}, "From"),
        ({"To": "a\x00b"}, "To"),
        ({"AccountSid": "a b"}, "AccountSid"),
        ({"SipHeader_X-Long": "a" * 500}, "custom parameter"),
        ({f"SipHeader_{number}": "x" for number in range(21)}, "custom parameters: 21"),
    ],
)
def test_call_is_refused_by_name_when_field_is_not_allowed(form, named):
    with pytest.raises(Malformed, match=rf"^{named}.*allowed"):
        Twilio(SECRET).call(signing.twilio({**signing.TWILIO_FORM, **form}))


@pytest.mark.parametrize("caller", ["anonymous", "", "sip:alice@pbx.example", "client:alice"])
def test_caller_without_number_is_kept_as_carrier_gives_it(caller):
    call = Twilio(SECRET).call(signing.twilio({**signing.TWILIO_FORM, "From": caller}))
    assert call.caller == caller


@pytest.mark.parametrize(
    ("carrier", "webhook"),
    [
        (Twilio(SECRET, "AC-other"), signing.twilio()),
        (Telnyx(signing.TELNYX_PUBLIC, "other"), signing.telnyx()),
        (Exotel("exotel", SECRET, "other"), signing.exotel({**signing.EXOTEL_QUERY, "AccountSid": "acc"})),
    ],
)
def test_call_of_another_account_is_refused(carrier, webhook):
    with pytest.raises(Forged, match="AccountSid"):
        carrier.call(webhook)
