"""The specification of a session's machine, and what its bot is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from bot.protocol import (
    BOT_ARGUMENTS_VARIABLE,
    MACHINE_TOKEN_VARIABLE,
    MAX_ARGUMENT_BODY_BYTES,
    PROTOCOL_VERSION,
    TRACEPARENT_VARIABLE,
    Assignment,
    IceServer,
    entrypoint_arguments,
)
from dispatcher.agent_images import AgentImages
from dispatcher.domain.deadlines import DEADLINE_GRACE_SECONDS
from dispatcher.domain.model import Machine, Session
from dispatcher.machines.provider import MachineSpec, Preparation, SpecVariant
from dispatcher.settings import AgentSettings, Settings
from dispatcher.sources import fingerprint
from dispatcher.tokens import MachineTokens
from dispatcher.version import VERSION

WAIT_MARGIN_SECONDS = 600.0
"""Time that a machine of the reserve waits beyond its `max_age`: its successor must be there first."""


class Specs:
    """Specifications of machines.

    Args:
        images: Agent → the image of its machines, and its bot file.
        environment: Looks up the variables that agents name in `env`; the dispatcher's own environment.
        dispatcher_url: Where the machines find the dispatcher.
    """

    def __init__(
        self,
        settings: Settings,
        images: AgentImages,
        tokens: MachineTokens,
        environment: Mapping[str, str],
        dispatcher_url: str,
    ) -> None:
        self._settings = settings
        self.agents = settings.agents
        self._images = images
        self._tokens = tokens
        self._environment = environment
        self._dispatcher_url = dispatcher_url

    def of(self, session: Session) -> MachineSpec:
        """The specification of the session's machine. Its agent is known."""
        agent = self._settings.agents[session.agent]
        assigned = assignment(session)
        in_arguments = len(json.dumps(session.body).encode()) <= MAX_ARGUMENT_BODY_BYTES
        of_machine = {
            **self._of_all(agent),
            MACHINE_TOKEN_VARIABLE: self._tokens.issue(session.machine_id, session.max_duration_seconds),
        }
        if session.traceparent is not None:
            of_machine[TRACEPARENT_VARIABLE] = session.traceparent
        image = self._images.of(session.agent)

        def arguments(url: str) -> tuple[str, ...]:
            return tuple(entrypoint_arguments(session.machine_id, url, assigned if in_arguments else None))

        return MachineSpec(
            id=session.machine_id,
            agent=session.agent,
            bot_file=self._images.bot_file(session.agent),
            image=image,
            arguments=arguments(self._dispatcher_url),
            variants=self._variants(session.agent, arguments),
            environment=of_machine,
            python=str(agent.python or ""),
            agent_environment=self._of_agent(agent),
            cpu=agent.cpu,
            memory_mb=agent.memory_mb,
            max_duration=timedelta(seconds=session.max_duration_seconds),
        )

    def reserved(self, machine: Machine) -> MachineSpec:
        """The specification of a machine of the reserve. Its agent is known, and has one."""
        name = machine.agent or ""
        agent = self._settings.agents[name]
        wait = longest_wait(agent)
        longest = wait + agent.max_duration_seconds + DEADLINE_GRACE_SECONDS
        image = self._images.of(name)

        def arguments(url: str) -> tuple[str, ...]:
            return tuple(entrypoint_arguments(machine.id, url, None, wait))

        return MachineSpec(
            id=machine.id,
            agent=name,
            bot_file=self._images.bot_file(name),
            image=image,
            arguments=arguments(self._dispatcher_url),
            variants=self._variants(name, arguments),
            environment={
                **self._of_all(agent),
                MACHINE_TOKEN_VARIABLE: self._tokens.issue(machine.id, longest),
            },
            python=str(agent.python or ""),
            agent_environment=self._of_agent(agent),
            cpu=agent.cpu,
            memory_mb=agent.memory_mb,
            max_duration=timedelta(seconds=longest),
        )

    async def revision(self, name: str) -> str:
        """Return the fingerprint of all that an agent's machines are made from.

        Where they are processes, of the source files beside the bot file too: they have imported those.
        """
        agent = self._settings.agents[name]
        bot_file, image = self._images.bot_file(name), self._images.of(name)
        placements = {
            one: self._settings.placements[one] for one in agent.placements or self._settings.placements
        }
        facts: list[Any] = [
            (PROTOCOL_VERSION, VERSION, self._dispatcher_url, bot_file, image, str(agent.python or "")),
            (agent.cpu, agent.memory_mb, agent.max_duration_seconds, longest_wait(agent)),
            sorted({**self._of_agent(agent), **self._of_all(agent)}.items()),
            [(one, self._images.at(name, one), of.machine_url) for one, of in placements.items()],
        ]
        if not all(of.needs_image for of in placements.values()):
            facts.append(await asyncio.to_thread(fingerprint, Path(bot_file).parent))
        return self._tokens.fingerprint(json.dumps(facts))

    def preparations(self, placement: str) -> list[Preparation]:
        """Return the common part of each agent's machines, for a placement that can get ready for them."""
        return [
            Preparation(
                self._images.bot_file(name),
                {**self._of_agent(agent), **self._of_all(agent)},
                self._images.at(name, placement),
                str(agent.python or ""),
            )
            for name, agent in self._settings.agents.items()
            if not agent.placements or placement in agent.placements
        ]

    def _variants(self, agent: str, arguments: Callable[[str], tuple[str, ...]]) -> dict[str, SpecVariant]:
        return {
            name: SpecVariant(
                self._images.at(agent, name), arguments(of.machine_url.rstrip("/") or self._dispatcher_url)
            )
            for name, of in self._settings.placements.items()
            if self._images.own(agent, name) or of.machine_url
        }

    def _of_agent(self, agent: AgentSettings) -> dict[str, str]:
        return {name: self._environment[name] for name in agent.env if name in self._environment}

    def _of_all(self, agent: AgentSettings) -> dict[str, str]:
        """Return the variables that every machine of the agent gets from us."""
        level = {"SWITCHBOARD_LOG_LEVEL": agent.log_level or self._settings.log_level}
        # A machine without a command line of its own has no variable for it.
        return level | ({BOT_ARGUMENTS_VARIABLE: json.dumps(agent.arguments)} if agent.arguments else {})


def longest_wait(agent: AgentSettings) -> float:
    """Return the limit on a machine's wait for a session, in seconds: the keeper replaces it before."""
    return (agent.reserve.max_age_seconds if agent.reserve is not None else 0.0) + WAIT_MARGIN_SECONDS


def assignment(session: Session) -> Assignment:
    """Return the assignment that the session's machine is told."""
    room = session.room or {}
    return Assignment(
        session_id=session.id,
        agent=session.agent,
        transport=session.transport,
        body=session.body,
        room_url=room.get("url"),
        token=room.get("token"),
        ice_servers=tuple(IceServer.model_validate(server) for server in session.ice_servers),
        max_duration_seconds=session.max_duration_seconds,
        traceparent=session.traceparent,
    )
