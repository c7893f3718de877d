"""Placements at Google Cloud: their settings and refusals."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from dispatcher.clock import SystemClock
from dispatcher.machines.cloud_run_jobs.provider import CloudRunJobsProvider
from dispatcher.machines.cloud_run_jobs.settings import CloudRunJobsPlacement, CloudRunJobsShared
from dispatcher.machines.compute_engine.provider import ComputeEngineProvider
from dispatcher.machines.compute_engine.settings import ComputeEnginePlacement, ComputeEngineShared
from dispatcher.machines.settings import ProviderContext
from dispatcher.settings import Settings

ZONES = ["europe-west4-a", "europe-west4-b"]
ENGINE = {
    "provider": "compute-engine",
    "project": "my-project",
    "zones": ZONES,
    "templates": {"echo": "echo-1"},
}
JOBS = {
    "provider": "cloud-run-jobs",
    "project": "my-project",
    "region": "europe-west4",
    "jobs": {"echo": "echo"},
}


@dataclass
class Agent:
    transports: tuple[str, ...] = ("websocket",)
    image: str | None = None
    cpu: float = 1.0
    memory_mb: int = 1024


def engine(**changes: Any) -> ComputeEnginePlacement:
    return ComputeEnginePlacement.model_validate(ENGINE | changes)


def jobs(**changes: Any) -> CloudRunJobsPlacement:
    return CloudRunJobsPlacement.model_validate(JOBS | changes)


@pytest.mark.parametrize(
    "template",
    [
        "echo-1",
        "global/instanceTemplates/echo-1",
        "regions/europe-west4/instanceTemplates/echo-1",
        "projects/my-project/regions/europe-west4/instanceTemplates/echo-1",
        "projects/example.com:my-project/global/instanceTemplates/echo-1",
    ],
)
def test_template_is_named_in_every_form_of_the_api(template: str) -> None:
    assert engine(templates={"echo": template}).templates == {"echo": template}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"zones": []}, "zones"),
        ({"zones": ["europe-west4"]}, "zones"),
        ({"zones": ["europe-west4-a", "europe-west4-a"]}, "'europe-west4-a' is given twice"),
        ({"drainingZones": ["europe-west4-a"]}, "'europe-west4-a' is given twice"),
        ({"zones": ["europe-west4-a", "us-east1-b"]}, "allowed: zones of one region"),
        ({"drainingZones": ["us-east1-b"]}, "allowed: zones of one region"),
        ({"templates": {}}, "templates"),
        ({"templates": {"echo": "Echo"}}, "templates"),
        ({"project": "My project"}, "project"),
        ({"deployment": "1st"}, "deployment"),
        ({"provisioning": "preemptible"}, "provisioning"),
    ],
)
def test_compute_engine_refuses(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        engine(**changes)


def test_compute_engine_refuses_an_agent_without_a_template() -> None:
    engine().check_agent("echo", Agent(("webrtc", "daily")))
    with pytest.raises(ValueError, match="templates has none for this agent; it has: echo"):
        engine().check_agent("other", Agent())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"region": "europe-west4-a"}, "region"),
        ({"jobs": {}}, "jobs"),
        ({"jobs": {"echo": "projects/p/jobs/echo"}}, "jobs"),
        ({"container": "Bot"}, "container"),
    ],
)
def test_cloud_run_jobs_refuse(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        jobs(**changes)


@pytest.mark.parametrize("transports", [("webrtc",), ("daily",), ("websocket", "daily"), ("daily", "webrtc")])
def test_cloud_run_jobs_refuse_a_transport_over_udp(transports: tuple[str, ...]) -> None:
    silent = " and ".join(one for one in transports if one != "websocket")
    with pytest.raises(ValueError, match=f"transports: {silent} cannot be used here: .*allowed: "):
        jobs().check_agent("echo", Agent(transports))


def test_cloud_run_jobs_take_an_agent_over_other_transports() -> None:
    jobs().check_agent("echo", Agent(("websocket",)))
    with pytest.raises(ValueError, match="jobs has none for this agent; it has: echo"):
        jobs().check_agent("other", Agent())


@pytest.mark.parametrize("shared", [ComputeEngineShared, CloudRunJobsShared])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("{", "it is not JSON"),
        ("[]", "its type is None"),
        (json.dumps({"type": "authorized_user", "refresh_token": "hidden"}), "its type is 'authorized_user'"),
    ],
)
def test_credentials_of_another_kind_are_refused_without_repeating_them(
    shared: type[ComputeEngineShared], given: str, words: str
) -> None:
    with pytest.raises(ValidationError, match=f"{words}; allowed: the JSON of a credential file") as refused:
        shared(credentials=SecretStr(given))
    assert "hidden" not in str(refused.value)


def test_placement_at_compute_engine_is_built_from_a_dispatchers_settings(tmp_path: Path) -> None:
    settings = Settings(
        agents={"echo": {"bot": "/app/bot.py"}},  # pyright: ignore[reportArgumentType]
        placements={"ams": ENGINE},  # pyright: ignore[reportArgumentType]
        data_dir=tmp_path,
    )
    placement = settings.placements["ams"]
    context = ProviderContext(SystemClock(), settings.shared_of(placement), tmp_path)
    provider = placement.build(context)
    assert isinstance(provider, ComputeEngineProvider)


def test_placement_at_cloud_run_jobs_is_built_and_refused_for_agents_over_udp(tmp_path: Path) -> None:
    context = ProviderContext(SystemClock(), CloudRunJobsShared(), tmp_path)
    assert isinstance(jobs().build(context), CloudRunJobsProvider)
    with pytest.raises(
        ValidationError, match="agent 'echo' at placement 'ams': transports: webrtc cannot be used"
    ):
        Settings(
            agents={"echo": {"bot": "/app/bot.py"}},  # pyright: ignore[reportArgumentType]
            placements={"ams": JOBS},  # pyright: ignore[reportArgumentType]
            data_dir=tmp_path,
        )


def test_credentials_of_a_service_account_are_taken() -> None:
    given = ComputeEngineShared(credentials=SecretStr(json.dumps({"type": "service_account"}))).credentials
    assert given is not None
    assert "service_account" not in repr(given)
