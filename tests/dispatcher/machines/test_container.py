"""Containers as machines: what the contract does not say, against a real engine."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.container.provider import ContainerProvider
from dispatcher.machines.container.request import DIRECTORY, FILE, IMAGE_LABEL, LABEL, PIDS
from dispatcher.machines.provider import MachineSpec, NoCapacity, ProviderError, Unreachable
from tests.contracts.containers import Containers
from tests.engine import Engine


def of(containers: Containers, machine_id: str, *arguments: str, **other: Any) -> MachineSpec:
    spec = containers.spec(machine_id)
    return replace(spec, arguments=arguments or spec.arguments, **other)


async def gone(containers: Containers, provider: ContainerProvider, machine_id: str) -> MachineStatus:
    status = await containers.until(
        f"{machine_id} must be gone",
        lambda: provider.get(machine_id),
        lambda status: status is not None and status.state is MachineState.gone,
    )
    assert status is not None
    return status


def inspected(engine: Engine, machine_id: str) -> dict[str, Any]:
    return json.loads(engine.docker("inspect", f"contract-{machine_id}"))[0]


def test_a_container_may_do_little(containers: Containers) -> None:
    async def run() -> None:
        await containers.provider().create(containers.spec("little"))

    containers.run(run())
    host = inspected(containers.engine, "little")["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Privileged"] is False
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (500_000_000, 64 * 2**20, 64 * 2**20)
    assert host["PidsLimit"] == PIDS
    assert host["RestartPolicy"]["Name"] == "no"
    assert host["LogConfig"]["Config"]["max-size"] == "10m"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "held = []; [held.append(b'x' * 2**20) for _ in range(1000)]",
            "",
        ),
        ("import os, time; [os.fork() or time.sleep(60) for _ in range(1000)]", "temporarily unavailable"),
        ("open('/tmp/full', 'wb').write(bytes(2**20) * 48); open('/tmp/more', 'wb').write(bytes(2**25))", ""),
        ("open('/app/mine', 'w')", "Read-only file system"),
        ("open('/etc/mine', 'w')", "Read-only file system"),
    ],
    ids=["memory", "processes", "disk", "its own files", "the system's files"],
)
def test_a_bot_that_takes_what_it_may_not_have_hurts_only_itself(
    containers: Containers, code: str, words: str
) -> None:
    async def run() -> None:
        provider = containers.provider()
        await provider.create(containers.spec("neighbour"))
        await provider.create(of(containers, "greedy", "run", code, memory_mb=256))
        status = await gone(containers, provider, "greedy")
        assert status.exit_code != 0
        assert words in status.output
        assert status.out_of_memory_mb == (256 if "held" in code else None)
        assert await containers.running() == ["neighbour"]

    containers.run(run())


def test_a_bot_that_ignores_everything_is_ended_at_its_deadline(containers: Containers) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"

    async def run() -> None:
        provider = containers.provider()
        await provider.create(of(containers, "deaf", "run", deaf, max_duration=timedelta(seconds=1)))
        # Nobody is there to stop it.
        await provider.close()
        assert (await gone(containers, containers.provider(), "deaf")).exit_code == 137

    containers.run(run())


def refused(containers: Containers, spec: MachineSpec, kind: type[ProviderError], words: str) -> None:
    async def run() -> None:
        with pytest.raises(kind, match=words):
            await containers.provider().create(spec)

    containers.run(run())
    names = containers.engine.docker("ps", "--all", "--format", "{{.Names}}").split()
    assert f"contract-{spec.id}" not in names, "what never ran is not left"


def test_an_image_that_is_nowhere_is_refused(containers: Containers) -> None:
    missing = of(containers, "no-image", image="127.0.0.1:9/none:latest")
    refused(containers, missing, NoCapacity, "127.0.0.1:9/none:latest could not be pulled")


def test_an_image_without_a_python_says_so(containers: Containers, base_image: str) -> None:
    async def run() -> None:
        provider = containers.provider()
        await provider.create(of(containers, "no-python", image=base_image))
        status = await gone(containers, provider, "no-python")
        assert status.exit_code == 127
        assert "python" in status.output

    containers.run(run())


def test_more_cpus_or_memory_than_the_host_has_are_another_placements(containers: Containers) -> None:
    refused(containers, of(containers, "many-cpus", cpu=64), NoCapacity, "CPUs")
    refused(containers, of(containers, "much-memory", memory_mb=10_000_000), NoCapacity, "10000000 MiB")


def test_what_runs_has_its_memory_for_itself(containers: Containers) -> None:
    info = json.loads(containers.engine.docker("info", "--format", "{{json .}}"))
    most = int(info["MemTotal"] / 2**20 * 0.5)

    async def run() -> None:
        provider = containers.provider()
        first, second = (of(containers, name, memory_mb=most) for name in ("one", "two"))
        answers = await asyncio.gather(
            provider.create(first), provider.create(second), return_exceptions=True
        )
        assert sorted(type(answer).__name__ for answer in answers) == ["MachineStatus", "NoCapacity"]

    containers.run(run())


def test_a_name_that_somebody_elses_container_has_is_left_alone(
    containers: Containers, stub_image: str
) -> None:
    docker = containers.engine.docker
    docker("run", "--detach", "--name", "contract-theirs", stub_image, "sleep", "600")
    try:

        async def run() -> None:
            provider = containers.provider()
            with pytest.raises(Unreachable, match="contract-theirs is taken"):
                await provider.create(containers.spec("theirs"))
            assert await provider.get("theirs") is None
            await provider.stop("theirs", timedelta(0))

        containers.run(run())
        assert docker("inspect", "--format", "{{.State.Running}}", "contract-theirs") == "true"
    finally:
        docker("rm", "--force", "contract-theirs")


SECRETS = {"OPENAI_API_KEY": "hunter2-of-openai", "PEM": "-----BEGIN\nhunter2", "LD_BIND_NOW": "1"}
SHOW = (
    "import os, pathlib; names = ('OPENAI_API_KEY', 'PEM', 'LD_BIND_NOW', 'SWITCHBOARD_MACHINE_TOKEN'); "
    "print([os.environ.get(name) for name in names], list(pathlib.Path('/run/switchboard').glob('*')))"
)


def test_nobody_who_inspects_a_container_sees_its_secrets(containers: Containers) -> None:
    async def run() -> None:
        provider = containers.provider()
        given = {"agent_environment": SECRETS, "environment": {"SWITCHBOARD_MACHINE_TOKEN": "hunter2-token"}}
        await provider.create(
            of(containers, "secrets", "run", f"{SHOW}; sys.stdout.flush(); time.sleep(600)", **given)
        )
        shown = json.dumps(inspected(containers.engine, "secrets"))
        assert "hunter2" not in shown
        assert "LD_BIND_NOW=1" in shown, "the loader reads it before the bot could"

        async def printed() -> str:
            part = await provider.read_log("secrets", 10)
            return "\n".join(part.lines) if part is not None else ""

        seen = await containers.until("it must print", printed, bool)
        assert seen == str([*SECRETS.values(), "hunter2-token"]) + " []", "and the file is gone"
        before = containers.engine.docker("volume", "ls", "--quiet").split()
        await provider.stop("secrets", timedelta(0))
        await gone(containers, provider, "secrets")

        async def volumes() -> int:
            _ = [one async for one in provider.list()]
            return len(containers.engine.docker("volume", "ls", "--quiet").split())

        await containers.until("its volume must go with it", volumes, lambda left: left < len(before))

    containers.run(run())


def test_a_container_left_before_it_had_its_variables_gets_them(containers: Containers) -> None:
    """The dispatcher died between the first call and the second."""

    async def run() -> None:
        provider = containers.provider()
        await asyncio.to_thread(
            containers.engine.docker,
            *("create", "--name", "contract-left", "--label", "switchboard.deployment=contract"),
            *("--label", "switchboard.machine=left", "--label", "switchboard.memory-mb=64", "--read-only"),
            *("--label", f"{LABEL}=true", "--volume", DIRECTORY),
            *("--env", f"SWITCHBOARD_VARIABLES_FILE={DIRECTORY}/{FILE}"),
            *(containers.image, "python", "-m", "bot", "run", SHOW),
        )
        spec = of(containers, "left", agent_environment=SECRETS)
        await provider.start(spec)
        status = await gone(containers, provider, "left")
        assert "hunter2-of-openai" in status.output
        assert status.output.rstrip().endswith("[]")

    containers.run(run())


def test_an_image_of_before_gets_its_variables_in_the_open(containers: Containers, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM stub:latest\nLABEL {IMAGE_LABEL}=false\n")
    older = containers.engine.build("--tag", "stub:older", str(tmp_path))

    async def run() -> None:
        provider = containers.provider()
        await provider.create(of(containers, "older", "run", SHOW, image=older, agent_environment=SECRETS))
        assert "hunter2-of-openai" in (await gone(containers, provider, "older")).output

    containers.run(run())


def test_a_container_that_was_never_started_is_started_by_who_goes_on_with_it(containers: Containers) -> None:
    """The dispatcher died between the two calls."""

    async def run() -> None:
        provider = containers.provider()
        await provider.create(containers.spec("half"))
        await provider.stop("half", timedelta(0))
        await asyncio.to_thread(
            containers.engine.docker,
            *("create", "--name", "contract-half-2", "--label", "switchboard.deployment=contract"),
            *("--label", "switchboard.machine=half-2", "--label", "switchboard.memory-mb=64"),
            *(containers.image, "sleep", "600"),
        )
        assert await provider.get("half-2") == MachineStatus("half-2", MachineState.requested)
        assert await containers.running() == []
        for _ in range(2):
            spec = containers.spec("half-2")
            assert await provider.start(spec) == MachineStatus("half-2", MachineState.started)
        assert await containers.running() == ["half-2"]

    containers.run(run())


def test_a_container_is_removed_once_its_end_is_known_and_not_before(containers: Containers) -> None:
    async def names() -> list[str]:
        listed = await asyncio.to_thread(containers.engine.docker, "ps", "--all", "--format", "{{.Names}}")
        return listed.split()

    async def run() -> None:
        provider = containers.provider()
        await provider.create(containers.spec("over", exits=3))
        await containers.until("it must end", containers.running, lambda ids: ids == [])
        assert [status async for status in provider.list()] == []
        assert "contract-over" in await names()
        status = await provider.get("over")
        assert status == MachineStatus("over", MachineState.gone, 3, "as I was told\n")
        assert [status async for status in provider.list()] == []
        await containers.until("it must be removed", names, lambda found: "contract-over" not in found)

    containers.run(run())


def test_an_engine_that_is_gone_is_unreachable_and_one_that_is_back_is_used(containers: Containers) -> None:
    async def run() -> None:
        provider = containers.provider()
        await provider.create(containers.spec("before"))
        await asyncio.to_thread(containers.engine.kill)
        try:
            for call in (
                provider.create(containers.spec("meanwhile")),
                provider.get("before"),
                provider.stop("before", timedelta(0)),
                anext(provider.list()),
            ):
                with pytest.raises(Unreachable, match="engine"):
                    await call
        finally:
            await asyncio.to_thread(containers.engine.start)
        status = await provider.get("before")
        assert status is not None, "how it ended is known"
        assert status.state is MachineState.gone
        await provider.create(containers.spec("after"))
        assert await containers.running() == ["after"]

    containers.run(run())


FINDS_ITS_HOST = "import socket; print('found', socket.gethostbyname('host.docker.internal'), flush=True)"


def test_a_machine_finds_its_host_after_a_restart_that_kept_the_containers(containers: Containers) -> None:
    engine = containers.engine

    async def run() -> str:
        provider = containers.provider()
        await provider.create(of(containers, "before"))
        engine.stop()
        engine.start("--live-restore")
        assert await containers.running() == ["before"]
        await provider.create(of(containers, "after", "run", FINDS_ITS_HOST))
        return (await gone(containers, provider, "after")).output

    engine.stop()
    engine.start("--live-restore")
    try:
        said = containers.run(run())
    finally:
        engine.stop()
        engine.start()
    assert re.search(r"^found \d+\.\d+", said), said
