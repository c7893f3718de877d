"""Results of the simulator in words and figures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from dispatcher.reserve.replay import Replayed
from dispatcher.reserve.settings import ReserveSettings
from dispatcher.reserve.traces import Trace

COLUMNS = (
    ("hit rate", "hit_rate", "{:.4f}"),
    ("p50 wait s", "wait_p50", "{:.1f}"),
    ("p95 wait s", "wait_p95", "{:.1f}"),
    ("p99 wait s", "wait_p99", "{:.1f}"),
    ("idle s/session", "idle_seconds_per_session", "{:.1f}"),
    ("USD/month", "cost_per_month", "{:,.2f}"),
    ("USD/session", "cost_per_session", "{:.5f}"),
)
HINDSIGHT = (
    "fixed, percent, schedule, published_formula: sized with hindsight; predictive: sees only the past."
)


def figures(name: str, found: Replayed, price: float, lead: float) -> dict[str, Any]:
    """Return a policy's figures.

    Args:
        price: USD per machine-second.
        lead: Mean lead time in seconds.
    """
    return {
        "policy": name,
        "hit_rate": round(found.hit_rate, 6),
        "wait_p50": round(found.wait(0.5), 3),
        "wait_p95": round(found.wait(0.95), 3),
        "wait_p99": round(found.wait(0.99), 3),
        "idle_seconds_per_session": round(found.idle_per_session, 3),
        "cost_per_month": round(found.monthly_cost(price, lead), 2),
        "cost_per_session": round(found.cost(price, lead) / max(found.sessions, 1), 6),
        "sessions": found.sessions,
        "misses": found.sessions - found.hits,
    }


def recommended(results: Mapping[str, Mapping[str, Any]], target: float) -> str:
    """Return the cheapest policy that reaches the target within a quarter of the misses; else the one that
    hits most."""
    enough = 1 - 1.25 * (1 - target)
    reaching = [name for name, one in results.items() if one["hit_rate"] >= enough]
    if reaching:
        return min(reaching, key=lambda name: results[name]["idle_seconds_per_session"])
    return max(results, key=lambda name: results[name]["hit_rate"])


def table(
    trace: Trace, results: Mapping[str, Mapping[str, Any]], leads: Sequence[float], price: float
) -> str:
    """Return the comparison as a text of several lines."""
    rows = [["policy", *(title for title, _, _ in COLUMNS)]]
    for name, one in results.items():
        rows.append([name, *(form.format(one[key]) for _, key, form in COLUMNS)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    days = (trace.end - trace.begin) / 86_400
    lead = f"{sum(leads) / len(leads):g} s" + (f" (mean of {len(leads)})" if len(leads) > 1 else "")
    sessions = f"{len(trace.times)} sessions in {days:.1f} days"
    head = f"{trace.name}: {sessions}; lead {lead}; {price:g} USD per machine-hour"
    return "\n".join((head, "", *lines, "", HINDSIGHT))


def as_yaml(name: str, settings: ReserveSettings, result: Mapping[str, Any], agent: str | None) -> str:
    """Return a setting as YAML to paste below an agent, with its figures as a comment."""
    given = settings.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if name == "predictive":
        given["predictive"] = settings.model_dump(mode="json", by_alias=True)["predictive"]
    given.pop("max", None)
    body = yaml.safe_dump({agent or "your-agent": {"reserve": given}}, sort_keys=False)
    return (
        f"# Recommended: {name}, hit rate {result['hit_rate']:.4f} at "
        f"{result['idle_seconds_per_session']:.1f} idle s per session\n{body}"
    ).rstrip()


def progress(name: str) -> Callable[[float], None]:
    """Return a function that shows the share that is done on the standard error: a line per quarter, or
    one on a terminal."""
    on_terminal = sys.stderr.isatty()
    shown = -1

    def show(share: float) -> None:
        nonlocal shown
        if on_terminal:
            print(f"\r{name}: {share:4.0%}", end="\n" if share >= 1 else "", file=sys.stderr, flush=True)
        elif int(share * 4) > shown:
            shown = int(share * 4)
            print(f"{name}: {share:.0%}", file=sys.stderr, flush=True)

    return show
