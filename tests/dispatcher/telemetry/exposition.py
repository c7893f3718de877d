"""Reads what a dispatcher shows at `/metrics`, with Prometheus' own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.dispatcher.harness import Deployment


class Exposition:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        """The one sample with these labels among its own; None if there is none."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(found) <= 1, f"{name} {labels}: {len(found)} samples"
        return found[0] if found else None


async def scrape(running: Deployment) -> Exposition:
    answer = await running.http.get("/metrics")
    assert answer.status_code == 200, answer.text
    return Exposition(answer.text)
