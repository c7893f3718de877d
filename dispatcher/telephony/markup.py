"""The XML answers of carriers: TwiML, TeXML and Plivo's XML share their form."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement, tostring

from dispatcher.telephony.webhook import Answer, Around, number

MAX_TEXT_CHARACTERS = 3000
"""Limit on a spoken text; Plivo's own for `<Speak>`, the lowest of the carriers'."""

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold."""


def response(*elements: Element) -> Answer:
    """Return the document with these elements."""
    root = Element("Response")
    root.extend(elements)
    return Answer("application/xml", tostring(root, encoding="utf-8", xml_declaration=True).decode())


def element(name: str, attributes: dict[str, str] | None = None, text: str = "") -> Element:
    """Return an element; characters that XML cannot hold are left out."""
    made = Element(name, {key: _NOT_XML.sub("", value) for key, value in (attributes or {}).items()})
    if text:
        made.text = _NOT_XML.sub("", text)
    return made


def within(parent: str, child: Element) -> Element:
    """Return an element of that name around the child."""
    made = Element(parent)
    made.append(child)
    return made


def add(parent: Element, name: str, attributes: dict[str, str]) -> None:
    SubElement(parent, name, {key: _NOT_XML.sub("", value) for key, value in attributes.items()})


def spoken(text: str) -> str:
    """Return the text if a carrier would speak it.

    Raises:
        ValueError: it is empty or too long.
    """
    if not text.strip() or len(text) > MAX_TEXT_CHARACTERS:
        raise ValueError(f"text: allowed are 1 to {MAX_TEXT_CHARACTERS} characters, not {len(text)}")
    return text


def around(stream: Element, of: Around, speak: str) -> Answer:
    """Return the document with the stream's element, and what is before and after it.

    Args:
        speak: The carrier's name for the element that speaks.
    """
    first: list[Element] = []
    if of.play:
        first.append(element("Play", text=of.play))
    elif of.say:
        first.append(element(speak, text=spoken(of.say)))
    then = [element("Redirect", {"method": "POST"}, of.then)] if of.then else []
    return response(*first, stream, *then)


class TwimlAnswers:
    """Answers that are the same in TwiML and TeXML."""

    @staticmethod
    def say(text: str) -> Answer:
        """Speak the text, then hang up."""
        return response(element("Say", text=spoken(text)), element("Hangup"))

    @staticmethod
    def forward(to: str) -> Answer:
        return response(element("Dial", text=number("forward", to)))

    @staticmethod
    def busy() -> Answer:
        return response(element("Reject", {"reason": "busy"}))

    @staticmethod
    def hang_up() -> Answer:
        return response(element("Hangup"))
