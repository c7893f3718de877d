"""A carrier's webhook about a call, and what it says.

WebhookError
├── Forged       not the carrier's, or too old
└── Malformed    the carrier's by its signature, but without what a call needs
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable
from urllib.parse import parse_qsl, urlsplit

MAX_BODY_BYTES = 64 * 1024
"""Limit on a webhook's body; the largest of the carriers' published examples has some 2 KB."""

MAX_FIELDS = 200
"""Limit on a form's fields; Twilio's have some 30."""

MAX_PARAMETERS = 20
MAX_PARAMETER_CHARACTERS = 500
"""Limit on a custom parameter's name and value together: Twilio's own for `<Parameter>`."""

MAX_ID_CHARACTERS = 200
"""Limit on a call's id; Telnyx's have some 70 characters."""

MAX_PARTY_CHARACTERS = 256
"""Limit on a caller or a called party: a number, or a SIP address."""

MAX_STATUS_CHARACTERS = 40

_ID = re.compile(r"[!-~]+")
_NUMBER = re.compile(r"\+[1-9][0-9]{1,14}")


class WebhookError(Exception):
    """The webhook is refused; the text says why, without its content."""


class Forged(WebhookError):
    """The webhook is not the carrier's, or too old."""


class Malformed(WebhookError):
    """The webhook lacks what a call needs; the text names the field and what is allowed."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """One request of a carrier."""

    method: str
    url: str
    """The URL that the carrier was given, with its query: some carriers sign it."""
    headers: Mapping[str, str]
    """By names in lower case."""
    body: bytes = b""

    def form(self) -> list[tuple[str, str]]:
        """Return the body's form fields.

        Raises:
            Malformed: it is too large, or no form.
        """
        if len(self.body) > MAX_BODY_BYTES:
            raise Malformed(f"body: {len(self.body)} bytes; allowed: up to {MAX_BODY_BYTES}")
        try:
            return parse_qsl(
                self.body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"
            )
        except ValueError as error:  # a UnicodeDecodeError is one
            raise Malformed(f"body: not a form of up to {MAX_FIELDS} fields in UTF-8") from error

    def query(self) -> list[tuple[str, str]]:
        """Return the fields of the URL's query.

        Raises:
            Malformed: they are too many.
        """
        try:
            return parse_qsl(
                urlsplit(self.url).query,
                keep_blank_values=True,
                max_num_fields=MAX_FIELDS,
                errors="strict",
            )
        except ValueError as error:
            raise Malformed(f"query: not up to {MAX_FIELDS} fields in UTF-8") from error


@dataclass(frozen=True, slots=True)
class Call:
    """A call, as its carrier describes it."""

    carrier: str
    id: str
    account: str
    """The carrier's account; empty if the carrier does not say."""
    caller: str
    """A number, a SIP address, or the carrier's word for a withheld number; may be empty."""
    called: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    """The deployment's own: from the webhook's URL, if the carrier vouches for it, and SIP headers."""
    status: str = field(default="", compare=False)
    """The call's state in the carrier's words, if it says."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a webhook."""

    media_type: str
    body: str


@dataclass(frozen=True, slots=True)
class Around:
    """Instructions to a carrier for the time before and after the stream."""

    say: str = ""
    """A text that it speaks first."""
    play: str = ""
    """URL of a sound that it plays first, instead of the text."""
    then: str = ""
    """URL from which it gets its next instructions when the stream is over."""


ALONE = Around()


class Carrier(Protocol):
    """One carrier."""

    name: str

    def verify(self, webhook: Webhook, now: float) -> None:
        """Verify that the webhook is the carrier's, and of just now if it carries a time.

        Raises:
            Forged: it is not.
            Malformed: it cannot be read.
        """
        ...

    def call(self, webhook: Webhook) -> Call:
        """Read a webhook that is verified.

        Raises:
            Malformed: it is about no call.
        """
        ...

    def stream(self, url: str, call: Call, around: Around = ALONE) -> Answer:
        """Connect the call's media to the WebSocket with this URL. A carrier whose answer cannot say what is
        around it leaves that out."""
        ...


@runtime_checkable
class Directed(Protocol):
    """Ability of a carrier: its answers are instructions, and need not connect a stream."""

    def say(self, text: str) -> Answer:
        """Speak the text, then hang up."""
        ...

    def forward(self, to: str) -> Answer:
        """Connect the caller to this number."""
        ...

    def busy(self) -> Answer:
        """Refuse the call with the busy tone."""
        ...

    def hang_up(self) -> Answer: ...


def call_of(
    carrier: str,
    fields: Iterable[tuple[str, str]],
    *,
    call_id: str,
    account: str,
    caller: tuple[str, ...] = ("From",),
    called: tuple[str, ...] = ("To",),
    parameters: Iterable[tuple[str, str]] = (),
) -> Call:
    """Return the call, from the fields with these names; of several names the first that is there counts.

    Raises:
        Malformed: a field is missing or not allowed.
    """
    given = dict(fields)
    return Call(
        carrier,
        _id(call_id, given.get(call_id, "")),
        _id(account, given[account]) if given.get(account) else "",
        _party(given, caller),
        _party(given, called),
        _parameters(parameters),
        (given.get("CallStatus") or given.get("Status", ""))[:MAX_STATUS_CHARACTERS],
    )


def sip_headers(fields: Iterable[tuple[str, str]], prefix: str) -> list[tuple[str, str]]:
    """Return the SIP headers among the fields, whose names begin so, by their names without it."""
    return [(name.removeprefix(prefix), value) for name, value in fields if name.startswith(prefix)]


def is_same(given: str, expected: str) -> bool:
    """Compare in constant time; `given` may be any text."""
    return hmac.compare_digest(given.encode(), expected.encode())


def number(field: str, value: str) -> str:
    """Return the value if it is a number in E.164's form.

    Raises:
        ValueError: it is not.
    """
    if not _NUMBER.fullmatch(value):
        raise ValueError(f"{field}: allowed is a number such as +14155550100, not {value[:40]!r}")
    return value


def _id(name: str, value: str) -> str:
    if len(value) > MAX_ID_CHARACTERS or not _ID.fullmatch(value):
        allowed = f"1 to {MAX_ID_CHARACTERS} visible ASCII characters"
        raise Malformed(f"{name}: allowed are {allowed}, not {value[:40]!r} ({len(value)} characters)")
    return value


def _party(given: Mapping[str, str], names: tuple[str, ...]) -> str:
    for name in names:
        if name in given:
            value = given[name].strip()
            if len(value) > MAX_PARTY_CHARACTERS or not value.isprintable():
                allowed = f"up to {MAX_PARTY_CHARACTERS} printable characters"
                raise Malformed(f"{name}: allowed are {allowed}, not {value[:40]!r}")
            return value
    return ""


def _parameters(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found = dict(pairs)
    if len(found) > MAX_PARAMETERS:
        raise Malformed(f"custom parameters: {len(found)}; allowed: up to {MAX_PARAMETERS}")
    for name, value in found.items():
        if len(name) + len(value) > MAX_PARAMETER_CHARACTERS:
            allowed = f"up to {MAX_PARAMETER_CHARACTERS} characters, with the name"
            raise Malformed(f"custom parameter {name[:40]!r}: allowed are {allowed}")
    return found
