"""The part of the engine's events that a user reads."""

from __future__ import annotations

from typing import Any

import pytest
from pulumi.automation.events import EngineEvent

from stacks.engine.report import Report, clean, flat

URN = "urn:pulumi:local::switchboard::pulumi-python:dynamic/switchboard:Dispatcher::dispatcher"


def event(**content: Any) -> EngineEvent:
    return EngineEvent.from_json({"sequence": 1, "timestamp": 1, **content})


def step(
    op: str, kind: str = "pulumi-python:dynamic/switchboard:Dispatcher", **states: Any
) -> dict[str, Any]:
    return {"metadata": {"op": op, "urn": URN, "type": kind, "provider": "", **states}}


def inputs(**values: Any) -> dict[str, Any]:
    return {"type": "t", "urn": URN, "id": "i", "parent": "", "provider": "", "inputs": values, "outputs": {}}


def previewed(lines: list[str], *steps: dict[str, Any], **options: Any) -> Report:
    """Note what a preview of these steps says."""
    report = Report(preview=True, out=lines.append, **options)
    for one in steps:
        report(event(resourcePreEvent=one))
    report.tell_planned()
    return report


def named(name: str, made: dict[str, Any]) -> dict[str, Any]:
    """Return a step of another resource."""
    made["metadata"]["urn"] = f"{URN}-{name}"
    return made


def test_unchanged_resources_and_the_engines_own_are_not_shown() -> None:
    lines: list[str] = []
    report = Report(out=lines.append)
    report(event(resOutputsEvent=step("same")))
    report(event(resOutputsEvent=step("create", "pulumi:pulumi:Stack")))
    report(event(resOutputsEvent=step("create", "pulumi:providers:pulumi-python")))
    assert (lines, report.changes) == ([], 0)
    report(event(resOutputsEvent=step("create")))
    assert (lines, report.changes) == (["  + dispatcher created (0.0 s)"], 1)


def test_a_preview_shows_what_differs() -> None:
    lines: list[str] = []
    before, after = inputs(port=1, code="a", __provider="x"), inputs(port=2, code="a", __provider="y")
    previewed(lines, step("update", old=before, new=after))
    assert lines == ["  ~ dispatcher: update", "      port: 1 → 2"]


def test_a_preview_shows_what_somebody_has_changed() -> None:
    lines: list[str] = []
    wanted = inputs(size=1, app="voice")
    found = {**wanted, "outputs": {"size": 3, "app": "voice", "made": "of the provider"}}
    previewed(lines, step("update", old=found, new=wanted))
    assert lines == ["  ~ dispatcher: update", "      size: 3 → 1, as it was"]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"port": 1}, "the process is not running, or does not answer"),
        (
            {"secrets": {"4dabf18193072939515e22adb298388d": "1b47", "ciphertext": "[secret]"}},
            "a secret has another value, or the process is not running, or does not answer",
        ),
    ],
)
def test_a_preview_does_not_pretend_to_know_what_it_cannot_see(values: dict[str, Any], line: str) -> None:
    lines: list[str] = []
    same = {**inputs(**values), "outputs": values}
    previewed(lines, step("update", old=same, new=same))
    assert lines == ["  ~ dispatcher: update", f"      {line}"]


def test_an_input_that_is_no_output_is_no_change_of_somebodys() -> None:
    lines: list[str] = []
    wanted = inputs(values={"A": "1"}, outside={"OTEL_*": ""})
    found = {**wanted, "outputs": {"values": {"A": "2"}}}
    previewed(lines, step("update", old=found, new=wanted))
    assert lines == ["  ~ dispatcher: update", "      values.A: 2 → 1, as it was"]


def test_a_list_that_is_hidden_by_a_secret_is_named() -> None:
    lines: list[str] = []
    hidden = {"4dabf18193072939515e22adb298388d": "1b47", "ciphertext": "[secret]"}
    before, after = inputs(envs=hidden, image="x:1"), inputs(envs=hidden, image="x:2")
    replaced = step("replace", old=before, new=after, keys=["envs"], diffs=["envs", "image"])
    previewed(lines, replaced)
    assert lines == [
        "  ± dispatcher: replace, because of envs",
        "      image: x:1 → x:2",
        "      envs: [secret] → [secret], with another value",
    ]


def test_a_preview_ends_with_a_total_that_counts_a_replacement_once() -> None:
    lines: list[str] = []
    steps = [
        ("create", "a"),
        ("create", "b"),
        ("update", "c"),
        *((op, "d") for op in ("delete-replaced", "replace", "create-replacement")),
        ("delete", "e"),
        *(("same", name) for name in "fgh"),
    ]
    report = previewed(lines, *(named(name, step(op)) for op, name in steps))
    report(event(summaryEvent={"maybeCorrupt": False, "durationSeconds": 1, "resourceChanges": {}}))
    assert report.changes == 5
    assert [line.partition(": ")[0] for line in lines[:-1]] == [
        *("  - dispatcher-e", "  ± dispatcher-d", "  + dispatcher-a", "  + dispatcher-b", "  ~ dispatcher-c")
    ]
    assert lines[-1] == "  2 to create, 1 to update, 1 to replace, 1 to delete, 3 unchanged"


def test_a_preview_tells_first_what_destroys_data_and_then_what_else_goes() -> None:
    lines: list[str] = []
    steps = [
        named("new", step("create")),
        named("gone", step("delete")),
        named("store", step("replace", keys=["driver"])),
        named("kept", step("update")),
    ]
    data = {f"{URN}-{name}": "the Docker volume prod-store" for name in ("store", "kept")}
    previewed(lines, *steps, data=data)
    assert [line for line in lines if not line.startswith("   ")] == [
        "  ± dispatcher-store: replace, because of driver, HOLDS DATA: the Docker volume prod-store",
        "  - dispatcher-gone: delete",
        "  + dispatcher-new: create",
        "  ~ dispatcher-kept: update",
    ]


def test_settings_that_are_json_are_compared_key_by_key() -> None:
    assert flat({"e": {"AGENTS": '{"echo": {"cpu": 1}}', "X": "{not json"}}) == {
        "e.AGENTS.echo.cpu": "1",
        "e.X": "{not json",
    }


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("<{%fg 1%}>stacks.errors.ProcessError: it ended<{%reset%}>\n", "it ended"),
        ("Exception calling application: stacks.errors.ProcessError: it\nended", "it\nended"),
        (
            "pulumi-python:dynamic/x:Dispatcher resource 'dispatcher' has a problem: switchboard:port: taken",
            "switchboard:port: taken",
        ),
        ("an unhandled error occurred: switchboard:port: 0 is refused", "switchboard:port: 0 is refused"),
        ("something else", "something else"),
    ],
)
def test_an_error_is_shown_without_its_wrappings(message: str, text: str) -> None:
    assert clean(message) == text


def test_an_error_is_kept_once_and_warnings_are_shown_unless_expected() -> None:
    lines: list[str] = []
    report = Report(out=lines.append)
    for message in ("oh", "oh", "an unhandled error occurred: oh", "update failed"):
        report(event(diagnosticEvent={"message": message, "color": "never", "severity": "error"}))
    expected = "using pulumi-resource-pulumi-python from $PATH at /x"
    for message in ("careful", expected):
        report(event(diagnosticEvent={"message": message, "color": "never", "severity": "warning"}))
    assert report.errors == ["oh"]
    assert lines == ["  warning: careful"]
