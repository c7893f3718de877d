"""Addresses that webhooks may go to, and names that change theirs."""

import ipaddress

import httpx
import pytest

from dispatcher.outbound.endpoint import Endpoint, Undelivered, reachable

INSIDE = (ipaddress.ip_network("10.1.0.0/16"),)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "10.1.2.3", "::ffff:1.1.1.1"])
def test_public_addresses_and_named_networks_are_reachable(address):
    assert reachable(address, INSIDE)


@pytest.mark.parametrize(
    "address",
    [
        *("10.2.0.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "192.168.1.1", "0.0.0.0", "224.0.0.1"),
        *("::1", "fe80::1%eth0", "fd00:ec2::254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"),
        *("2002:a9fe:a9fe::1", "ff0e::1", "255.255.255.255"),
    ],
)
def test_addresses_inside_are_not(address):
    assert not reachable(address, INSIDE)


async def test_the_connection_goes_to_the_address_that_was_checked_under_the_name():
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(204)

    answers = iter([["10.2.0.1", "1.1.1.1"], ["10.2.0.1"]])

    async def resolve(host: str, port: int) -> list[str]:
        assert (host, port) == ("hooks.example.com", 8443)
        return next(answers)

    endpoint = Endpoint(
        "https://hooks.example.com:8443/x", resolve=resolve, transport=httpx.MockTransport(answer)
    )
    await endpoint.send(b"{}", {})
    with pytest.raises(Undelivered, match=r"10\.2\.0\.1, which is not public"):
        await endpoint.send(b"{}", {})
    await endpoint.close()
    assert [str(request.url) for request in seen] == ["https://1.1.1.1:8443/x"]
    assert seen[0].headers["Host"] == "hooks.example.com:8443"
    assert seen[0].extensions["sni_hostname"] == "hooks.example.com"
