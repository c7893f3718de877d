"""Replacing what holds data stops an up until it is confirmed by name, at each cloud that has a store."""

from __future__ import annotations

import pytest
from pulumi.automation.events import EngineEvent

from stacks import clouds
from stacks.engine.consent import Consent, Loss, Preview
from stacks.errors import LossError
from stacks.stateful import State

STORES = [(name, kind) for name, cloud in clouds.importable().items() for kind in cloud.data_types]


def replaced(urn: str, kind: str) -> EngineEvent:
    step = {"op": "replace", "urn": urn, "type": kind, "provider": ""}
    return EngineEvent.from_json({"sequence": 1, "timestamp": 1, "resourcePreEvent": {"metadata": step}})


def test_every_cloud_with_a_store_of_its_own_is_known() -> None:
    assert {"aws", "docker", "fly", "gcp"} <= {name for name, _ in STORES}


@pytest.mark.parametrize(("cloud", "kind"), STORES)
def test_up_stops_until_the_replaced_store_is_confirmed_by_name(cloud: str, kind: str) -> None:
    urn = f"urn:pulumi:prod::switchboard::{kind}::store"
    there = {"urn": urn, "type": kind, "id": "made-by-the-cloud", "inputs": {"name": "data"}, "protect": True}
    state = State({"resources": [there]}, clouds.data_types())
    preview = Preview(state)
    preview(replaced(urn, kind))
    loss = Loss("prod", state, throwaway=False)

    with pytest.raises(LossError, match=r"would delete store \(the .*CONFIRM=store"):
        loss.ask_for_up(Consent(), preview.lost)
    with pytest.raises(LossError, match="CONFIRM: sotre is nothing that holds data"):
        loss.ask_for_up(Consent(confirmed=frozenset({"sotre"})), preview.lost)
    loss.ask_for_up(Consent(confirmed=frozenset({"store"})), preview.lost)
    assert [one.name for one in preview.lost] == ["store"], cloud
