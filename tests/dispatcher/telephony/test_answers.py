"""Answers to carriers, compared with what their own SDKs render."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from plivo import plivoxml
from twilio.twiml.voice_response import Connect, Stream, VoiceResponse

from dispatcher.telephony.exotel import Exotel
from dispatcher.telephony.plivo import AUDIO, Plivo
from dispatcher.telephony.telnyx import Telnyx
from dispatcher.telephony.twilio import Twilio
from dispatcher.telephony.webhook import Call

STREAM = "wss://voice.example/sessions/s-1/ws/a&b"
CALL = Call("any", "c-1", "", "+14155550123", "+14155550100", {"shop": 'Müller & "Söhne" <7>'})


def same(ours: str, theirs: object) -> bool:
    return ElementTree.canonicalize(ours, strip_text=True) == ElementTree.canonicalize(
        str(theirs), strip_text=True
    )


def test_twilio_stream_is_as_its_sdk_renders_it():
    stream = Stream(url=STREAM)
    stream.parameter(name="from_number", value="+14155550123")
    stream.parameter(name="to_number", value="+14155550100")
    stream.parameter(name="shop", value='Müller & "Söhne" <7>')
    connect = Connect()
    connect.append(stream)
    response = VoiceResponse()
    response.append(connect)
    assert same(Twilio.stream(STREAM, CALL).body, response)


def test_telnyx_stream_is_as_pipecats_runner_renders_it():
    expected = f'<Stream url="{STREAM.replace("&", "&amp;")}" bidirectionalMode="rtp"></Stream>'
    assert same(Telnyx.stream(STREAM, CALL).body, f"<Response><Connect>{expected}</Connect></Response>")


def test_plivo_stream_is_as_its_sdk_renders_it():
    response = plivoxml.ResponseElement()
    response.add(plivoxml.StreamElement(STREAM, bidirectional=True, keepCallAlive=True, contentType=AUDIO))
    assert same(Plivo.stream(STREAM, CALL).body, response.to_string())


def test_exotel_stream_is_json_with_its_address():
    answer = Exotel.stream(STREAM, CALL)
    assert (answer.media_type, json.loads(answer.body)) == ("application/json", {"url": STREAM})


def test_message_is_spoken_before_hang_up_when_carrier_is_asked_to_say_it():
    text = "All <lines> are busy & so on"
    twilio = VoiceResponse()
    twilio.say(text)
    twilio.hangup()
    assert same(Twilio.say(text).body, twilio)
    assert Telnyx.say(text) == Twilio.say(text)
    plivo = plivoxml.ResponseElement()
    plivo.add(plivoxml.SpeakElement(text)).add(plivoxml.HangupElement())
    assert same(Plivo.say(text).body, plivo.to_string())


def test_call_is_forwarded_as_sdk_renders_it():
    twilio = VoiceResponse()
    twilio.dial("+14155550199")
    assert same(Twilio.forward("+14155550199").body, twilio)
    assert Telnyx.forward("+14155550199") == Twilio.forward("+14155550199")
    plivo = plivoxml.ResponseElement()
    plivo.add(plivoxml.DialElement().add(plivoxml.NumberElement("+14155550199")))
    assert same(Plivo.forward("+14155550199").body, plivo.to_string())


@pytest.mark.parametrize("carrier", [Twilio, Telnyx, Plivo])
def test_call_is_hung_up(carrier):
    assert same(carrier.hang_up().body, "<Response><Hangup/></Response>")
    assert carrier.hang_up().media_type == "application/xml"


@pytest.mark.parametrize("carrier", [Twilio, Telnyx, Plivo])
@pytest.mark.parametrize("to", ["", "14155550199", "+0123", "+1" * 20, "sip:x@y", "+1415<Dial/>", "+١٢٣٤"])
def test_forward_is_refused_by_name_when_number_is_not_e164(carrier, to):
    with pytest.raises(ValueError, match=r"^forward: allowed is a number"):
        carrier.forward(to)


@pytest.mark.parametrize("carrier", [Twilio, Telnyx, Plivo])
@pytest.mark.parametrize("text", ["", "  ", "a" * 3001])
def test_message_is_refused_when_no_carrier_would_speak_it(carrier, text):
    with pytest.raises(ValueError, match=r"^text: allowed"):
        carrier.say(text)


@pytest.mark.parametrize("carrier", [Twilio, Telnyx, Plivo])
def test_message_is_well_formed_when_text_has_characters_that_xml_lacks(carrier):
    body = carrier.say("one\x00\x1b\ud800\ufffetwo").body
    assert "onetwo" in "".join(ElementTree.fromstring(body).itertext())
