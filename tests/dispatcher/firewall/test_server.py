"""The firewall's server: what it answers, and when it makes its tables anew."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from dispatcher.firewall import messages
from dispatcher.firewall.__main__ import main, ports
from dispatcher.firewall.expressions import Family, Table
from dispatcher.firewall.netlink import Refused
from dispatcher.firewall.ruleset import TCP, UDP, Bots, Ports
from dispatcher.firewall.server import NOT_TOLD, Firewall, Unheld, ask, serve

BOTS = Bots("br-1", (ipaddress.ip_network("172.30.0.0/16"),), (ipaddress.ip_network("172.30.0.2"),))
HOLD = messages.hold("br-1", ["172.30.0.0/16"], ["172.30.0.2"])


class CountingKernel:
    """Has generations of tables, as nftables has."""

    def __init__(self) -> None:
        self.number = 7
        self.made: list[tuple[Table, ...]] = []
        self.removed: list[tuple[Family, str]] = []
        self.refuses = False

    def generation(self) -> int:
        return self.number

    def replace(self, tables: Sequence[Table]) -> None:
        if self.refuses:
            raise Refused(1, "nftables: the kernel refuses NEWTABLE of inet: Operation not permitted")
        self.number += 1
        self.made.append(tuple(tables))

    def remove(self, tables: Sequence[tuple[Family, str]]) -> None:
        self.number += 1
        self.removed += tables


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
    kernel.number += 1  # somebody else's change, which may have been a flush
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
        kernel.number += 1

    kernel.replace = replace_and_flush
    firewall.hold(BOTS)
    kernel.replace = replace
    firewall.check()
    assert len(kernel.made) == 2


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
        messages.hold("br-1", ["172.30.0.0/16"], ["dispatcher"]),
        messages.hold("br-1", ["172.30.0.0/16"], ["172.30.0.2"] * 257),
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
