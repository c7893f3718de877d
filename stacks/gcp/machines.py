"""Agents at a placement: which of them have VMs and which have jobs, and of what size."""

from __future__ import annotations

from collections.abc import Mapping

import pulumi

from dispatcher.machines.cloud_run_jobs.settings import OVER_UDP
from dispatcher.settings import AgentSettings
from stacks.core_config import CoreConfig
from stacks.errors import ConfigError
from stacks.gcp.config import GcpPlacementConfig
from stacks.gcp.jobs import AgentJob
from stacks.gcp.sizes import JobSize, MachineType, job_size, machine_type
from stacks.gcp.templates import AgentMachine
from stacks.shared.environment import given

WEBRTC = "webrtc"


def is_job(of: AgentSettings, keys: GcpPlacementConfig) -> bool:
    """Return True if the agent's machines are executions of a job."""
    if keys.machines != "auto":
        return keys.machines == "job"
    return not set(of.transports) & set(OVER_UDP)


def check(
    config: CoreConfig, agents: Mapping[str, AgentSettings], keys: GcpPlacementConfig, path: str
) -> None:
    """Check that each agent has a machine that carries its calls. Raises ConfigError."""
    for agent, of in agents.items():
        if not is_job(of, keys):
            vm_type(agent, of, keys)
            continue
        size_of_job(agent, of)
        if silent := [one for one in of.transports if one in OVER_UDP]:
            raise ConfigError(
                f"{path}.machines: 'job' is refused, since the agent {agent!r} offers "
                f"{' and '.join(silent)}, whose audio travels over UDP, and Cloud Run carries none that a "
                "call could rely on: callers would hear nothing; allowed: auto or vm, or an agent without "
                "these transports"
            )
    _refuse_silence(config, agents, keys, path)


def _refuse_silence(
    config: CoreConfig, agents: Mapping[str, AgentSettings], keys: GcpPlacementConfig, path: str
) -> None:
    """Refuse calls that would connect and carry no sound. Raises ConfigError."""
    if not keys.nat or config.turn_urls or config.ice_servers:
        return
    for agent, of in agents.items():
        if WEBRTC in of.transports:
            raise ConfigError(
                f"{path}.nat: true is refused, since the agent {agent!r} offers webrtc, and callers do not "
                "reach a VM without a public address; allowed: nat: false, or TURN servers by turnUrls or "
                "iceServers"
            )


def vm_type(agent: str, of: AgentSettings, keys: GcpPlacementConfig) -> MachineType:
    """Return the agent's machine type. Raises ConfigError if there is none that large."""
    try:
        return machine_type(of.cpu, of.memory_mb, keys.machine_type)
    except ValueError as error:
        raise ConfigError(f"switchboard:agents.{agent}: {error}") from None


def vm_of(agent: str, of: AgentSettings, keys: GcpPlacementConfig, image: pulumi.Input[str]) -> AgentMachine:
    return AgentMachine(
        image=image,
        built=of.image is None,
        machine_type=vm_type(agent, of, keys).name,
        memory_mb=of.memory_mb,
        variables=given(of.env),
        udp_ports=keys.udp_ports if WEBRTC in of.transports else None,
    )


def size_of_job(agent: str, of: AgentSettings) -> JobSize:
    """Return the size of the agent's job. Raises ConfigError if it would be too large."""
    try:
        return job_size(of.cpu, of.memory_mb)
    except ValueError as error:
        raise ConfigError(f"switchboard:agents.{agent}: {error}") from None


def job_of(agent: str, of: AgentSettings, image: pulumi.Input[str]) -> AgentJob:
    return AgentJob(image, of.image is None, size_of_job(agent, of), given(of.env))
