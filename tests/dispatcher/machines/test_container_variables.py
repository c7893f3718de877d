"""The variables of a container: which are shown, and what hides the rest."""

from __future__ import annotations

import json

import pytest

from bot.protocol import MACHINE_TOKEN_VARIABLE, VARIABLES_FILE_VARIABLE
from dispatcher.machines.container.request import archive, content_of, split

SHOWN = (
    *("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHON_GIL", "MALLOC_ARENA_MAX"),
    *("GLIBC_TUNABLES", "LC_ALL", "LANG", "TZ", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_REQUIRE_CUDA"),
)
HIDDEN = (
    *("OPENAI_API_KEY", "LD_SDK_KEY", "LDAP_PASSWORD", "NVIDIA_API_KEY", "PYTHONANYWHERE_API_KEY", "A"),
    *(
        "PYTHON_TOKEN",
        "MALLOC_SECRET",
        "LCD_KEY",
        "TZ_KEY",
        "HOME_TOKEN",
        "PATH_SECRET",
        "LANGFUSE_SECRET_KEY",
    ),
)


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_read_before_the_bot_is_shown(name: str) -> None:
    shown, hidden = split({name: "1"}, {})
    assert (shown[name], hidden) == ("1", {})


@pytest.mark.parametrize("name", HIDDEN)
def test_all_else_of_an_agent_is_hidden(name: str) -> None:
    shown, hidden = split({name: "secret"}, {})
    assert hidden == {name: "secret"}
    assert set(shown) == {VARIABLES_FILE_VARIABLE}


def test_of_ours_the_token_alone_is_hidden() -> None:
    shown, hidden = split({"A": "1"}, {MACHINE_TOKEN_VARIABLE: "secret", "SWITCHBOARD_LOG_LEVEL": "info"})
    assert hidden == {"A": "1", MACHINE_TOKEN_VARIABLE: "secret"}
    assert shown["SWITCHBOARD_LOG_LEVEL"] == "info"


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_an_archive_gives_what_was_put_in_and_ends_with_its_end(size: int) -> None:
    variables = {"A": "x" * size, "B": "ü\n"}
    packed = archive(variables)
    assert json.loads(content_of(packed)) == variables
    assert packed.endswith(bytes(1024))
    assert len(packed) % 512 == 0
    assert len(packed) <= size + 6 * 512
