"""The firewall's server: what it answers, and when it makes its tables anew."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from dispatcher.firewall import messages
from dispatcher.firewall.__main__ import main, ports
from dispatcher.firewall.expressions import Family, Meta, Table, meta
from dispatcher.firewall.netlink import Refused
from dispatcher.firewall.ruleset import TCP, UDP, Bots, Ports, Service, tables
from dispatcher.firewall.server import NOT_TOLD, Firewall, Unheld, ask, serve

HARDWARE = "02:42:ac:1e:00:02"
BOTS = Bots(
    "br-1",
    (ipaddress.ip_network("172.30.0.0/16"),),
    (Service(ipaddress.ip_network("172.30.0.2"), bytes.fromhex("0242ac1e0002")),),
)
HOLD = messages.hold("br-1", ["172.30.0.0/16"], [("172.30.0.2", HARDWARE)])


class CountingKernel:
    """Has generations of tables, as nftables has."""

    def __init__(self) -> None:
        self.number = 7
        self.tables: dict[tuple[Family, str], Table] = {}
        self.made: list[tuple[Table, ...]] = []
        self.removed: list[tuple[Family, str]] = []
        self.refuses = False
        self.lacks: set[bytes] = set()
        """Expressions that it does not know."""

    def generation(self) -> int:
        return self.number

    def matches(self, tables: Sequence[Table]) -> bool:
        return all(self.tables.get((one.family, one.name)) == one for one in tables)

    def replace(self, tables: Sequence[Table]) -> None:
        if self.refuses:
            raise Refused(1, "nftables: the kernel refuses NEWTABLE of inet: Operation not permitted")
        rules = [rule for table in tables for chain in table.chains for rule in chain.rules]
        if any(self.lacks.intersection(rule) for rule in rules):
            raise Refused(95, "nftables: the kernel refuses NEWRULE of bridge: Operation not supported")
        self.number += 1
        self.made.append(tuple(tables))
        self.tables |= {(one.family, one.name): one for one in tables}

    def remove(self, tables: Sequence[tuple[Family, str]]) -> None:
        self.number += 1
        self.removed += tables
        self.flush()

    def flush(self) -> None:
        """Let go of all tables, as `nft flush ruleset` does."""
        self.number += 1
        self.tables.clear()


@pytest.fixture
def kernel() -> CountingKernel:
    return CountingKernel()


@pytest.fixture
def firewall(kernel: CountingKernel) -> Firewall:
    return Firewall(kernel, "calls", index=lambda name: {"br-1": 3}[name])


def test_tables_are_made_at_the_first_word_and_after_changes(
    kernel: CountingKernel, firewall: Firewall
) -> None:
    firewall.hold(BOTS)
    firewall.hold(BOTS)
    firewall.check()
    firewall.watch()
    assert len(kernel.made) == 1
    kernel.flush()
    firewall.watch()
    firewall.watch()
    assert len(kernel.made) == 2
    firewall.hold(Bots("br-1", BOTS.subnets, ()))
    assert len(kernel.made) == 3
    assert [table.name for table in kernel.made[-1]] == ["calls", "calls"]


def test_a_change_of_others_beside_our_own_is_not_missed(kernel: CountingKernel, firewall: Firewall) -> None:
    replace = kernel.replace

    def replace_and_flush(tables: Sequence[Table]) -> None:
        replace(tables)
        kernel.flush()

    kernel.replace = replace_and_flush
    firewall.hold(BOTS)
    kernel.replace = replace
    firewall.check()
    assert len(kernel.made) == 2


def test_two_firewalls_of_a_host_leave_each_other_alone(kernel: CountingKernel, firewall: Firewall) -> None:
    other = Firewall(kernel, "chats", index=lambda name: {"br-2": 4}[name])
    firewall.hold(BOTS)
    other.hold(Bots("br-2", BOTS.subnets, ()))
    made = len(kernel.made)
    for _ in range(5):
        firewall.watch()
        other.watch()
    assert len(kernel.made) == made == 2


def test_a_kernel_that_tells_no_bridge_is_given_subnets(
    kernel: CountingKernel, firewall: Firewall, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.lacks = {meta(Meta.BRIDGE_IIFNAME)}
    firewall.hold(BOTS)
    assert kernel.made == [tables("calls", BOTS, [], named=False)]
    assert "nft_meta_bridge" in caplog.text
    kernel.flush()
    firewall.watch()
    assert len(kernel.made) == 2
    sixth = Bots("br-1", (*BOTS.subnets, ipaddress.ip_network("fd01::/64")), BOTS.services)
    with pytest.raises(Unheld, match=r"has IPv6 \(fd01::/64\), which this kernel cannot close"):
        firewall.hold(sixth)
    assert len(kernel.made) == 2
    kernel.lacks = set()
    Firewall(kernel, "calls", index=lambda name: {"br-1": 3}[name]).hold(sixth)
    assert kernel.made[2:] == [tables("calls", sixth, [])]


def test_rules_of_an_earlier_one_are_left_as_they_are(kernel: CountingKernel, firewall: Firewall) -> None:
    firewall.hold(BOTS)
    Firewall(kernel, "calls", index=lambda name: {"br-1": 3}[name]).hold(BOTS)
    assert len(kernel.made) == 1


def test_it_says_what_it_lacks(kernel: CountingKernel, firewall: Firewall) -> None:
    with pytest.raises(Unheld, match=NOT_TOLD):
        firewall.check()
    kernel.refuses = True
    with pytest.raises(Unheld, match="Operation not permitted"):
        firewall.hold(BOTS)
    kernel.refuses = False
    firewall.check()

    def none(name: str) -> int:
        raise OSError(f"no interface {name}")

    elsewhere = Firewall(kernel, "calls", index=none)
    with pytest.raises(Unheld, match="rootless"):
        elsewhere.hold(BOTS)


def test_rules_that_were_taken_away_stay_away(kernel: CountingKernel, firewall: Firewall) -> None:
    firewall.hold(BOTS)
    assert messages.error_of(firewall.answer(messages.plain("remove"))) == ""
    firewall.watch()
    assert kernel.removed == [(Family.INET, "calls"), (Family.BRIDGE, "calls")]
    assert len(kernel.made) == 1
    assert messages.error_of(firewall.answer(messages.plain("check"))) == NOT_TOLD


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]\n",
        b'{"do": "flush"}\n',
        messages.hold("br-1 accept", ["172.30.0.0/16"], []),
        messages.hold("br-1", [], []),
        messages.hold("br-1", ["172.30.0.1/16"], []),
        messages.hold("br-1", ["172.30.0.0/16"], [("dispatcher", HARDWARE)]),
        messages.hold("br-1", ["172.30.0.0/16"], [("172.30.0.2", "")]),
        messages.hold("br-1", ["172.30.0.0/16"], [("172.30.0.2", HARDWARE + ":00")]),
        b'{"do": "hold", "bridge": "br-1", "subnets": ["172.30.0.0/16"], "services": ["172.30.0.2"]}\n',
        messages.hold("br-1", ["172.30.0.0/16"], [("172.30.0.2", HARDWARE)] * 257),
        b'{"do": "check", "x": "' + b"x" * messages.MOST_BYTES + b'"}\n',
    ],
)
def test_bad_requests_are_refused_and_change_nothing(
    line: bytes, kernel: CountingKernel, firewall: Firewall
) -> None:
    assert messages.error_of(firewall.answer(line))
    assert (kernel.made, kernel.removed) == ([], [])


def test_requests_over_its_socket(kernel: CountingKernel, firewall: Firewall, tmp_path: Path) -> None:
    path, over = tmp_path / "socket", threading.Event()
    path.touch()  # an earlier one's
    serving = threading.Thread(target=serve, args=(firewall, path, over.is_set))
    serving.start()
    try:
        while not path.is_socket() or path.stat().st_mode & 0o777 != 0o600:
            assert serving.is_alive()
        assert ask(path, messages.plain("check")) == NOT_TOLD
        assert main(["check", "--socket", str(path)]) == 1
        assert ask(path, HOLD) == ""
        assert main(["check", "--socket", str(path)]) == 0
    finally:
        over.set()
        serving.join()
    assert main(["check", "--socket", str(path)]) == 1
    assert len(kernel.made) == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("udp:3478", Ports(UDP, 3478, 3478)),
        ("tcp:1-65535", Ports(TCP, 1, 65535)),
        ("udp:5-5", Ports(UDP, 5, 5)),
    ],
)
def test_ports_are_read(text: str, found: Ports) -> None:
    assert ports(text) == found


@pytest.mark.parametrize("text", ["", "3478", "udp:", "udp:0", "udp:70000", "udp:9-8", "icmp:1", "udp:1-"])
def test_bad_ports_are_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["serve", "--table", "calls", "--socket", str(tmp_path / "socket"), f"--reach={text}"]
    with pytest.raises(SystemExit):
        main(words)
    assert "allowed: tcp:PORT" in capsys.readouterr().err
