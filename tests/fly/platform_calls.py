"""Calls of the fake that concern all of Fly.

The answer's shape is the API description's (`main.regionResponse`), the regions are some of those that Fly's
page "Regions" lists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fly.wire import Answer, Call

if TYPE_CHECKING:
    from tests.fly.fake import FakeFly

REGIONS = {"ams": "Amsterdam", "dfw": "Dallas", "fra": "Frankfurt", "iad": "Ashburn", "lhr": "London"}
DEPRECATED = {"waw": "Warsaw"}


async def regions(fake: FakeFly, call: Call) -> Answer:
    listed = [{"code": code, "name": name, "deprecated": False} for code, name in REGIONS.items()]
    listed += [{"code": code, "name": name, "deprecated": True} for code, name in DEPRECATED.items()]
    return Answer(200, {"nearest": "iad", "regions": listed})


HANDLERS = {"Platform_regions_get": regions}
