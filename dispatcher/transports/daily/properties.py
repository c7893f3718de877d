"""The properties of a Daily room and of a client's token that a start request may have: values in, values
out.

An allow-list: a property that is not in it is refused by its name. Left out is what would open the room
(`privacy`, `enable_knocking`), let somebody stay longer than the session (`nbf`, every `eject…`), give the
client the owner's rights (`is_owner`, `permissions`), change which room it is (`room_name`), send media or
data elsewhere or cost extra on the account (transcription, streaming, buckets, hooks, SIP). Recording,
dial-out and `exp` an agent's `dailyAllowedProperties` can allow. Names and meanings are those of Daily's
REST API.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from dispatcher.transports.errors import Unacceptable

Geo = Literal[
    "af-south-1",
    "ap-northeast-2",
    "ap-south-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "eu-central-1",
    "eu-west-2",
    "sa-east-1",
    "us-east-1",
    "us-west-2",
]
Language = Literal[
    "da",
    "de",
    "en",
    "es",
    "fi",
    "fr",
    "it",
    "jp",
    "ka",
    "nl",
    "no",
    "pl",
    "pt",
    "pt-BR",
    "ru",
    "sv",
    "tr",
    "user",
]
"""Languages of Daily's own page; `user` is the browser's language. Japanese is `jp` there."""
Text = Annotated[str, Field(min_length=1, max_length=255)]
UserId = Annotated[str, Field(min_length=1, max_length=36)]
"""Daily keeps 36 characters of it."""

_SWITCHES = (
    "enable_adaptive_simulcast",
    "enable_advanced_chat",
    "enable_chat",
    "enable_emoji_reactions",
    "enable_hand_raising",
    "enable_live_captions_ui",
    "enable_multiparty_adaptive_simulcast",
    "enable_network_ui",
    "enable_noise_cancellation_ui",
    "enable_people_ui",
    "enable_pip_ui",
    "enable_prejoin_ui",
    "enable_screenshare",
    "enable_terse_logging",
    "enable_video_processing_ui",
    "enforce_unique_user_ids",
    "start_audio_off",
    "start_video_off",
)
_BOOL: TypeAdapter[Any] = TypeAdapter(bool)

_ROOM: dict[str, TypeAdapter[Any]] = {
    **dict.fromkeys(_SWITCHES, _BOOL),
    "geo": TypeAdapter(Geo),
    "lang": TypeAdapter(Language),
    # At least the bot and its client; Daily's own limit is 200.
    "max_participants": TypeAdapter(Annotated[int, Field(ge=2, le=200)]),
    "sfu_switchover": TypeAdapter(Annotated[float, Field(gt=0, le=200)]),
}

Recording = Literal["cloud", "cloud-audio-only", "local", "raw-tracks"]

_ALLOWED_BY_AGENT: dict[str, TypeAdapter[Any]] = {
    "enable_dialout": _BOOL,
    "enable_recording": TypeAdapter(Recording),
    "exp": TypeAdapter(Annotated[float, Field(gt=0, allow_inf_nan=False)]),
}
"""Properties of rooms that an agent's config may allow."""

_TOKEN: dict[str, TypeAdapter[Any]] = {
    "close_tab_on_exit": _BOOL,
    "enable_screenshare": _BOOL,
    "lang": TypeAdapter(Language),
    "start_audio_off": _BOOL,
    "start_video_off": _BOOL,
    "user_id": TypeAdapter(UserId),
    "user_name": TypeAdapter(Text),
}


def check(room: Mapping[str, Any], token: Mapping[str, Any], by_agent: Collection[str], now: float) -> None:
    """Check the properties of a start request.

    Args:
        by_agent: The properties of rooms that the agent's `dailyAllowedProperties` names.

    Raises:
        Unacceptable: one of them, or its value, is not allowed.
    """
    for name in room:
        if name in _ALLOWED_BY_AGENT and name not in by_agent:
            raise Unacceptable(
                f"dailyRoomProperties.{name} is refused: the agent's dailyAllowedProperties does not have it."
            )
    allowed = {name: _ALLOWED_BY_AGENT[name] for name in by_agent}
    _check("dailyRoomProperties", room, {**_ROOM, **allowed})
    if "exp" in room and room["exp"] <= now:
        raise Unacceptable(f"dailyRoomProperties.exp: {room['exp']} has passed; allowed: a later Unix time.")
    _check("dailyMeetingTokenProperties", token, _TOKEN)


def _check(field: str, given: Mapping[str, Any], allowed: Mapping[str, TypeAdapter[Any]]) -> None:
    for name, value in given.items():
        if name not in allowed:
            shown = name if len(name) <= 60 else f"{name[:60]}…"
            raise Unacceptable(f"{field}.{shown} is refused; allowed: {', '.join(sorted(allowed))}.")
        try:
            allowed[name].validate_python(value, strict=True)
        except ValidationError as error:
            shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:80]}…"
            reasons = error.errors()[0]["msg"]
            raise Unacceptable(f"{field}.{name}: {reasons}, not {shown}.") from None
