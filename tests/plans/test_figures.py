"""Figures of the committed plans, computed from the published prices by hand, and from each other."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.plans.stacks import CHECKOUT, EXAMPLES, VARIANTS, golden

STACKS = (*EXAMPLES, *VARIANTS)
HOURS = 720


def table(stack: str, title: str) -> list[dict[str, str]]:
    """Return the rows of a section of a committed plan, which another test compares with the rendered one."""
    section = golden(stack).read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    columns, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [dict(zip(columns, row, strict=True)) for row in rows]


def cost(stack: str, of: str, what: str) -> float:
    (found,) = [row for row in table(stack, "Cost") if (row["of"], row["what"]) == (of, what)]
    return float(found["USD"].removeprefix("$"))


@pytest.mark.parametrize("stack", STACKS)
def test_idle_cost_is_the_sum_of_its_parts_and_a_day_is_a_thirtieth(stack: str) -> None:
    rows = table(stack, "Cost")
    parts = {
        row["what"]: float(row["USD"].removeprefix("$"))
        for row in rows
        if row["of"] == "a month without calls"
    }
    total = parts.pop("all of it", None)
    if total is None:
        (total,) = parts.values()
    else:
        assert total == pytest.approx(sum(parts.values()), abs=0.001)
    assert cost(stack, "a day without calls", "all of it") == pytest.approx(total / 30, abs=0.0051)


@pytest.mark.parametrize("stack", STACKS)
def test_a_thousand_sessions_of_three_minutes_cost_three_thousand_minutes(stack: str) -> None:
    rows = table(stack, "Cost")
    found = [row["what"] for row in rows if row["of"] == "a session-minute"]
    assert found
    for what in found:
        # A minute is shown with five digits after the point.
        minutes = 3000 * cost(stack, "a session-minute", what)
        assert cost(stack, "1000 sessions of 3 min", what) == pytest.approx(minutes, abs=0.0201)


@pytest.mark.parametrize(
    ("stack", "of", "what", "usd"),
    [
        # Two instances of 1 vCPU and 1 GiB, by the second.
        ("gcp", "a month without calls", "2 × dispatcher", 2 * HOURS * 3600 * (0.000018 + 0.000002)),
        ("gcp", "a month without calls", "3 × secret", 3 * 0.06),
        (
            "gcp",
            "a month without calls",
            "db-f1-micro in one zone with 10 GB",
            HOURS * 0.0105 + 10 * 0.17,
        ),
        # 50 hours of an e2-medium: half of its two vCPUs, 4 GB, an address, and 10 GB of disk.
        (
            "gcp",
            "1000 sessions of 3 min",
            "agent echo at gcp",
            50 * (0.02181159 + 4 * 0.00292353 + 0.005 + 10 * 0.10 / HOURS),
        ),
        # shared-cpu-2x has 512 MB; the other 512 MB are paid by the GB.
        ("fly-daily", "a month without calls", "switchboard-fly-daily-0, which runs always", 4.04 + 5.19 / 2),
        ("fly-daily", "a month without calls", "volume store, 1 GB", 0.15),
        # 50 hours of performance-1x, which has 2 GB.
        ("fly-daily", "1000 sessions of 3 min", "agent voice at fly", 31.00 * 50 / HOURS),
        ("docker-and-fly", "1000 sessions of 3 min", "agent echo at overflow", 31.00 * 50 / HOURS),
        ("docker-and-fly", "1000 sessions of 3 min", "agent echo at docker", 0.0),
    ],
)
def test_cost_is_what_the_published_prices_make(stack: str, of: str, what: str, usd: float) -> None:
    assert cost(stack, of, what) == pytest.approx(usd, abs=0.0051)


@pytest.mark.parametrize("stack", STACKS)
def test_plan_says_what_becomes_of_live_calls_and_which_variables_bots_get(stack: str) -> None:
    rows = {row["what is applied"]: row for row in table(stack, "Live calls")}
    assert rows["a changed bot"]["live calls"].startswith("finish")
    assert rows["a changed dispatcher"]["live calls"].startswith("go on")
    assert "unknown" not in rows["a changed dispatcher"]["new calls"]
    of_agents = "Variables of agent echo, which its bots get: OPENAI_API_KEY"
    echo = stack in VARIANTS and "echo" in VARIANTS[stack]["agents"]
    assert (of_agents in golden(stack).read_text()) == echo


@pytest.mark.parametrize(("stack", "columns"), [("docker", (1, 2)), ("local", (5, 6))])
def test_start_forecast_is_the_best_and_the_median_that_the_docs_tell(
    stack: str, columns: tuple[int, int]
) -> None:
    lines = (CHECKOUT / "docs" / "images.md").read_text().splitlines()
    (ready,) = [line for line in lines if line.startswith("| the dispatcher knows that it is ready")]
    cells = [cell.strip() for cell in ready.strip("|").split("|")]
    best, median = (float(cells[column].removesuffix(" s")) for column in columns)
    (row,) = table(stack, "Start of a session")
    assert row["takes"] == f"{best:g}–{median:g} s"


def test_start_forecast_of_aws_is_in_the_words_of_its_source() -> None:
    (row,) = table("aws", "Start of a session")
    assert row["takes"] in row["source"]


@pytest.mark.parametrize(
    ("cloud", "step", "sentence"),
    [
        ("fly", "a machine: image, boot, bot", "low double digits"),
        ("gcp", "a VM: boot, image, container, bot", "not measured by us"),
    ],
)
def test_start_forecast_without_a_measurement_says_so_and_is_of_the_placement(
    cloud: str, step: str, sentence: str
) -> None:
    stacks = {"fly": ("fly-daily", "docker-and-fly", "mix"), "gcp": ("gcp", "mix")}[cloud]
    found = [row for stack in stacks for row in table(stack, "Start of a session") if row["step"] == step]
    assert len(found) == len(stacks)
    assert len({row["takes"] for row in found}) == 1, "a cloud has one forecast, wherever it is a placement"
    for row in found:
        least, most = (float(one) for one in row["takes"].removesuffix(" s").split("–"))
        assert 0 < least < most
        assert sentence in row["source"]
        assert row["source"].endswith("not measured by us"), "no figure of ours stands behind it"


@pytest.mark.parametrize("stack", STACKS)
def test_resources_are_counted_as_they_are_listed(stack: str) -> None:
    rows = table(stack, "Resources")
    counts = Counter("no component" if row["component"] == "–" else row["component"] for row in rows)
    told = ", ".join(f"{name} {count}" for name, count in counts.items())
    assert f"- {len(rows)} resources: {told}.\n" in golden(stack).read_text()


AGENTS_KEYS = {stack: config["agents"] for stack, config in VARIANTS.items()}


@pytest.mark.parametrize("stack", VARIANTS)
def test_a_reviewer_finds_who_reads_the_keys_of_each_agent(stack: str) -> None:
    rows = table(stack, "Secrets")
    for name, agent in AGENTS_KEYS[stack].items():
        found = [row for row in rows if row["secret"].startswith(f"{agent['env'][0]} of agent {name}")]
        placements = VARIANTS[stack].get("placements", {})
        assert len(found) == max(1, len(placements))
        assert all(row["read by"] not in ("", "–", "nobody") for row in found)


@pytest.mark.parametrize("stack", ["aws", "gcp", "fly-daily", "mix"])
def test_the_dispatchers_own_secrets_are_not_said_to_be_an_agents(stack: str) -> None:
    rows = [row["secret"] for row in table(stack, "Secrets") if row["secret"].startswith("OPENAI_API_KEY")]
    assert not [one for one in rows if "dispatcher" in one or "deploy token" in one]
