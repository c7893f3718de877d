"""Compares settings of a reserve on a trace: `make simulate TRACE=…`, or `python -m
dispatcher.reserve.simulate`.

The policies are those of the dispatcher, on a virtual clock (`replay`). The standard output has the result
alone; progress and refusals go to the standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError

from dispatcher.refusals import in_words
from dispatcher.reserve import plot, report
from dispatcher.reserve.compared import compared
from dispatcher.reserve.policy import TICK, policy_for
from dispatcher.reserve.replay import replay
from dispatcher.reserve.settings import DEFAULT_TARGET, ReserveSettings, known_zone
from dispatcher.reserve.traces import Trace, TraceError, read

FORMATS = ("table", "json")
LEAD = 30.0
"""Default lead time in seconds: AWS names 30 to 45 s for a Fargate task."""
PRICE = 0.0494
"""Default USD per machine-hour: 1 vCPU and 2 GB of Fargate in us-east-1 (0.04048 + 2 * 0.004445)."""
SESSION_SECONDS = 180.0
LONG_TRACE = 500_000
"""Ticks from which on they are three times as long: a year stays under a minute."""
DEFAULT_AGENT = "echo"
"""Agent of a stack that names none, as in Pulumi.yaml."""
CONFIGURED = "configured"
"""Name in the results of the agent's own setting."""


class Refused(Exception):
    """An option that is refused. The message names it, its value and what is allowed."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; return the exit status."""
    try:
        options = _options(arguments)
        trace = read(options.trace, options.zone)
        settings = _settings(options, trace)
        results = {name: _result(name, one, options, trace) for name, one in settings.items()}
        if options.plot:
            price = options.price / 3600
            plot.draw(
                options.plot, trace, options.lead, options.target, options.zone, _tick(options, trace), price
            )
        if options.format == "json":
            shown: dict[str, Any] = {
                "trace": trace.name,
                "agent": options.agent,
                "sessions": len(trace.times),
                "lead_seconds": sum(options.lead) / len(options.lead),
                "target": options.target,
                "policies": results,
                "recommended": report.recommended(results, options.target),
            }
            print(json.dumps(shown, indent=2))
        else:
            print(report.table(trace, results, options.lead, options.price))
            chosen = report.recommended(results, options.target)
            print()
            print(report.as_yaml(chosen, settings[chosen], results[chosen], options.agent))
    except (Refused, TraceError) as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 2
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m dispatcher.reserve.simulate", description=__doc__)
    parser.add_argument("--trace", required=True, help="CSV `start,calls`, ISO times, or `synthetic`")
    parser.add_argument("--agent", help="an agent of the stack's file; its own reserve is compared too")
    parser.add_argument("--stack-file", type=Path, help="stacks/Pulumi.<stack>.yaml of the agent")
    parser.add_argument("--lead", default=str(LEAD), help="lead time in seconds, or measured ones: 22,25,41")
    parser.add_argument("--target", default=str(DEFAULT_TARGET), help="target hit rate")
    parser.add_argument("--price", default=str(PRICE), help="USD per machine-hour")
    parser.add_argument("--session-seconds", default=str(SESSION_SECONDS), help="mean length of a session")
    parser.add_argument("--zone", default="UTC", help="time zone of the trace and of the agent's days")
    parser.add_argument("--warmup-days", default="0", help="days that are only learned from")
    parser.add_argument("--tick", help="seconds between decisions; by default 10, or 30 on long traces")
    parser.add_argument("--format", default="table", help="table or json")
    parser.add_argument("--plot", type=Path, help="draw a day and the trade-off: .html, .svg or .png")
    options = parser.parse_args(arguments)
    options.lead = tuple(_number("LEAD", one, 0.1, 3600) for one in options.lead.split(","))
    options.target = _number("TARGET", options.target, 0.5, 0.9999)
    options.price = _number("PRICE", options.price, 0, 1000)
    options.session_seconds = _number("SESSION_SECONDS", options.session_seconds, 1, 86_400)
    options.warmup_days = _number("WARMUP_DAYS", options.warmup_days, 0, 1000)
    options.tick = None if options.tick is None else _number("TICK", options.tick, 1, 300)
    if options.format not in FORMATS:
        raise Refused(f"FORMAT: {options.format!r} is refused; allowed: {', '.join(FORMATS)}")
    if options.plot and (options.plot.suffix not in plot.PICTURES or not options.plot.parent.is_dir()):
        raise Refused(
            f"PLOT: {str(options.plot)!r} is refused; allowed: a file in an existing directory, with a name "
            f"that ends in {', '.join(plot.PICTURES)}"
        )
    try:
        known_zone(options.zone)
    except ValueError as error:
        raise Refused(f"ZONE: {error}") from None
    return options


def _number(name: str, text: str, lowest: float, highest: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not lowest <= value <= highest:
        raise Refused(f"{name}: {text!r} is refused; allowed: a number, {lowest:g} to {highest:g}")
    return value


def _settings(options: argparse.Namespace, trace: Trace) -> dict[str, ReserveSettings]:
    lead = sum(options.lead) / len(options.lead)
    found = compared(trace.times, options.zone, lead, options.target, options.session_seconds)
    if options.agent is None:
        return found
    agents = _agents(options.stack_file)
    if options.agent not in agents:
        raise Refused(
            f"AGENT: {options.agent!r} is not an agent; allowed: {', '.join(agents) or 'none is there'}"
        )
    given = (agents[options.agent] or {}).get("reserve")
    if given is not None:
        try:
            found[CONFIGURED] = ReserveSettings.model_validate(given)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            place = ".".join(map(str, (options.agent, "reserve", *fault["loc"])))
            raise Refused(f"agents.{place}: {in_words(fault)}") from None
    return found


def _agents(file: Path | None) -> dict[str, Any]:
    if file is None:
        raise Refused("STACK: missing; allowed: with AGENT, the file of its stack (--stack-file)")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise Refused(f"STACK: {str(file)!r} cannot be read; allowed: the YAML file of a stack") from None
    config = values.get("config") if isinstance(values, dict) else None
    agents = (config or {}).get("switchboard:agents") or {DEFAULT_AGENT: {}}
    if not isinstance(agents, dict):
        raise Refused(f"STACK: switchboard:agents of {str(file)!r} is refused; allowed: a mapping")
    return agents


def _tick(options: argparse.Namespace, trace: Trace) -> float:
    return options.tick or (TICK if (trace.end - trace.begin) / TICK < LONG_TRACE else 3 * TICK)


def _result(
    name: str, settings: ReserveSettings, options: argparse.Namespace, trace: Trace
) -> dict[str, Any]:
    measured_from = trace.begin + options.warmup_days * 86_400
    if measured_from >= trace.end:
        raise Refused(f"WARMUP_DAYS: {options.warmup_days:g} is refused; allowed: less than the trace has")
    tick = _tick(options, trace)
    progress = report.progress(name)
    found = replay(
        trace.times,
        policy_for(settings, tick=tick),
        options.lead,
        begin=trace.begin,
        end=trace.end,
        measured_from=measured_from,
        tick=tick,
        session_seconds=options.session_seconds,
        price_per_second=options.price / 3600,
        on_progress=progress,
    )
    progress(1.0)
    return report.figures(name, found, options.price / 3600, sum(options.lead) / len(options.lead))


if __name__ == "__main__":
    sys.exit(main())
