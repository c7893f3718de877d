"""The place for bots at Acme: machines of its provider, which run images that are there already."""

from __future__ import annotations

from typing import cast

import pulumi
from acme_machines.settings import AcmePlacement  # pyright: ignore[reportMissingImports] - installed by the test

from acme_cloud import AcmeKeys, AcmePlacementConfig
from dispatcher.settings import AgentSettings
from stacks.clouds import keys_of
from stacks.deployment import Environment, PlacedBots, PlannedBots, Site
from stacks.errors import ConfigError
from stacks.prices import Price
from stacks.shared.settings import agents_at, url_for_machines


class AcmeBots:
    """Ability of the cloud `acme` to give a place to bots."""

    def plan(self, environment: Environment, name: str, site: Site) -> PlannedBots:
        config = environment.config
        url = url_for_machines(site, "acme", name)
        token = AcmeKeys.of(config).acme_token
        if not token.get_secret_value():
            raise ConfigError(
                f"switchboard:acmeToken: is missing, and placement {name} is at Acme; allowed: a token"
            )
        keys = cast(AcmePlacementConfig, keys_of(config, name))
        settings = AcmePlacement(provider="acme", region=keys.region, machine_url=url)
        images = {agent: of.image or "" for agent, of in agents_at(config, name).items()}
        return PlannedBots(
            name=name,
            cloud="acme",
            keys=keys,
            settings={name: settings},
            images=images,
            shared={"acme_api_token": token},
        )

    def place(self, environment: Environment, planned: PlannedBots, site: Site) -> PlacedBots:
        token = AcmeKeys.of(environment.config).acme_token.get_secret_value()
        return PlacedBots(
            planned=planned,
            settings=planned.settings,
            images=planned.images,
            secrets={"SWITCHBOARD_ACME_API_TOKEN": pulumi.Output.secret(token)},
        )

    def price(self, environment: Environment, planned: PlannedBots, agent: AgentSettings) -> Price:
        return Price(0.01 * agent.cpu, "a machine at Acme")
