"""Prices at AWS, against sums worked out by hand."""

from __future__ import annotations

import pytest

from stacks.aws import prices
from stacks.aws.prices import DATABASES, FARGATE, Idle, idle, task_second
from stacks.prices import Rate


def test_a_vcpu_with_two_gb_costs_what_the_price_list_says() -> None:
    # $0.04048 and $0.004446 an hour: aws.amazon.com/fargate/pricing.
    hour = 3600 * task_second(1024, 2048, "X86_64", public=False)
    assert hour == pytest.approx(0.04048 + 2 * 0.004446, rel=1e-3)
    assert 60 * task_second(1024, 2048, "X86_64") == pytest.approx(0.000823 + 0.000083, rel=1e-2)


def test_arm_is_a_fifth_cheaper_and_spot_much() -> None:
    plain = task_second(1024, 2048, "X86_64", public=False)
    assert task_second(1024, 2048, "ARM64", public=False) / plain == pytest.approx(0.8, rel=0.01)
    assert task_second(1024, 2048, "X86_64", spot=True, public=False) / plain == pytest.approx(0.3)


STANDARD = Idle(2, 512, 1024, "X86_64", 2, 2, 0, "db.t4g.micro", False, 20)


def test_what_a_stack_costs_without_a_call() -> None:
    found = {item.what.split(" ×")[-1]: item.usd for item in idle(STANDARD)}
    assert sum(found.values()) == pytest.approx(
        2 * 720 * (0.5 * 0.04048 + 0.004446 + 0.005)  # dispatchers
        + 720 * (0.0225 + 0.008)
        + 2 * 720 * 0.005
        + 720 * 0.016
        + 20 * 0.115
        + 2 * 0.40,
        rel=1e-3,
    )


def test_a_second_zone_doubles_the_database_alone() -> None:
    one = sum(item.usd for item in idle(STANDARD))
    two = sum(item.usd for item in idle(Idle(2, 512, 1024, "X86_64", 2, 2, 0, "db.t4g.micro", True, 20)))
    assert two - one == pytest.approx(720 * 0.016 + 20 * 0.115)


def test_every_price_has_a_source() -> None:
    rates = [one for one in vars(prices).values() if isinstance(one, Rate)]
    rates += [one.vcpu_second for one in FARGATE.values()] + list(DATABASES.values())
    assert all(one.source and one.usd > 0 for one in rates)


def test_sum_is_as_sure_as_the_least_sure_of_its_prices() -> None:
    assert {item.what: item.sure for item in idle(STANDARD)} == dict.fromkeys(
        [item.what for item in idle(STANDARD)], "quoted"
    )
    large = idle(Idle(2, 512, 1024, "X86_64", 2, 2, 0, "db.m7g.large", False, 20))
    assert {item.sure for item in large if item.what.startswith("db.")} == {"recalled"}
