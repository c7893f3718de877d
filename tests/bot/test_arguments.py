"""The entrypoint reads what the contract writes, and says what is wrong in one line."""

import asyncio
import sys

import pytest

from bot.arguments import UsageError, parse, read_variables, take_variables
from bot.protocol import (
    BOT_FILE_VARIABLE,
    MACHINE_TOKEN_VARIABLE,
    PROTOCOL_VERSION,
    VARIABLES_FILE_VARIABLE,
    IceServer,
    entrypoint_arguments,
    without_secrets,
)
from tests.bot.dispatcher import CHECKOUT, assignment

URL = "http://127.0.0.1:7860"
SESSION = ["--session-id", "s", "--agent", "a", "--transport", "webrtc", "--max-duration", "60"]


@pytest.mark.parametrize(
    "assigned",
    [
        None,
        assignment(),
        assignment(body={"--body": ["-x", None, "“ü"]}),
        assignment(body=-5),
        assignment(body=[]),
        assignment(body=False),
        assignment("daily", room_url="https://x.daily.co/r", token="eyJ-token", max_duration_seconds=0.5),
        assignment(ice_servers=(IceServer(urls=("turn:a", "turn:b"), username="u", credential="-c"),)),
    ],
)
def test_everything_that_a_dispatcher_writes_is_read_back(assigned):
    parsed = parse(entrypoint_arguments("m-1", URL, assigned))

    assert parsed.machine_id == "m-1"
    assert parsed.dispatcher == URL
    assert parsed.assignment == assigned


@pytest.mark.parametrize(
    ("assigned", "is_private"),
    [
        (None, False),
        (assignment(), False),
        (assignment(body={"a": 1}), True),
        (assignment("daily", room_url="https://x.daily.co/r", token="eyJ-token"), True),
        (assignment(ice_servers=(IceServer(urls=("turn:a",), username="u", credential="c"),)), True),
    ],
)
def test_a_session_with_something_private_is_left_to_the_channel(assigned, is_private):
    shown = without_secrets(entrypoint_arguments("m-1", URL, assigned))

    assert list(shown) == entrypoint_arguments("m-1", URL, None if is_private else assigned)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--dispatcher", URL], ["--machine-id"]),
        (["--machine-id", "m"], ["--dispatcher"]),
        (["--machine-id", "m", "--dispatcher", "ftp://x"], ["--dispatcher", "'ftp://x'", "http://"]),
        (["--machine-id", "m", "--dispatcher", "http://x:port"], ["--dispatcher", "'http://x:port'"]),
        (["--machine-id", " ", "--dispatcher", URL], ["--machine-id", "' '", "not empty"]),
        ([*SESSION[:-1], "soon"], ["--max-duration", "'soon'", "number of seconds"]),
        ([*SESSION[:-1], "nan"], ["--max-duration", "'nan'"]),
        ([*SESSION[:-1], "0"], ["--max-duration", "'0'", "over 0"]),
        ([*SESSION, "--body", "{"], ["--body", "'{'", "JSON"]),
        ([*SESSION, "--ice-servers", '[{"urls":5}]'], ["--ice-servers", "urls", '[{"urls":5}]']),
        (["--session-id", "s"], ["--agent", "missing"]),
        (["--body", "{}"], ["--session-id", "missing", "--body"]),
        ([*SESSION, "--colour", "red"], ["--colour"]),
        ([*SESSION, "--sess", "x"], ["--sess"]),
        ([*SESSION, "--protocol", str(PROTOCOL_VERSION), "--colour", "red"], ["--colour"]),
        ([*SESSION, "--protocol", str(PROTOCOL_VERSION + 2)], ["--protocol", f"to {PROTOCOL_VERSION + 1}"]),
        ([*SESSION, "--protocol", "new"], ["--protocol", "'new'"]),
    ],
)
def test_a_bad_argument_is_refused_by_name_value_and_what_is_allowed(arguments, named):
    identity = (
        [] if arguments[0] in ("--machine-id", "--dispatcher") else ["--machine-id", "m", "--dispatcher", URL]
    )

    with pytest.raises(UsageError) as refused:
        parse([*identity, *arguments])

    assert "\n" not in str(refused.value)
    for text in named:
        assert text in str(refused.value)


@pytest.mark.parametrize("assigned", [None, assignment(body={"a": 1})])
def test_what_only_a_newer_dispatcher_knows_is_passed_over(assigned):
    arguments = entrypoint_arguments("m-1", URL, assigned)
    arguments[arguments.index("--protocol") + 1] = str(PROTOCOL_VERSION + 1)

    parsed = parse([*arguments, "--colour", "red", "--loud"])

    assert parsed.machine_id == "m-1"
    assert parsed.assignment == assigned


@pytest.mark.parametrize(
    ("room_url", "is_told"),
    [("https://x.daily.co/r", True), (None, False)],
)
def test_dispatcher_says_when_the_room_is_there(room_url, is_told):
    arguments = entrypoint_arguments("m-1", URL, assignment("daily", room_url=room_url))

    assert parse(arguments).is_told_of_room is is_told


def test_the_token_leaves_the_environment():
    environment = {MACHINE_TOKEN_VARIABLE: "secret", BOT_FILE_VARIABLE: "/app/bot.py"}

    variables = read_variables(environment)

    assert variables.token == "secret"
    assert str(variables.bot_file) == "/app/bot.py"
    assert "secret" not in environment.values()


@pytest.mark.parametrize("missing", [MACHINE_TOKEN_VARIABLE, BOT_FILE_VARIABLE])
def test_a_missing_variable_is_named(missing):
    environment = {MACHINE_TOKEN_VARIABLE: "secret", BOT_FILE_VARIABLE: "/app/bot.py"}
    environment[missing] = ""

    with pytest.raises(UsageError, match=missing):
        read_variables(environment)


def test_variables_of_a_file_are_added_and_the_file_goes(tmp_path):
    file = tmp_path / "variables.json"
    file.write_text('{"OPENAI_API_KEY": "sk", "A": "new"}')
    environment = {VARIABLES_FILE_VARIABLE: str(file), "A": "old"}
    take_variables(environment)
    assert environment == {"OPENAI_API_KEY": "sk", "A": "new"}
    assert not file.exists()
    take_variables(environment)
    assert len(environment) == 2, "a process without a file has none"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("", "must be a JSON object"),
        ('{"A": 1}', "must be a JSON object"),
        ("[]", "JSON"),
    ],
)
def test_a_file_of_variables_that_cannot_be_read_is_named(tmp_path, content, words):
    file = tmp_path / "variables.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=f"SWITCHBOARD_VARIABLES_FILE.*{words}"):
        take_variables({VARIABLES_FILE_VARIABLE: str(file)})


async def test_the_process_says_it_in_one_line_and_exits_with_2():
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "bot", "--machine-id", "m", "--dispatcher", "nowhere"),
        env={"PYTHONPATH": str(CHECKOUT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 2
    assert output == b""
    assert errors.decode().splitlines() == [
        "python -m bot: argument --dispatcher: 'nowhere' is not allowed: "
        "it must be an http:// or https:// URL"
    ]
