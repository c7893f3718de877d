"""Each kind of resource of the cloud `fly`, asked as the engine asks it, against the fake of Fly's API."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pulumi.runtime.rpc import UNKNOWN

from stacks.fly.addresses import CertificateProvider, IpAddressProvider
from stacks.fly.api import Fly, FlyError, FlyMisread, FlyRefused, FlyUnanswered
from stacks.fly.apps import AppProvider
from stacks.fly.bots import MachinesProvider
from stacks.fly.machines import MachineProvider, restricted
from stacks.fly.resource import Kind
from stacks.fly.secrets import SecretsProvider
from stacks.fly.tokens import DeployTokenProvider, bare, period_of
from stacks.fly.volumes import VolumeProvider
from tests.fly import faults
from tests.fly.fake import FakeFly
from tests.fly.machines import Lease
from tests.fly.rates import Limits
from tests.fly.wire import Answer, Call, served

K = TypeVar("K", bound=Kind)

APP = {"name": "voice", "org": "tests", "network": "voice"}
CONFIG: dict[str, Any] = {
    "image": "registry.fly.io/voice@sha256:" + "0" * 64,
    "env": {"A": "1"},
    "guest": {"cpu_kind": "shared", "cpus": 2.0, "memory_mb": 1024.0},
    "services": [
        {
            "internal_port": 7860.0,
            "autostop": "off",
            "ports": [{"port": 443.0, "handlers": ["tls", "http"]}],
            "checks": [{"type": "http", "path": "/readyz"}],
        }
    ],
}
MACHINE = {
    "app": "voice",
    "name": "voice-0",
    "region": "iad",
    "config": CONFIG,
    "secretsVersion": 0.0,
    "readySeconds": 1.0,
    "state": "started",
}
VOLUME = {"app": "voice", "name": "store", "region": "iad", "sizeGb": 1.0, "snapshotDays": 5.0}


class World:
    """The fake, behind a port, and resources that talk to it as the owner of its organisation."""

    def __init__(self, fake: FakeFly, url: str) -> None:
        self.fake = fake
        self.url = url
        self.pauses: list[float] = []
        self.fly = Fly(fake.token(), url, sleep=self._pause)

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        time.sleep(min(seconds, 0.02))

    def kind(self, kind: type[K]) -> K:
        """Make a kind as the engine's host makes it."""
        made = kind()
        made.fly = self.fly
        return made

    def create(self, kind: type[Kind], props: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        made = self.kind(kind).create(props)
        assert made.id is not None
        assert made.outs is not None
        return made.id, made.outs

    def update(
        self, kind: type[Kind], id_: str, olds: dict[str, Any], news: dict[str, Any]
    ) -> dict[str, Any]:
        outs = self.kind(kind).update(id_, olds, news).outs
        assert outs is not None
        return outs

    def read(self, kind: type[Kind], id_: str, props: dict[str, Any]) -> dict[str, Any]:
        outs = self.kind(kind).read(id_, props).outs
        assert outs is not None
        return outs


class Turns:
    """One port for the fakes of all tests, since a server takes its time to begin and to end."""

    fake: FakeFly

    async def handle(self, call: Call) -> Answer:
        return await self.fake.handle(call)


@pytest.fixture(scope="module")
def turns() -> Iterator[tuple[Turns, str]]:
    made = Turns()
    with served(made) as url:
        yield made, url


@pytest.fixture
def world(turns: tuple[Turns, str]) -> Iterator[World]:
    current, url = turns
    fake = current.fake = FakeFly(limits=Limits(everything=None))
    fake.prepare_seconds = fake.boot_seconds = fake.destroy_seconds = 0.01
    made = World(fake, url)
    yield made
    made.fly.close()
    assert fake.violations == []


@pytest.fixture
def app(world: World) -> World:
    world.create(AppProvider, APP)
    return world


def changes(kind: Kind, olds: dict[str, Any], news: dict[str, Any]) -> tuple[bool, list[str]]:
    diff = kind.diff("id", olds, news)
    return bool(diff.changes), sorted(diff.replaces or [])


def is_gone(kind: Kind, id_: str, props: dict[str, Any]) -> bool:
    return kind.read(id_, props).id == ""


# Apps.


def test_an_app_is_made_read_and_deleted(world: World) -> None:
    id_, outs = world.create(AppProvider, APP)
    assert (id_, world.fake.apps["voice"].network) == ("voice", "voice")
    kind = world.kind(AppProvider)
    assert not is_gone(kind, id_, outs)
    assert changes(kind, outs, APP) == (False, [])
    assert changes(kind, outs, {**APP, "name": "another"}) == (True, ["name"])
    kind.delete(id_, outs)
    assert world.fake.apps == {}
    assert is_gone(kind, id_, outs)
    kind.delete(id_, outs)


def test_an_app_whose_creates_answer_was_lost_is_found_by_its_name(world: World) -> None:
    world.fake.faults.order("Apps_create", faults.LOST_REPLY)
    assert world.create(AppProvider, APP)[0] == "voice"
    assert world.fake.count("Apps_create") == 1


def test_an_app_that_somebody_uses_is_not_taken_over_unless_it_is_named(world: World) -> None:
    world.fake.app("voice").network = "default"
    with pytest.raises(FlyRefused, match=r"there is an app voice already.*switchboard:fly\.adopt"):
        world.create(AppProvider, APP)
    assert world.create(AppProvider, {**APP, "adoptId": "voice"})[0] == "voice"
    assert world.fake.count("Apps_create") == 0


def test_an_app_stays_in_its_organisation_and_network(world: World) -> None:
    kind = world.kind(AppProvider)
    for name in ("org", "network"):
        (failure,) = kind.check(APP, {**APP, name: "other"}).failures
        assert failure.reason.startswith(
            f"switchboard:fly.{name}: 'other' is refused for the app voice; allowed: {APP[name]!r}, since"
        )
    assert kind.check({}, APP).failures == []
    assert kind.check(APP, APP).failures == []


def test_an_app_keeps_its_name_and_a_network_of_that_name_is_not_told_as_well(world: World) -> None:
    kind = world.kind(AppProvider)
    (failure,) = kind.check(APP, {**APP, "name": "another", "network": "another"}).failures
    assert failure.reason.startswith("switchboard:fly.prefix: the app voice would be another, another one")


def test_where_fly_says_that_an_app_is_forces_no_replacement(world: World) -> None:
    # `personal` stands for an organisation with another slug, and the network is that of who made the app.
    world.fake.app("voice").network = "default"
    world.fake.apps["voice"].org = "acme-17"
    wanted = {**APP, "org": "personal"}
    id_, outs = world.create(AppProvider, {**wanted, "adoptId": "voice"})
    kind = world.kind(AppProvider)
    for seen in (outs, world.read(AppProvider, id_, outs)):
        assert changes(kind, seen, wanted) == (False, [])


def test_a_name_that_another_organisation_has_is_told(world: World) -> None:
    world.fake.taken.add("voice")
    with pytest.raises(FlyRefused, match="the app belongs to another organization"):
        world.create(AppProvider, APP)


# Secrets.


def test_secrets_are_set_changed_and_removed(app: World) -> None:
    id_, outs = app.create(SecretsProvider, {"app": "voice", "values": {"A": "one", "B": "two"}})
    assert app.fake.apps["voice"].secrets == {"A": "one", "B": "two"}
    kind = app.kind(SecretsProvider)
    news = {"app": "voice", "values": {"A": "one", "C": "three"}}
    assert changes(kind, outs, news) == (True, [])
    after = app.update(SecretsProvider, id_, outs, news)
    assert app.fake.apps["voice"].secrets == {"A": "one", "C": "three"}
    assert after["version"] > outs["version"], "machines must be told that there are others"
    kind.delete(id_, after)
    assert app.fake.apps["voice"].secrets == {}


def test_a_secret_that_somebody_changed_or_removed_is_found_and_set_again(app: World) -> None:
    props = {"app": "voice", "values": {"A": "one", "B": "two", "C": "three"}}
    id_, outs = app.create(SecretsProvider, props)
    app.fake.apps["voice"].secrets |= {"A": "another", "THEIRS": "kept"}
    del app.fake.apps["voice"].secrets["B"]
    kind = app.kind(SecretsProvider)
    seen = app.read(SecretsProvider, id_, outs)
    assert seen["values"] == {"C": "three"}
    assert changes(kind, seen, props) == (True, [])
    kind.update(id_, seen, props)
    assert app.fake.apps["voice"].secrets == {**props["values"], "THEIRS": "kept"}


def test_a_run_without_a_variable_does_not_take_it_away(app: World) -> None:
    kind = app.kind(SecretsProvider)
    outside = {"HOOK_SECRET": "HOOK", "OTEL_*": "", "NEVER": "NEVER"}
    before = {"app": "voice", "values": {"HOOK_SECRET": "hunter2", "OTEL_KEY": "hunter2", "OLD": "hunter2"}}
    news = {"app": "voice", "values": {}, "outside": outside}
    said = [failure.reason for failure in kind.check(before, news).failures]
    allowed = (
        "is not set here, and app voice has it; allowed: its value in the environment (set it empty to do"
    )
    assert [reason.partition(": ")[0] for reason in said] == ["HOOK", "OTEL_KEY"]
    assert all(f": {allowed}" in reason and "hunter2" not in reason for reason in said)
    assert kind.check({}, news).failures == []
    assert kind.check(before, {**before, "outside": outside}).failures == []
    assert kind.check(before, {**news, "values": UNKNOWN}).failures == []


def test_no_secrets_are_no_call(app: World) -> None:
    assert app.create(SecretsProvider, {"app": "voice", "values": {}})[1]["version"] == 0
    assert app.fake.count("Secrets_update") == 0


# Addresses and certificates.


@pytest.mark.parametrize("kind", ["shared_v4", "v6"])
def test_an_address_is_made_once_though_the_answer_is_lost(app: World, kind: str) -> None:
    app.create(IpAddressProvider, {"app": "voice", "type": "v6" if kind == "shared_v4" else "shared_v4"})
    app.fake.faults.order("App_IPAssignments_create", faults.LOST_REPLY)
    props = {"app": "voice", "type": kind}
    id_, outs = app.create(IpAddressProvider, props)
    assert len(app.fake.apps["voice"].ips) == 2
    assert (":" in id_) == (kind == "v6")
    provider = app.kind(IpAddressProvider)
    assert not is_gone(provider, id_, outs)
    provider.delete(id_, outs)
    assert is_gone(provider, id_, outs)
    assert len(app.fake.apps["voice"].ips) == 1


def test_a_certificate_tells_which_records_it_needs(app: World) -> None:
    app.create(IpAddressProvider, {"app": "voice", "type": "shared_v4"})
    id_, outs = app.create(CertificateProvider, {"app": "voice", "hostname": "voice.example.com"})
    assert "voice.example.com A 66.241.124.1" in outs["records"]
    assert app.create(CertificateProvider, {"app": "voice", "hostname": "voice.example.com"})[1] == outs
    kind = app.kind(CertificateProvider)
    kind.delete(id_, outs)
    assert is_gone(kind, id_, outs)


# Volumes.


def test_a_volume_grows_and_never_shrinks(app: World) -> None:
    id_, outs = app.create(VolumeProvider, VOLUME)
    kind = app.kind(VolumeProvider)
    larger = {**VOLUME, "sizeGb": 3.0, "snapshotDays": 9.0}
    assert changes(kind, outs, larger) == (True, [])
    after = app.update(VolumeProvider, id_, outs, larger)
    (volume,) = app.fake.apps["voice"].volumes.values()
    assert (volume["size_gb"], volume["snapshot_retention"], volume["encrypted"]) == (3, 9, True)
    (failure,) = kind.check(after, VOLUME).failures
    assert failure.reason == (
        "switchboard:fly.volumeGb: 1 is refused; allowed: 3 or more, since a volume does not shrink"
    )
    assert kind.check({}, VOLUME).failures == []


def test_a_store_does_not_go_with_its_region(app: World) -> None:
    (failure,) = app.kind(VolumeProvider).check(VOLUME, {**VOLUME, "region": "lhr"}).failures
    assert failure.reason.startswith(
        "switchboard:fly.regions: 'lhr' is refused as the first; allowed: 'iad', since the store is a volume"
    )


def test_another_volume_is_another_machine(app: World) -> None:
    one, other = (app.create(VolumeProvider, {**VOLUME, "name": name})[0] for name in ("one", "other"))
    mounted = [
        {**MACHINE, "config": {**CONFIG, "mounts": [{"volume": volume, "path": "/data"}]}}
        for volume in (one, other)
    ]
    id_, outs = app.create(MachineProvider, mounted[0])
    kind = app.kind(MachineProvider)
    assert changes(kind, outs, mounted[0]) == (False, [])
    for wanted in (mounted[1], MACHINE):
        assert changes(kind, app.read(MachineProvider, id_, outs), wanted) == (True, ["config"])
    with pytest.raises(FlyRefused, match="mounts cannot be changed"):
        kind.update(id_, outs, mounted[1])


def test_a_volume_whose_creates_answer_was_lost_is_found(app: World) -> None:
    app.fake.faults.order("Volumes_create", faults.LOST_REPLY)
    id_, outs = app.create(VolumeProvider, VOLUME)
    assert list(app.fake.apps["voice"].volumes) == [id_]
    kind = app.kind(VolumeProvider)
    app.fake.apps["voice"].volumes[id_]["size_gb"] = 2
    assert app.read(VolumeProvider, id_, outs) == {**outs, "sizeGb": 2, "region": "iad", "snapshotDays": 5}
    kind.delete(id_, outs)
    assert is_gone(kind, id_, outs)


def test_a_volume_that_a_machine_uses_is_not_taken_for_a_lost_one(app: World) -> None:
    id_, _ = app.create(VolumeProvider, VOLUME)
    mounted = {**CONFIG, "mounts": [{"volume": id_, "path": "/data"}]}
    app.create(MachineProvider, {**MACHINE, "config": mounted})
    assert app.create(VolumeProvider, VOLUME)[0] != id_


@pytest.mark.parametrize(
    ("mounts", "replaced"),
    [
        ([{"volume": "vol_1", "path": "/data"}], []),
        ([{"volume": "vol_2", "path": "/data"}], ["config"]),
        # A volume that is still to be made is another one.
        ([{"volume": UNKNOWN, "path": "/data"}], ["config"]),
        ([{"volume": "vol_1", "path": "/store"}], ["config"]),
        ([], ["config"]),
    ],
)
@pytest.mark.parametrize("image", ["registry.fly.io/voice@sha256:1", UNKNOWN])
def test_another_mount_replaces_a_machine_and_another_image_does_not(
    app: World, mounts: list[dict[str, str]], replaced: list[str], image: str
) -> None:
    before = {**CONFIG, "mounts": [{"volume": "vol_1", "path": "/data"}]}
    after = {**CONFIG, "mounts": mounts, "image": image}
    found = changes(app.kind(MachineProvider), {**MACHINE, "config": before}, {**MACHINE, "config": after})
    assert found == (True, replaced)


def test_a_config_that_is_not_known_yet_replaces_no_machine(app: World) -> None:
    before = {**CONFIG, "mounts": [{"volume": "vol_1", "path": "/data"}]}
    found = changes(app.kind(MachineProvider), {**MACHINE, "config": before}, {**MACHINE, "config": UNKNOWN})
    assert found == (True, [])


# Deploy tokens.


def test_a_token_is_good_for_its_app_until_it_expires_and_a_new_one_beside_it(app: World) -> None:
    props = {"app": "voice", "days": 2.0, "period": "2026-11-20"}
    id_, outs = app.create(DeployTokenProvider, props)
    kind = app.kind(DeployTokenProvider)
    later = {**props, "period": "2026-11-21"}
    assert changes(kind, outs, props) == (False, [])
    assert changes(kind, outs, later) == (True, [])
    after = app.update(DeployTokenProvider, id_, outs, later)
    assert after["token"] != outs["token"]
    old, new = (app.fake.tokens[bare(one["token"])] for one in (outs, after))
    assert old.app == new.app == "voice"
    left = old.expires_at - app.fake.clock.now()
    assert 2 * 86400 - 60 < left <= 2 * 86400, "the old one is good until the dispatcher has the new one"


def test_a_token_that_fly_does_not_take_any_more_is_made_anew(app: World) -> None:
    id_, outs = app.create(DeployTokenProvider, {"app": "voice", "days": 2.0, "period": "2026-11-20"})
    kind = app.kind(DeployTokenProvider)
    assert not is_gone(kind, id_, outs)
    del app.fake.tokens[bare(outs["token"])]
    assert is_gone(kind, id_, outs)


@pytest.mark.parametrize("printed", ["FlyV1 {}", "{}"])
def test_the_organizations_token_is_taken_as_fly_prints_it(world: World, printed: str) -> None:
    fly = Fly(printed.format(world.fake.token()), world.url)
    assert fly.get("apps/none") is None, "a token that cannot be read would be refused"
    fly.close()


@given(st.dates(min_value=datetime.date(2020, 1, 1)), st.integers(2, 365), st.integers(0, 400))
def test_a_token_is_renewed_while_it_is_still_good(made: datetime.date, days: int, later: int) -> None:
    try:
        today = made + datetime.timedelta(days=later)
    except OverflowError:
        return
    if period_of(today, days) == period_of(made, days):
        assert later < max(days // 2, 1), "it has at least half of its days left"


# Machines.


def test_a_machine_is_made_read_updated_and_ended(app: World) -> None:
    id_, outs = app.create(MachineProvider, MACHINE)
    machine = app.fake.apps["voice"].machines[id_]
    assert machine.state == "started"
    assert machine.config["guest"]["cpus"] == 2
    kind = app.kind(MachineProvider)
    seen = app.read(MachineProvider, id_, outs)
    assert changes(kind, seen, MACHINE) == (False, [])
    news = {**MACHINE, "config": {**CONFIG, "env": {"A": "2"}}}
    assert changes(kind, outs, news) == (True, [])
    version = machine.instance_id
    after = app.update(MachineProvider, id_, outs, news)
    assert (machine.config["env"], machine.instance_id != version) == ({"A": "2"}, True)
    assert not machine.cordoned
    assert machine.held_lease() is None
    order = [one.operation.removeprefix("Machines_") for one in app.fake.calls]
    steps = ["create_lease", "cordon", "update", "uncordon", "release_lease"]
    assert [one for one in order if one in steps] == steps
    kind.delete(id_, after)
    assert machine.gone
    assert is_gone(kind, id_, after)
    kind.delete(id_, after)


def test_a_machine_whose_creates_answer_was_lost_is_found_by_its_name(app: World) -> None:
    app.fake.faults.order("Machines_create", faults.LOST_REPLY)
    id_, _ = app.create(MachineProvider, MACHINE)
    assert list(app.fake.apps["voice"].machines) == [id_]


def test_what_a_failed_run_left_is_brought_to_what_is_wanted(app: World) -> None:
    app.fake.passes = lambda machine, _: machine.config["env"]["A"] == "1"
    bad = {**MACHINE, "config": {**CONFIG, "env": {"A": "bad"}}}
    with pytest.raises(
        FlyRefused, match=r"voice-0 was not healthy within 1 s \(it is started, and not passing"
    ):
        app.create(MachineProvider, bad)
    id_, _ = app.create(MachineProvider, MACHINE)
    (machine,) = app.fake.living()
    assert (machine.id, machine.config["env"]) == (id_, {"A": "1"})


def test_an_up_that_failed_for_a_bad_secret_goes_on_once_it_is_good(app: World) -> None:
    secrets = app.fake.apps["voice"].secrets
    seen: dict[str, str] = {}
    # What a version of a machine was started with, it keeps.
    app.fake.passes = lambda machine, _: seen.setdefault(machine.instance_id, secrets["KEY"]) == "good"
    app.create(SecretsProvider, {"app": "voice", "values": {"KEY": "bad"}})
    with pytest.raises(FlyRefused, match="not healthy"):
        app.create(MachineProvider, {**MACHINE, "secretsVersion": 1.0})
    app.create(SecretsProvider, {"app": "voice", "values": {"KEY": "good"}})
    app.create(MachineProvider, {**MACHINE, "secretsVersion": 2.0})
    (machine,) = app.fake.living()
    assert seen[machine.instance_id] == "good"


def test_a_machine_whose_boot_failed_is_booted_again_by_the_next_up(app: World) -> None:
    app.fake.boots("fails")
    with pytest.raises(FlyRefused, match="the machine voice-0 is failed"):
        app.create(MachineProvider, MACHINE)
    id_, _ = app.create(MachineProvider, MACHINE)
    (machine,) = app.fake.living()
    assert (machine.id, machine.state) == (id_, "started")


@pytest.mark.parametrize("fault", [faults.LOST_REPLY, faults.LOST_REQUEST, faults.BROKEN])
@pytest.mark.parametrize("operation", ["Machines_cordon", "Machines_uncordon"])
def test_a_machine_is_not_left_without_callers(app: World, operation: str, fault: faults.Fault) -> None:
    id_, outs = app.create(MachineProvider, MACHINE)
    app.fake.faults.order(operation, fault, times=2)
    app.update(MachineProvider, id_, outs, {**MACHINE, "config": {**CONFIG, "env": {"A": "2"}}})
    machine = app.fake.apps["voice"].machines[id_]
    assert (machine.cordoned, machine.config["env"]) == (False, {"A": "2"})


def test_a_failed_update_puts_callers_back_or_says_that_it_could_not(app: World) -> None:
    id_, outs = app.create(MachineProvider, MACHINE)
    machine = app.fake.apps["voice"].machines[id_]
    news = {**MACHINE, "config": {**CONFIG, "env": {"A": "2"}}}
    app.fake.faults.order("Machines_cordon", faults.BROKEN, times=5)
    app.fake.faults.order("Machines_uncordon", faults.BROKEN)
    with pytest.raises(FlyUnanswered, match="cordon: 500"):
        app.update(MachineProvider, id_, outs, news)
    assert not machine.cordoned
    app.fake.faults.order("Machines_update", faults.error(400, "no such image"), times=2)
    app.fake.faults.order("Machines_uncordon", faults.BROKEN, times=5)
    with pytest.raises(FlyRefused, match=r"no such image; .*; and .*until `fly machine uncordon`"):
        app.update(MachineProvider, id_, outs, news)
    assert machine.held_lease() is None
    app.update(MachineProvider, id_, outs, news)
    assert not machine.cordoned


def test_a_machine_that_was_stopped_by_hand_is_a_difference_and_is_started(app: World) -> None:
    id_, outs = app.create(MachineProvider, MACHINE)
    path = f"apps/voice/machines/{id_}"
    app.fly.ask("POST", f"{path}/stop", {"signal": "SIGKILL"})
    machine = app.fake.apps["voice"].machines[id_]
    app.fly.until("it did not stop", 5, lambda: machine.state == "stopped" or None)
    seen = app.read(MachineProvider, id_, outs)
    assert changes(app.kind(MachineProvider), seen, MACHINE) == (True, [])
    after = app.update(MachineProvider, id_, seen, MACHINE)
    assert machine.state == "started"
    assert changes(app.kind(MachineProvider), after, MACHINE) == (False, [])


def test_a_lease_is_read_in_both_of_its_forms(app: World) -> None:
    id_, outs = app.create(MachineProvider, MACHINE)
    machine = app.fake.apps["voice"].machines[id_]
    machine.lease = Lease("known", app.fake.clock.now() + 60, "")
    # As the description has it; the documentation, and the fake, have it in an envelope.
    app.fake.faults.order("Machines_create_lease", faults.Fault(Answer(201, {"nonce": "known"})))
    app.update(MachineProvider, id_, outs, {**MACHINE, "secretsVersion": 3.0})
    assert machine.held_lease() is None
    assert app.fake.violations.pop() == "Machines_create_lease 201: not in its envelope"


def test_a_machine_that_does_not_get_healthy_gets_back_what_it_had(app: World) -> None:
    id_, outs = app.create(MachineProvider, MACHINE)
    machine = app.fake.apps["voice"].machines[id_]
    app.fake.passes = lambda machine, _: machine.config["env"]["A"] == "1"
    with pytest.raises(FlyRefused, match=r"not healthy within 1 s.*; it has what it had before"):
        app.kind(MachineProvider).update(id_, outs, {**MACHINE, "config": {**CONFIG, "env": {"A": "bad"}}})
    assert machine.config["env"] == {"A": "1"}
    assert not machine.cordoned
    assert machine.held_lease() is None


def test_a_machine_that_cannot_boot_is_told_at_once(app: World) -> None:
    app.fake.boots("fails")
    with pytest.raises(FlyRefused, match="the machine voice-0 is failed"):
        app.create(MachineProvider, {**MACHINE, "readySeconds": 60.0})


def test_an_update_waits_for_whoever_holds_the_machine(app: World) -> None:
    id_, outs = app.create(MachineProvider, MACHINE)
    app.fake.faults.order(
        "Machines_create_lease", faults.error(409, "aborted: lease currently held"), times=3
    )
    app.kind(MachineProvider).update(id_, outs, {**MACHINE, "secretsVersion": 3.0})
    assert app.fake.count("Machines_create_lease") == 4
    assert app.fake.count("Machines_update") == 1


def test_what_was_changed_by_hand_is_a_difference_and_what_fly_adds_is_none(app: World) -> None:
    id_, outs = app.create(MachineProvider, MACHINE)
    machine = app.fake.apps["voice"].machines[id_]
    kind = app.kind(MachineProvider)
    machine.config |= {"metadata": {"fly_release": "3"}, "dns": {}}
    seen = app.read(MachineProvider, id_, outs)
    assert changes(kind, seen, MACHINE) == (False, [])
    machine.config["env"]["B"] = "by hand"
    seen = app.read(MachineProvider, id_, outs)
    assert changes(kind, seen, MACHINE) == (True, [])


def test_the_shape_of_what_is_wanted_decides_what_is_looked_at() -> None:
    found = {"env": {"A": "1", "B": "2"}, "guest": {"cpus": 2, "more": 1}, "list": [1, 2], "added": True}
    wanted = {"env": {"A": "1"}, "guest": {"cpus": 4}, "list": [1], "missing": 1}
    assert restricted(found, wanted) == {"env": {"A": "1", "B": "2"}, "guest": {"cpus": 2}, "list": [1, 2]}
    # "the API continues to use booleans for off and stop in responses" (its description)
    assert restricted({"autostop": False}, {"autostop": "off"}) == {"autostop": "off"}
    assert restricted({"autostop": True}, {"autostop": "off"}) == {"autostop": "stop"}


def test_the_end_of_an_app_ends_the_machines_that_no_state_knows(app: World) -> None:
    for number in range(3):
        bot = {**CONFIG, "auto_destroy": True, "restart": {"policy": "no"}}
        app.create(MachineProvider, {**MACHINE, "name": f"bot-{number}", "config": bot})
    kind = app.kind(MachinesProvider)
    id_, outs = app.create(MachinesProvider, {"app": "voice"})
    app.fake.faults.order("Machines_stop", faults.BROKEN)
    kind.delete(id_, outs)
    assert app.fake.living() == []
    assert not is_gone(kind, id_, outs)
    kind.delete(id_, {"app": "never-there"})


def test_who_holds_a_machine_at_the_end_is_waited_for_and_the_others_end_meanwhile(app: World) -> None:
    held, *others = (app.create(MachineProvider, {**MACHINE, "name": f"bot-{n}"})[0] for n in range(3))
    machines = app.fake.apps["voice"].machines
    machines[held].lease = Lease("theirs", app.fake.clock.now() + 0.3, "")
    id_, outs = app.create(MachinesProvider, {"app": "voice"})
    app.kind(MachinesProvider).delete(id_, outs)
    assert [machines[one].gone for one in (held, *others)] == [True, True, True]
    assert app.fake.count("Machines_stop", 409) >= 1
    assert app.fake.count("Machines_stop", 200) == 3, "each could say goodbye"


def test_what_does_not_end_is_told_after_all_were_tried(app: World) -> None:
    for number in range(3):
        app.create(MachineProvider, {**MACHINE, "name": f"bot-{number}"})
    id_, outs = app.create(MachinesProvider, {"app": "voice"})
    app.fake.faults.order("Machines_delete", faults.error(403, "unauthorized"))
    with pytest.raises(FlyError, match=r"of 3 machines of voice, 1 did not end: Fly refused DELETE .*403"):
        app.kind(MachinesProvider).delete(id_, outs)
    assert len(app.fake.living()) == 1


def test_a_machine_that_destroys_itself_is_not_waited_for_in_vain(app: World) -> None:
    bot = {**CONFIG, "auto_destroy": True, "restart": {"policy": "no"}}
    app.create(MachineProvider, {**MACHINE, "name": "bot-1", "config": bot})
    id_, outs = app.create(MachinesProvider, {"app": "voice"})
    app.pauses.clear()
    app.kind(MachinesProvider).delete(id_, outs)
    assert app.fake.living() == []
    assert sum(app.pauses) < 5, "seconds"


def test_a_machine_that_comes_late_goes_with_its_app(app: World) -> None:
    id_, outs = app.create(MachinesProvider, {"app": "voice"})
    app.kind(MachinesProvider).delete(id_, outs)
    app.create(MachineProvider, {**MACHINE, "name": "late"})
    app.kind(AppProvider).delete("voice", APP)
    assert app.fake.apps == {}
    assert app.fake.count("Machines_stop") == 1


# Taking over by id.


def test_what_is_to_be_taken_over_must_be_there(app: World) -> None:
    volume, _ = app.create(VolumeProvider, VOLUME)
    machine, _ = app.create(MachineProvider, MACHINE)
    ip, _ = app.create(IpAddressProvider, {"app": "voice", "type": "v6"})
    given: list[tuple[type[Kind], dict[str, Any], str]] = [
        (VolumeProvider, {**VOLUME, "name": "another"}, volume),
        (MachineProvider, {**MACHINE, "name": "another"}, machine),
        (IpAddressProvider, {"app": "voice", "type": "v6"}, ip),
    ]
    for kind, props, id_ in given:
        assert app.create(kind, {**props, "adoptId": id_})[0] == id_
        with pytest.raises(FlyRefused, match=r"switchboard:fly\.adopt: 'nowhere' is refused; allowed: "):
            app.create(kind, {**props, "adoptId": "nowhere"})


# Fly itself.


def test_a_throttled_call_waits_as_long_as_fly_says(world: World) -> None:
    world.fake.faults.order(
        "Apps_create", faults.error(429, "rate limit exceeded", **{"retry-after": "2.5"}), times=2
    )
    world.create(AppProvider, APP)
    assert world.pauses[:2] == [2.5, 2.5]


def test_what_fly_fails_at_is_asked_again_only_where_that_is_safe(app: World) -> None:
    app.fake.faults.order("Apps_show", faults.BROKEN, times=2)
    assert not is_gone(app.kind(AppProvider), "voice", APP)
    app.fake.faults.order("Secrets_update", faults.BROKEN, times=9)
    with pytest.raises(FlyUnanswered, match="POST apps/voice/secrets: 500 internal: server error"):
        app.create(SecretsProvider, {"app": "voice", "values": {"A": "hunter2"}})


def test_an_answer_about_another_app_is_not_acted_on(app: World) -> None:
    theirs = {"id": "2", "name": "theirs", "organization": {"slug": "tests"}, "network": "voice"}
    app.fake.faults.order("Apps_show", faults.Fault(Answer(200, theirs)), times=2)
    with pytest.raises(FlyMisread, match="is about another app, theirs"):
        app.create(AppProvider, {**APP, "name": "not-there-yet"})
    with pytest.raises(FlyMisread, match="is about another app, theirs"):
        app.kind(AppProvider).read("voice", APP)
    app.fake.violations.clear()


def test_an_answer_about_another_machine_is_not_acted_on(app: World) -> None:
    id_, outs = app.create(MachineProvider, MACHINE)
    (mine,) = app.fake.living()
    other = {**mine.shown(), "id": "9080e6f3c12487", "name": "somebody"}
    app.fake.faults.order("Machines_show", faults.Fault(Answer(200, other)))
    with pytest.raises(FlyMisread, match=r"is about another machine, 9080e6f3c12487"):
        app.kind(MachineProvider).delete(id_, outs)
    assert app.fake.count("Machines_stop") == app.fake.count("Machines_delete") == 0


def test_an_answer_about_another_volume_is_not_acted_on(app: World) -> None:
    id_, outs = app.create(VolumeProvider, VOLUME)
    (mine,) = app.fake.apps["voice"].volumes.values()
    other = faults.Fault(Answer(200, {**mine, "id": "vol_somebody"}))
    larger = {**VOLUME, "sizeGb": 3.0}
    for act in (
        lambda: app.update(VolumeProvider, id_, outs, larger),
        lambda: app.kind(VolumeProvider).read(id_, outs),
    ):
        app.fake.faults.order("Volumes_get_by_id", other)
        with pytest.raises(FlyMisread, match="is about another volume, vol_somebody"):
            act()
    assert app.fake.count("Volumes_extend") == 0


def test_records_of_another_name_are_not_told(app: World) -> None:
    outs = app.create(CertificateProvider, {"app": "voice", "hostname": "voice.example.com"})[1]
    other = faults.Fault(Answer(200, {"hostname": "shop.example.com"}))
    app.fake.faults.order("App_Certificates_show", other)
    with pytest.raises(FlyMisread, match=r"is about another name, shop\.example\.com"):
        app.kind(CertificateProvider).read("voice.example.com", outs)


def test_a_throttle_is_known_by_its_words_whatever_its_status(world: World) -> None:
    world.fake.faults.order("Apps_create", faults.THROTTLED_IN_WORDS, times=2)
    world.create(AppProvider, APP)
    assert world.fake.count("Apps_create") == 3


def test_a_token_that_is_not_good_is_told_without_it(world: World) -> None:
    token = world.fake.token()
    world.fake.tokens.clear()
    with pytest.raises(
        FlyRefused, match=r"401 .* the token is no good: it is mistyped, revoked or expired"
    ) as raised:
        world.create(AppProvider, APP)
    assert token not in str(raised.value)


def test_an_organization_that_is_told_as_text_is_compared(app: World) -> None:
    shown = {"id": "1", "name": "voice", "organization": "others", "status": "pending"}
    app.fake.faults.order("Apps_show", faults.Fault(Answer(200, shown)))
    with pytest.raises(FlyRefused, match="there is an app voice already"):
        app.create(AppProvider, APP)
    app.fake.violations.clear()


@pytest.mark.parametrize(
    ("kind", "props", "operation", "answer"),
    [
        (
            IpAddressProvider,
            {"app": "voice", "type": "v6"},
            "App_IPAssignments_list",
            {"ips": [{"address": "::1"}]},
        ),
        (VolumeProvider, VOLUME, "Volumes_list", {"volumes": []}),
        (MachineProvider, MACHINE, "Machines_list", [{"id": "1"}]),
        (SecretsProvider, {"app": "voice", "values": {"A": "1"}}, "Secrets_update", {"secrets": {"A": "1"}}),
        (DeployTokenProvider, {"app": "voice", "days": 30, "period": "-"}, "App_create_deploy_token", ["no"]),
    ],
)
def test_an_answer_of_another_shape_is_quoted(
    app: World, kind: type[Kind], props: dict[str, Any], operation: str, answer: Any
) -> None:
    app.fake.faults.order(operation, faults.Fault(Answer(200, answer)))
    with pytest.raises(FlyMisread, match=r"Fly's answer to (GET|POST) apps/voice/"):
        app.create(kind, props)
    app.fake.violations.clear()
