"""`docs/operations.md`, its alerts and its dashboard are complete, and name nothing that does not exist."""

import asyncio
import json
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from prometheus_client.metrics_core import Metric

from bot import protocol
from dispatcher.domain import errors
from dispatcher.machines.calls import CallOutcome
from dispatcher.machines.provider import Action
from dispatcher.outbound.deliverer import Outcome as WebhookOutcome
from dispatcher.sessions.assigner import Result as ReserveResult
from dispatcher.settings import ENVIRONMENT_PREFIX, Settings
from dispatcher.telemetry import refusals
from dispatcher.telemetry.measures import OTHER, READY, Phase
from dispatcher.transports.calls import RoomAction, RoomCallOutcome
from stacks.config import StackConfig
from tests.dispatcher.harness import deployment, eventually
from tests.dispatcher.telemetry.exposition import scrape
from tests.reasons import reasons_in_code

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "operations.md").read_text()
ALERTS = (DOCS / "alerts.yaml").read_text()
DASHBOARD = (DOCS / "grafana.json").read_text()

TABLE_ROW = re.compile(r"^\| `(switchboard_\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)


@pytest.fixture(scope="module")
def families(tmp_path_factory) -> dict[str, Metric]:
    """Every metric of a dispatcher after a whole call, by the name that its samples are queried by."""

    async def run() -> dict[str, Metric]:
        async with deployment(tmp_path_factory.mktemp("dispatcher")) as running:
            session_id = (await running.start())["sessionId"]
            machine = await running.machine_of(session_id)
            await machine.hello("active")
            for kind in ("first_word", "turn"):
                await machine.send(protocol.Latency(kind=kind, milliseconds=500))
            await machine.send(protocol.Ended(reason="completed", message="Bye."))
            await running.until(session_id, "ended")
            shown = await eventually(
                lambda: scrape(running),
                lambda shown: (shown.value("switchboard_reaper_rounds_total") or 0) > 0,
            )
        return {
            f"{name}_total" if family.type == "counter" else name: family
            for name, family in shown.families.items()
        }

    return asyncio.run(run())


def ours(families: dict[str, Metric]) -> dict[str, Metric]:
    return {name: family for name, family in families.items() if name.startswith("switchboard_")}


def queried(text: str, families: dict[str, Metric]) -> set[str]:
    """The metrics that a text names, without the endings that a histogram's samples have."""
    named = set(re.findall(r"\b(?:switchboard|process)_[a-z_]+[a-z]\b", text))
    histograms = {name for name, family in families.items() if family.type == "histogram"}
    endings = {f"{name}_{ending}": name for name in histograms for ending in ("bucket", "count", "sum")}
    return {str(endings.get(name, name)) for name in named}


def test_every_metric_is_on_the_page_with_its_type_and_its_labels(families):
    table = TABLE_ROW.findall(PAGE)
    rows = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in table}
    assert rows.keys() == ours(families).keys()
    for name, (kind, labels) in rows.items():
        assert kind == families[name].type, name
        if families[name].samples:
            shown = {label for sample in families[name].samples for label in sample.labels} - {"le"}
            assert shown == labels, name


@pytest.mark.parametrize("text", [PAGE, ALERTS, DASHBOARD], ids=["page", "alerts", "dashboard"])
def test_no_metric_is_named_that_does_not_exist(families, text):
    assert queried(text, families) - {"process"} <= families.keys()


def test_every_phase_reason_and_outcome_is_on_the_page():
    known = {*get_args(Phase), *reasons_in_code(), OTHER, *get_args(CallOutcome), READY}
    known |= {refusals.STORE_DOWN, *refusals.OUTCOMES.values(), *get_args(RoomAction)}
    for word in known:
        assert f"`{word}`" in PAGE, word


def test_every_reason_in_the_table_exists():
    table = PAGE.partition("### Outcomes and reasons")[2].partition("### Outcomes of provider calls")[0]
    rows = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert rows == reasons_in_code() | {OTHER, refusals.STORE_DOWN, *refusals.OUTCOMES.values()}


@pytest.mark.parametrize(("title", "actions"), [("provider calls", Action), ("calls to Daily", RoomAction)])
def test_page_lists_every_action_when_calls_have_one(title, actions):
    section = PAGE.partition(f"### Outcomes of {title}\n")[2].partition("\n|")[0]
    assert {f"`{action}`" for action in get_args(actions)} <= set(re.findall(r"`\w+`", section))


def test_page_says_which_format_stacks_log_in():
    log_format = StackConfig.model_fields["log_format"].default
    assert f"Stacks write {log_format} unless `switchboard:logFormat` is `json`" in PAGE


@pytest.mark.parametrize(
    ("title", "outcomes"), [("provider calls", CallOutcome), ("calls to Daily", RoomCallOutcome)]
)
def test_the_outcomes_of_calls_are_those_in_their_tables(title, outcomes):
    table = PAGE.partition(f"### Outcomes of {title}\n")[2].partition("\n##")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(get_args(outcomes))


def test_every_code_of_an_error_is_on_the_page():
    for kind in vars(errors).values():
        own_code = isinstance(kind, type) and issubclass(kind, errors.SessionError) and kind.code
        if own_code and kind is not errors.SessionError and not kind.code.isdigit():
            assert f"`{kind.code}`" in PAGE, kind


def test_the_settings_that_the_page_names_exist():
    variables = set(re.findall(rf"{ENVIRONMENT_PREFIX}[A-Z_]+", PAGE))
    assert variables >= {"SWITCHBOARD_LOG_FORMAT"}
    assert variables <= {ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}


def test_labels_that_alerts_and_panels_select_by_have_such_values(families):
    closed = {
        "outcome": {READY, OTHER, "failed", *reasons_in_code(), *get_args(CallOutcome)}
        | {*get_args(RoomCallOutcome), *get_args(WebhookOutcome)}
        | {refusals.STORE_DOWN, *refusals.OUTCOMES.values()},
        "reason": reasons_in_code(),
        "result": {*get_args(ReserveResult)},
        "state": {"open", "probing", "closed"},
        "action": {*get_args(Action), *get_args(RoomAction)},
    }
    for label, values in re.findall(r'(\w+)(?:=|!=|=~|!~)\\?"([a-z_|]+)\\?"', ALERTS + DASHBOARD):
        assert set(values.split("|")) <= closed[label], (label, values)


def test_the_rules_are_rules():
    (group,) = yaml.safe_load(ALERTS)["groups"]
    for rule in group["rules"]:
        assert rule.keys() >= {"alert", "expr", "labels", "annotations"}, rule
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["annotations"]["summary"].endswith(".")


def test_the_dashboard_shows_every_metric_that_an_operator_watches(families):
    panels = json.loads(DASHBOARD)["panels"]
    shown = queried(json.dumps(panels), families)
    assert ours(families).keys() - shown == {"switchboard_reaper_round_seconds"}
    for panel in panels:
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")"), panel["title"]


def test_the_line_of_a_log_on_the_page_has_the_members_that_lines_have():
    (line,) = re.findall(r'^\{"time".*\}$', PAGE, re.MULTILINE)
    section = PAGE.partition("## Logs")[2].partition("\n##")[0]
    documented = set(re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section, re.MULTILINE))
    members = set(re.findall(r"`(\w+)`", " ".join(documented)))
    assert json.loads(line).keys() | {"error"} == members
