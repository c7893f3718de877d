"""The simulator: its counts, its command line and its refusals."""

from __future__ import annotations

import json
from array import array
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dispatcher.reserve.policy import policy_for
from dispatcher.reserve.replay import replay
from dispatcher.reserve.settings import ReserveSettings
from dispatcher.reserve.simulate import main
from dispatcher.reserve.traces import read

FIGURES = (
    *("hit_rate", "wait_p50", "wait_p95", "wait_p99"),
    *("idle_seconds_per_session", "cost_per_month"),
)


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def played(times: list[float], machines: int, leads: tuple[float, ...] = (30,), end: float = 1000):
    policy = policy_for(ReserveSettings(fixed=machines))
    return replay(array("d", times), policy, leads, begin=0, end=end, tick=10)


def test_sessions_hit_while_machines_wait():
    found = played([100, 101, 102, 131], machines=2)
    # The third finds both starting; the one that replaced the first is ready at 130.
    assert (found.sessions, found.hits) == (4, 3)
    assert list(found.waits) == [30]
    # Ready at 30: waited 70 and 71; ready at 130: 1; left: the one of 131, from 131 and from 161.
    assert found.idle_seconds == 70 + 71 + 1 + (1000 - 131) + (1000 - 161)


def test_reserve_of_none_misses_all():
    found = played([1, 2, 3], machines=0, leads=(10, 20))
    assert (found.hit_rate, found.idle_seconds) == (0, 0)
    assert found.wait(0.5) in (10, 20)
    assert found.wait(0.99) == 20


def test_trace_without_calls_has_idle_time_alone():
    found = played([], machines=1)
    assert (found.sessions, found.idle_seconds, found.wait(0.99)) == (0, 970, 0)


def test_warmup_does_not_count():
    policy = policy_for(ReserveSettings(fixed=1))
    found = replay(array("d", [100, 500]), policy, (30,), begin=0, end=1000, measured_from=200)
    assert (found.sessions, found.hits) == (1, 1)
    assert found.idle_seconds == 300 + (1000 - 530)


def test_counts_are_spread_over_their_interval_and_repeatable(tmp_path):
    name = written(
        tmp_path / "a.csv", "start,calls\n2025-03-03T07:00,100\n2025-03-03T07:05,0\n2025-03-03T07:10,3\n"
    )
    first, second = read(name, "UTC"), read(name, "UTC")
    assert first.times == second.times
    begin = datetime(2025, 3, 3, 7, tzinfo=UTC).timestamp()
    assert (first.begin, first.end) == (begin, begin + 900)
    assert sum(at < begin + 300 for at in first.times) == 100
    assert list(first.times) == sorted(first.times)


def test_instants_may_have_offsets_and_any_order(tmp_path):
    name = written(tmp_path / "a.txt", "2025-03-03T09:00:05+01:00\n2025-03-03T08:00:01Z\n")
    begin = datetime(2025, 3, 3, 8, tzinfo=UTC).timestamp()
    assert list(read(name, "UTC").times) == [begin + 1, begin + 5]


def test_hour_that_the_clock_repeats_is_told_apart(tmp_path):
    """New York went back at 06:00 UTC on 2 November 2025."""
    hours = ["00:00", "01:00", "01:00", "02:00"]
    rows = "".join(f"2025-11-02T{hour},1\n" for hour in hours)
    trace = read(written(tmp_path / "a.csv", f"start,calls\n{rows}"), "America/New_York")
    assert trace.end - trace.begin == 4 * 3600
    assert len({int((at - trace.begin) // 3600) for at in trace.times}) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty; allowed: start,calls and rows"),
        ("start,calls\n", "no row follows the header"),
        ("when,calls\n1,2\n", "row 1: header 'when,calls' is refused; allowed: start,calls"),
        ("start,calls\n2025-03-03T07:00,-1\n", "row 2: calls '-1' is refused; allowed: a whole number, 0 to"),
        ("start,calls\n2025-03-03T07:00,1.5\n", "row 2: calls '1.5' is refused"),
        ("start,calls\n2025-03-03T07:00\n", "row 2: '2025-03-03T07:00' has 1 fields; allowed: start,calls"),
        ("start,calls\nyesterday,5\n", "row 2: start 'yesterday' is refused; allowed: an ISO time"),
        ("2025-03-03T07:00\nnoon\n", "row 2: time 'noon' is refused; allowed: an ISO time"),
        (
            "start,calls\n1970-01-01T00:00,1\n2025-01-01T00:00,1\n",
            "it spans 20090 days; allowed: at most 1500",
        ),
    ],
)
def test_bad_trace_is_refused_in_one_line(tmp_path, capsys, text, words):
    assert main(["--trace", written(tmp_path / "a.csv", text)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "xml"], "FORMAT: 'xml' is refused; allowed: table, json"),
        (["--lead", "-3"], "LEAD: '-3' is refused; allowed: a number, 0.1 to 3600"),
        (["--lead", "nan"], "LEAD: 'nan' is refused"),
        (["--target", "2"], "TARGET: '2' is refused; allowed: a number, 0.5 to 0.9999"),
        (["--zone", "Mars"], "ZONE: 'Mars' is refused"),
        (["--plot", "day.gif"], "PLOT: 'day.gif' is refused; allowed: a file in an existing directory"),
        (["--plot", "/nowhere/day.html"], "PLOT: '/nowhere/day.html' is refused"),
        (["--agent", "nobody"], "AGENT: 'nobody' is not an agent; allowed: voice"),
        (["--agent", "voice"], "agents.voice.reserve.fixed: -1 is refused"),
        (["--warmup-days", "5"], "WARMUP_DAYS: 5 is refused"),
    ],
)
def test_bad_option_is_refused_in_one_line(tmp_path, capsys, options, words):
    trace = written(tmp_path / "a.csv", "start,calls\n2025-03-03T07:00,1\n")
    stack = written(
        tmp_path / "s.yaml", "config:\n  switchboard:agents:\n    voice: {reserve: {fixed: -1}}\n"
    )
    assert main(["--trace", trace, "--stack-file", stack, *options]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1


def test_missing_file_is_refused(capsys):
    assert main(["--trace", "/nowhere.csv"]) == 2
    assert "TRACE: '/nowhere.csv' cannot be read (No such file or directory)" in capsys.readouterr().err


def week(tmp_path: Path) -> str:
    begin = datetime(2025, 3, 3, 9)  # noqa: DTZ001 - local, as in traces
    rows = [
        f"{begin + timedelta(days=day, minutes=5 * slot):%Y-%m-%dT%H:%M},30"
        for day in range(8)
        for slot in range(24)
    ]
    return written(tmp_path / "week.csv", "start,calls\n" + "\n".join(rows))


def test_json_has_the_figures_of_each_policy(tmp_path, capsys):
    stack = written(tmp_path / "s.yaml", "config:\n  switchboard:agents:\n    voice: {reserve: {fixed: 4}}\n")
    options = ["--trace", week(tmp_path), "--format", "json", "--lead", "20,40", "--tick", "100"]
    assert main([*options, "--agent", "voice", "--stack-file", stack]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["policies"]) == {
        *("fixed", "percent", "schedule", "predictive", "published_formula", "configured")
    }
    for figures in shown["policies"].values():
        assert all(isinstance(figures[name], int | float) for name in FIGURES)
        assert figures["sessions"] == 8 * 24 * 30
    assert shown["policies"]["fixed"]["hit_rate"] > 0.99
    assert (
        shown["policies"]["predictive"]["idle_seconds_per_session"]
        < (shown["policies"]["fixed"]["idle_seconds_per_session"])
    )


def test_table_recommends_a_setting_that_is_valid(tmp_path, capsys):
    assert main(["--trace", week(tmp_path), "--tick", "100"]) == 0
    out = capsys.readouterr().out
    assert "hit rate" in out
    assert "# Recommended: " in out
    assert "your-agent:\n  reserve:\n" in out


@pytest.mark.parametrize(
    ("name", "begins"), [("a.html", b"<!doctype html>"), ("a.svg", b"<svg "), ("a.png", b"\x89PNG")]
)
def test_plot_is_drawn_in_the_form_of_its_name(tmp_path, capsys, name, begins):
    picture = tmp_path / name
    options = ["--trace", week(tmp_path), "--tick", "300", "--format", "json", "--plot", str(picture)]
    assert main(options) == 0
    json.loads(capsys.readouterr().out)
    assert picture.read_bytes().startswith(begins)
    assert picture.stat().st_size > 2000
