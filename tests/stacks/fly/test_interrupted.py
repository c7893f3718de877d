"""Runs of a `fly` stack that are killed at one of Fly's calls, under the real engine: the next converges."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

import pytest

from tests.fly import faults
from tests.fly.machines import Lease
from tests.patience import PATIENCE
from tests.stacks.checkouts import until
from tests.stacks.fly.test_engine import Stack
from tests.stacks.fly.test_engine import stack as stack  # a fixture

MAKING = (
    "Apps_create",
    "App_IPAssignments_create",
    "App_create_deploy_token",
    "Secrets_update",
    "Volumes_create",
    "Machines_create",
)


def killed_at(stack: Stack, *operations: str) -> str:
    """Run an up, kill it once Fly has done the next call of these operations, and return that operation."""
    fake, released = stack.fake, threading.Event()
    before = len(fake.calls)
    for operation in operations:
        fake.faults.order(operation, faults.Fault(hold=released))

    def called() -> list[str]:
        return [call.operation for call in fake.calls[before:] if call.operation in operations]

    try:
        with stack.checkout.command("up", "--stack", "local") as run:
            until(f"one of {operations} was called", lambda: called() != [] or run.poll() is not None)
            assert called() != [], run.communicate(timeout=PATIENCE)
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate(timeout=PATIENCE)
        fake.faults.clear()
        until("nothing of the killed run is left", lambda: stack.checkout.everything() == [])
    finally:
        released.set()
    return called()[0]


def test_up_converges_after_runs_that_were_killed_at_each_kind_of_call(stack: Stack) -> None:
    fake = stack.fake
    while missing := [operation for operation in MAKING if fake.count(operation) == 0]:
        killed_at(stack, *missing)
    stack.up()

    assert sorted(fake.apps) == ["voice", "voice-echo-0"]
    assert len(fake.apps["voice"].volumes) == 1
    kinds = Counter("v4" if ip.get("shared") else "v6" for ip in fake.apps["voice"].ips)
    assert kinds == {"v4": 1, "v6": 1}
    machine = stack.machine()
    assert machine.runs
    assert not machine.cordoned
    assert machine.held_lease() is None

    stack.checkout.driver().preview()
    assert stack.checkout.lines[-1] == "stack local: nothing to change"


@pytest.mark.parametrize("operation", ["Machines_cordon", "Machines_update"])
def test_the_next_up_uncordons_a_machine_whose_update_was_killed(stack: Stack, operation: str) -> None:
    stack.up()
    machine = stack.machine()
    stack.configure(stun=["stun:stun.example.com:3478"])
    killed_at(stack, operation)
    assert machine.cordoned
    assert machine.held_lease() is not None

    # The change is taken back: nothing but the cordon and what it left is different.
    stack.configure()
    stack.checkout.driver().drift()
    found = [line for line in stack.checkout.lines if "state: started → cordoned" in line]
    assert found, stack.checkout.lines[-12:]

    stack.up()
    assert not machine.cordoned
    assert machine.held_lease() is None
    assert stack.machine() is machine
    told = [line for line in stack.checkout.lines if "taking over the lease" in line]
    assert len(told) == 1
    assert "which held it, has ended" in told[0]


def test_up_tells_whose_lease_it_waits_for(stack: Stack) -> None:
    stack.up()
    machine = stack.machine()
    stack.configure(stun=["stun:stun.example.com:3478"])
    machine.lease = Lease("theirs", stack.fake.clock.now() + 300, "fly deploy", "someone@example.com")

    def give_back() -> None:
        until("the lease was looked at", lambda: stack.fake.count("Machines_show_lease") > 0)
        machine.lease = None

    theirs = threading.Thread(target=give_back)
    theirs.start()
    stack.up()
    theirs.join()
    (told,) = [line for line in stack.checkout.lines if "waiting for the lease" in line]
    assert f"notice: waiting for the lease of apps/voice/machines/{machine.id}, held by someone@" in told
    assert "(fly deploy) until " in told
    assert "stun.example.com" in str(machine.config["env"])
