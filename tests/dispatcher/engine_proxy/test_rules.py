"""A body that is not the provider's is refused, whatever is wrong with it, and the reason names the place."""

from __future__ import annotations

import io
import json
import tarfile
import time
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dispatcher.engine_proxy.reading import Refused
from dispatcher.engine_proxy.rules import Rules
from dispatcher.engine_proxy.settings import ProxySettings
from dispatcher.machines.container.request import archive
from tests.dispatcher.engine_proxy.world import CREATE, FACTS, SETTINGS, wanted

RULES = Rules(SETTINGS)


def refusal(content: Any, target: str = CREATE) -> str:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(Refused) as caught:
        RULES.read("POST", target, data)
    return str(caught.value)


def with_host(**members: Any) -> dict[str, Any]:
    made = wanted()
    made["HostConfig"] |= members
    return made


def test_what_the_provider_sends_is_passed_on_and_is_made_anew() -> None:
    ask = RULES.read("POST", CREATE, json.dumps(wanted(), indent=3).encode())
    assert (ask.method, ask.target()) == ("POST", CREATE)
    assert ask.body == json.dumps(wanted()).encode()


OF_THE_HOST = {
    "Privileged": True,
    "Binds": ["/:/host"],
    "Mounts": [{"Type": "bind", "Source": "/", "Target": "/host"}],
    "Devices": [{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda", "CgroupPermissions": "rwm"}],
    "DeviceRequests": [{"Count": -1, "Capabilities": [["gpu"]]}],
    "DeviceCgroupRules": ["c 1:3 rwm"],
    "CapAdd": ["SYS_ADMIN"],
    "CapDrop": [],
    "PidMode": "host",
    "IpcMode": "host",
    "UTSMode": "host",
    "UsernsMode": "host",
    "CgroupnsMode": "host",
    "NetworkMode": "host",
    "VolumesFrom": ["switchboard-docker-dispatcher"],
    "SecurityOpt": ["no-new-privileges", "seccomp=unconfined"],
    "CgroupParent": "/",
    "Cgroup": "container:1",
    "Runtime": "another",
    "GroupAdd": ["0"],
    "Sysctls": {"kernel.shm_rmid_forced": "1"},
    "OomScoreAdj": -1000,
    "PidsLimit": -1,
    "ReadonlyRootfs": False,
    "ReadonlyPaths": [],
    "MaskedPaths": [],
    "Tmpfs": {"/tmp": "exec"},
    "LogConfig": {"Type": "syslog", "Config": {}},
    "RestartPolicy": {"Name": "always"},
    "PortBindings": {"22/tcp": [{"HostPort": "22"}]},
    "PublishAllPorts": True,
    "ExtraHosts": ["registry.example:10.0.0.1"],
    "Ulimits": [{"Name": "nofile", "Soft": 10**6, "Hard": 10**6}],
    "StorageOpt": {"size": "1T"},
    "AutoRemove": True,
    "MemorySwap": -1,
    "Memory": 2**40,
    "NanoCpus": 64 * 10**9,
}


@pytest.mark.parametrize("member", OF_THE_HOST)
def test_a_host_config_of_another_kind(member: str) -> None:
    assert f"HostConfig.{member}" in refusal(with_host(**{member: OF_THE_HOST[member]}))


@pytest.mark.parametrize("network", ["host", "container:calls-m-2", "bridge", "none", "control"])
def test_a_network_but_the_machines(network: str) -> None:
    assert refusal(with_host(NetworkMode=network)).startswith("HostConfig.NetworkMode: ")


@pytest.mark.parametrize("member", ["privileged", "PRIVILEGED", "Privile\u017fged", "binds", "networkmode"])
def test_a_member_in_another_case(member: str) -> None:
    """Go reads it all the same, with the long s and the Kelvin sign, too."""
    assert refusal(with_host(**{member: True})) == f"{f'HostConfig.{member}'!r}: is not allowed"


def test_a_member_by_an_escape_is_the_member() -> None:
    content = json.dumps(wanted()).replace('"Init"', r'"\u0050rivileged": true, "Init"', 1).encode()
    assert refusal(content) == "'HostConfig.Privileged': is not allowed"


def test_a_member_that_is_there_twice() -> None:
    content = json.dumps(wanted()).replace('"Init"', '"NetworkMode": "host", "Init"', 1).encode()
    assert refusal(content) == "'NetworkMode': occurs twice"


def test_as_many_members_as_a_body_has_room_for_are_soon_read() -> None:
    content = json.dumps({str(number): 0 for number in range(80_000)}).encode()
    assert len(content) > 2**20 * 0.9, "about the largest body that the proxy takes"
    before = time.process_time()
    refusal(content)
    # Compared with each other they would take the proxy minutes, and it has one thread.
    assert time.process_time() - before < 5


LINES = "x\nWARNING  somebody else: all is well\x1b[2K"


@pytest.mark.parametrize(
    ("content", "target"),
    [
        (wanted() | {LINES: 1}, CREATE),
        (with_host(**{LINES: 1}), CREATE),
        (json.dumps(wanted() | {LINES: 1}).replace("{", f"{{{json.dumps(LINES)}: 1, ", 1).encode(), CREATE),
        (wanted() | {"Image": LINES}, CREATE),
        (wanted() | {"Env": [LINES]}, CREATE),
        (with_host(NetworkMode=LINES), CREATE),
        (wanted(), f"{CREATE}&{quote(LINES)}=1"),
        (wanted(), f"/v1.41/containers/create?name={quote(LINES)}"),
        (b"", f"/v1.41/images/create?fromImage={quote(LINES)}"),
        (b"", f"/v1.41/images/create?fromImage=bots/plain&tag={quote(LINES)}"),
        (b"", f"/v1.41/containers/calls-m-1/stop?t={quote(LINES)}"),
    ],
)
def test_a_refusal_is_one_line_whatever_was_asked(content: Any, target: str) -> None:
    """It is logged: nobody writes lines of their own there."""
    assert refusal(content, target).isprintable()


OF_THE_CONTAINER = {
    "User": "0:0",
    "Volumes": {"/host": {}},
    "WorkingDir": "/",
    "ExposedPorts": {"22/tcp": {}},
    "NetworkingConfig": {"EndpointsConfig": {"control": {}}},
    "StopSignal": "SIGCONT",
    "Healthcheck": {"Test": ["CMD", "true"]},
    "Hostname": "dispatcher",
    "MacAddress": "02:42:ac:11:00:02",
    "Image": "bots/other",
    "Labels": {"switchboard.deployment": "other"},
}


@pytest.mark.parametrize("member", OF_THE_CONTAINER)
def test_a_container_of_another_kind(member: str) -> None:
    assert member in refusal(wanted() | {member: OF_THE_CONTAINER[member]})


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"nano_cpus": 2_000_000_001}, "HostConfig.NanoCpus: 2000000001"),
        ({"nano_cpus": 0}, "HostConfig.NanoCpus: 0"),
        ({"memory_mb": 2049}, "Labels.switchboard.memory-mb: 2049"),
        ({"seconds": 3701}, "Entrypoint: 3701"),
        ({"image": "bots/echo"}, "Image: 'bots/echo'"),
        ({"environment": ("AWS_SECRET_ACCESS_KEY",)}, "Env: 'AWS_SECRET_ACCESS_KEY' has no value"),
        # Each of them is read on the host, where NVIDIA's runtime is the engine's default.
        (
            {"environment": ("LD_PRELOAD=/tmp/x.so",)},
            "Env: 'LD_PRELOAD' is refused; allowed: A, OPENAI_API_KEY",
        ),
        ({"environment": ("A=b", "NVIDIA_VISIBLE_DEVICES=all")}, "Env: 'NVIDIA_VISIBLE_DEVICES' is refused"),
        ({"environment": ("a=b",)}, "Env: 'a' is refused"),
        ({"environment": ("=A=b",)}, "Env: '' is refused"),
        ({"environment": ("SWITCHBOARD_ X=1",)}, "Env: 'SWITCHBOARD_ X' is refused"),
        ({"environment": ("HOME=/tmp\0LD_PRELOAD=x",)}, "Env: HOME has a control character"),
        ({"environment": ("HOME=/tmp\nLD_PRELOAD=x",)}, "Env: HOME has a control character"),
        ({"environment": ("SWITCHBOARD_BOT_FILE=bot.py\rX=1",)}, "Env: SWITCHBOARD_BOT_FILE has a control"),
        ({"environment": ("A=b\0LD_PRELOAD=x",)}, "Env: A has a control character"),
        ({"environment": ("A=\x1b[2K",)}, "Env: A has a control character"),
        ({"arguments": ("--body", "{}\0")}, "Cmd: has a NUL"),
        ({"machine_id": "m-2"}, "Labels.switchboard.machine"),
    ],
)
def test_a_fact_out_of_its_bounds(change: dict[str, Any], where: str) -> None:
    assert refusal(wanted(replace(FACTS, **change))).startswith(where)


HAND_OVER = "/v1.41/containers/calls-m-1/archive?path=/run/switchboard"


def packed(*members: tuple[str, bytes, bytes]) -> bytes:
    """An archive of these: name, content and type."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as files:
        for name, content, kind in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname = kind, len(content), "/etc/passwd"
            files.addfile(entry, io.BytesIO(content))
    return made.getvalue()


ROOT = (".", b"", tarfile.DIRTYPE)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"", "the archive is refused: "),
        (b"{}", "the archive is refused: "),
        (packed(ROOT), "the archive is refused: its members are different"),
        (packed(ROOT, ("x", b"{}", tarfile.REGTYPE)), "the archive is refused: its members are different"),
        (packed(ROOT, ("../variables.json", b"{}", tarfile.REGTYPE)), "the archive is refused: its members"),
        (packed(ROOT, ("variables.json", b"", tarfile.SYMTYPE)), "the archive is refused: its members are"),
        (packed(ROOT, ("variables.json", b"", tarfile.CHRTYPE)), "the archive is refused: its members are"),
        (
            packed(ROOT, ("variables.json", b"{}", tarfile.REGTYPE), ROOT),
            "the archive is refused: its members",
        ),
        (packed(ROOT, ("variables.json", b"{", tarfile.REGTYPE)), "the body is not JSON"),
        (packed(ROOT, ("variables.json", b"[]", tarfile.REGTYPE)), "variables.json: is refused; allowed: an"),
        (packed(ROOT, ("variables.json", b'{"A":1}', tarfile.REGTYPE)), "variables.json: 'A' is refused"),
        (archive({"A": "b"})[:1200], "the archive is refused: "),
        (archive({"LD_PRELOAD": "x"}), "variables.json: 'LD_PRELOAD' is refused; allowed: A, OPENAI_API_KEY"),
        (archive({"A": "b\0"}), "variables.json: A has a control character"),
    ],
)
def test_what_is_handed_over_is_variables_alone(content: bytes, where: str) -> None:
    with pytest.raises(Refused) as caught:
        RULES.read("PUT", HAND_OVER, content)
    assert str(caught.value).startswith(where)


def test_what_is_handed_over_is_packed_anew() -> None:
    sent = packed(("/etc", b"", tarfile.DIRTYPE), ("variables.json", b'{"A": "b"}', tarfile.REGTYPE))
    asked = RULES.read("PUT", HAND_OVER, sent)
    assert asked.body == archive({"A": "b"})
    assert asked.target("1") == "/v1.41/containers/1/archive?path=%2Frun%2Fswitchboard"


@pytest.mark.parametrize("path", ["/", "/run", "/run/switchboard/..", "/proc", ""])
def test_it_is_handed_over_to_its_place_alone(path: str) -> None:
    target = f"/v1.41/containers/calls-m-1/archive?path={path}"
    with pytest.raises(Refused, match=f"path: '{path}' is refused; allowed: /run/switchboard"):
        RULES.read("PUT", target, archive({"A": "b"}))


def test_a_body_where_none_belongs_is_refused_whatever_the_method() -> None:
    for method in ("PUT", "POST", "GET", "DELETE"):
        with pytest.raises(Refused):
            RULES.read(method, "/v1.41/containers/calls-m-1/start", b"{}")


def test_an_agents_variable_may_have_many_lines() -> None:
    key = "A=-----BEGIN PRIVATE KEY-----\r\nMIIE\tü\n-----END PRIVATE KEY-----\n"
    facts = replace(FACTS, environment=(key,), arguments=("--body", '{"text": "one\ntwo"}'))
    ask = RULES.read("POST", CREATE, json.dumps(wanted(facts)).encode())
    assert ask.body == json.dumps(wanted(facts)).encode()


def test_another_program_than_a_bot() -> None:
    assert "Entrypoint" in refusal(wanted() | {"Entrypoint": ["/bin/sh", "-c", "3600"]})
    entrypoint = ["timeout", "--kill-after=10", "3600", "sh", "-P", "-m", "bot"]
    assert refusal(wanted() | {"Entrypoint": entrypoint}).startswith("Entrypoint: ")


@pytest.mark.parametrize("label", ["switchboard.deployment", "switchboard.machine", "switchboard.memory-mb"])
def test_a_container_that_is_not_known_as_the_deployments(label: str) -> None:
    made = wanted()
    made["Labels"][label] = "other"
    assert f"Labels.{label}" in refusal(made)
    del made["Labels"][label]
    assert f"Labels.{label}" in refusal(made)


@pytest.mark.parametrize(
    "name",
    [
        *("", "dispatcher", "calls-", "calls-../x", "callsm-1", "calls-m-1/exec", "calls-m-"),
        # The stack's own, which are not there for a moment while they are replaced.
        *("calls-dispatcher", "calls-engine-proxy", "calls-caddy", "calls-turn"),
    ],
)
def test_a_name_that_is_not_the_deployments(name: str) -> None:
    assert "is refused" in refusal(wanted(), f"/v1.41/containers/create?name={name}")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"HostConfig": NaN}', b"[" * 100_000, b"{} {}"],
)
def test_what_is_no_object(content: bytes) -> None:
    refusal(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(value=json_values, name=st.sampled_from(sorted({*OF_THE_HOST, *wanted()["HostConfig"]})))
def test_nothing_but_the_providers_own_body_is_ever_sent(name: str, value: Any) -> None:
    """Whatever a member of HostConfig is set to: it is refused, or it is what the provider would say."""
    content = json.dumps(with_host(**{name: value})).encode()
    try:
        ask = RULES.read("POST", CREATE, content)
    except Refused:
        return
    assert ask.body is not None
    sent = json.loads(ask.body)["HostConfig"]
    assert {**sent, "NanoCpus": 0} == {**wanted()["HostConfig"], "NanoCpus": 0}
    assert 0 < sent["NanoCpus"] <= 2_000_000_000


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1.41/containers/calls-m-1/../../info"),
        ("GET", "/v1.41/containers/calls-m-1%2Fjson"),
        ("GET", "/v1.41/containers/%63alls-m-1/json"),
        ("GET", "/v1.41//info"),
        ("GET", "//v1.41/info"),
        ("GET", "/v1.41/./info"),
        ("GET", "/v1.40/info"),
        ("GET", "/V1.41/info"),
        ("GET", "/info"),
        ("GET", "/v1.41/info/"),
        ("GET", "http://engine/v1.41/info"),
        ("GET", "/v1.41/info?x=1"),
        ("GET", "/v1.41/info#x"),
        ("OPTIONS", "*"),
        ("HEAD", "/v1.41/info"),
        ("get", "/v1.41/info"),
        ("GET", "/v1.41/version"),
        ("GET", "/v1.41/events"),
        ("GET", "/v1.41/system/df"),
        ("GET", "/v1.41/images/json"),
        ("GET", "/v1.41/images/bots/other/json"),
        ("DELETE", "/v1.41/images/bots/echo:1"),
        ("POST", "/v1.41/images/load"),
        ("POST", "/v1.41/images/create?fromImage=bots/other"),
        ("POST", "/v1.41/images/create?fromSrc=-"),
        ("POST", "/v1.41/images/create?fromImage=bots/echo:1&tag=2"),
        ("POST", "/v1.41/images/create?fromImage=bots/plain&tag=sha256:0"),
        ("POST", "/v1.41/images/create?fromImage=bots/plain&tag="),
        ("POST", "/v1.41/images/create?fromImage=bots/echo:1&fromImage=bots/other"),
        ("POST", "/v1.41/build"),
        ("POST", "/v1.41/auth"),
        ("GET", "/v1.41/containers/json"),
        ("GET", "/v1.41/containers/json?all=true"),
        ("GET", "/v1.41/containers/json?all=true&filters={}"),
        ("GET", '/v1.41/containers/json?all=true&filters={"label":["switchboard.deployment=other"]}'),
        ("POST", "/v1.41/containers/calls-m-1/exec"),
        ("POST", "/v1.41/containers/calls-m-1/attach"),
        ("POST", "/v1.41/containers/calls-m-1/update"),
        ("POST", "/v1.41/containers/calls-m-1/rename?name=x"),
        ("POST", "/v1.41/containers/calls-m-1/restart"),
        ("POST", "/v1.41/containers/calls-m-1/kill"),
        ("GET", "/v1.41/containers/calls-m-1/export"),
        ("GET", "/v1.41/containers/calls-m-1/archive?path=/"),
        ("PUT", "/v1.41/containers/calls-m-1/archive?path=/"),
        ("GET", "/v1.41/containers/calls-m-1/top"),
        ("GET", "/v1.41/containers/calls-m-1/stats"),
        ("GET", "/v1.41/containers/calls-m-1/logs?stdout=true&follow=1&tail=20"),
        ("GET", "/v1.41/containers/calls-m-1/logs?stdout=true"),
        ("GET", "/v1.41/containers/calls-m-1/logs?follow=0&tail=20&since=1700000000"),
        ("GET", "/v1.41/containers/calls-m-1/logs?follow=0&tail=20&since=1h"),
        ("GET", "/v1.41/containers/calls-m-1/logs?follow=0&tail=20&until=1"),
        ("POST", "/v1.41/containers/calls-m-1/stop"),
        ("POST", "/v1.41/containers/calls-m-1/stop?t=-1"),
        ("POST", "/v1.41/containers/calls-m-1/stop?t=1&signal=SIGSTOP"),
        ("GET", "/v1.41/containers/0123456789ab/json"),
        ("GET", "/v1.41/containers/dispatcher/json"),
        ("POST", "/v1.41/containers/prune"),
        ("POST", "/v1.41/networks/create"),
        ("GET", "/v1.41/networks"),
        ("POST", "/v1.41/volumes/create"),
        ("GET", "/v1.41/volumes"),
        ("POST", "/v1.41/plugins/pull"),
        ("POST", "/v1.41/swarm/init"),
        ("GET", "/v1.41/secrets"),
        ("POST", "/v1.41/session"),
        ("POST", "/grpc"),
        ("GET", "/v1.41/distribution/bots/echo:1/json"),
    ],
)
def test_a_call_that_is_not_the_providers(method: str, target: str) -> None:
    with pytest.raises(Refused):
        RULES.read(method, target, b"")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1.41/info"),
        ("POST", "/v1.41/containers/calls-m-1/start"),
        ("POST", "/v1.41/containers/calls-m-1/stop?t=5"),
        ("DELETE", "/v1.41/containers/calls-m-1?force=True&v=True"),
    ],
)
def test_a_body_where_there_is_none(method: str, target: str) -> None:
    assert RULES.read(method, target, b"").body is None
    with pytest.raises(Refused, match="no body"):
        RULES.read(method, target, b'{"HostConfig": {"Privileged": true}}')


@pytest.mark.parametrize("image", SETTINGS.images)
def test_the_deployments_images_may_be_looked_up_and_pulled(image: str) -> None:
    assert RULES.read("GET", f"/v1.41/images/{image}/json", b"").target() == f"/v1.41/images/{image}/json"
    target = f"/v1.41/images/create?fromImage={image}"
    # Of a name without a tag the engine would pull all tags that there are.
    wanted = {"fromImage": image, **({"tag": "latest"} if image == "bots/plain" else {})}
    assert RULES.read("POST", target, b"").query == wanted
    if "tag" in wanted:
        assert RULES.read("POST", f"{target}&tag=latest", b"").query == wanted


@pytest.mark.parametrize(
    "image",
    [
        "bots/echo:1",
        "bots/echo:2.x-y_z",
        f"bots/echo@sha256:{'a' * 64}",
        f"bots/echo:1@sha256:{'0' * 64}",
        "docker.io/bots/echo:1",
    ],
)
def test_any_version_of_a_repository_may_be_run(image: str) -> None:
    rules = Rules(SETTINGS.model_copy(update={"images": (), "repositories": ("bots/echo",)}))
    target = f"/v1.41/images/{image}/json"
    assert rules.read("GET", target, b"").target() == target


@pytest.mark.parametrize(
    "image",
    [
        "bots/echo",
        "bots/echo:",
        "bots/echo@",
        "bots/echo@sha256:1",
        "bots/echo:../x",
        "bots/echo:1:2",
        f"bots/echo:{'1' * 129}",
        "bots/echo2:1",
        "bots:1",
        "registry.example/bots/echo:1",
        "localhost/bots/echo:1",
        "bots/echo/more:1",
        f"sha256:{'a' * 64}",
    ],
)
def test_no_other_image_than_a_version_of_the_repository_may_be_run(image: str) -> None:
    rules = Rules(SETTINGS.model_copy(update={"images": (), "repositories": ("bots/echo",)}))
    for method, target in (("GET", f"images/{image}/json"), ("POST", f"images/create?fromImage={image}")):
        with pytest.raises(Refused):
            rules.read(method, f"/v1.41/{target}", b"")


@pytest.mark.parametrize("name", ["sha256", "bots/echo:1", "bots/echo@sha256:1", "", "-x"])
def test_a_repository_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        ProxySettings.model_validate(SETTINGS.model_dump() | {"repositories": (name,)})
