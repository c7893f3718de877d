"""`python -m stacks.daily_webhook --stack STACK`: bring a stack up, and set up its webhook at Daily.

The webhook's secret follows from the API key, so the dispatcher knows it before Daily does; a secret of the
config's or the environment's goes before it. An update also revives a webhook that has failed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx

from dispatcher.settings import Settings, is_loopback
from dispatcher.transports.daily.webhooks import derived_secret
from stacks import daily
from stacks.engine.__main__ import CHECKOUT
from stacks.engine.drive import Driver
from stacks.engine.find import find
from stacks.errors import ConfigError, WebhookError, exit_status
from stacks.progress import say

PATH = "/webhooks/daily"
EVENTS = ["meeting.started", "meeting.ended", "participant.joined", "participant.left"]

CALL_SECONDS = 30.0
"""For one call: Daily answers once the dispatcher has answered its test, or a few seconds have passed."""

CARD = (
    "Daily has webhooks for accounts with a credit card alone: add one at https://dashboard.daily.co, Billing"
)


def register(
    url: str, secret: str, api_key: str, api_url: str, client: httpx.Client | None = None
) -> tuple[str, bool]:
    """Create the webhook of a dispatcher, or update it; return its uuid, and whether it is new.

    Args:
        url: The dispatcher's.
        secret: The webhook's `hmac`, in base64.

    Raises:
        WebhookError: Daily does not take it.
    """
    target = f"{url.rstrip('/')}{PATH}"
    # With Daily's default retryType three messages that fail in a row, as during a restart, end the webhook.
    body = {"url": target, "hmac": secret, "retryType": "exponential", "eventTypes": EVENTS}
    with client or httpx.Client(timeout=CALL_SECONDS) as http:

        def call(method: str, path: str, content: Any = None) -> Any:
            return _call(http, method, f"{api_url.rstrip('/')}{path}", api_key, content)

        known = [hook for hook in call("GET", "/webhooks") if hook.get("url") == target]
        path = f"/webhooks/{known[0]['uuid']}" if known else "/webhooks"
        return call("POST", path, body)["uuid"], not known


def _call(http: httpx.Client, method: str, url: str, api_key: str, content: Any) -> Any:
    try:
        headers = {"Authorization": f"Bearer {api_key}"}
        answer = http.request(method, url, headers=headers, json=content)
    except httpx.HTTPError as error:
        # Its own words may have the header, with the key.
        raise WebhookError(f"{method} {url}: Daily did not answer: {type(error).__name__}") from None
    try:
        told = answer.json()
    except ValueError:
        raise WebhookError(f"{method} {url}: {answer.status_code}, and no JSON") from None
    if answer.status_code != 200:
        words = [str(told[name]) for name in ("error", "info") if isinstance(told, dict) and told.get(name)]
        text = ": ".join([str(answer.status_code), *words]).replace(api_key, "…")
        raise WebhookError(f"{method} {url}: Daily refuses: {text}. {_advice(answer.status_code, content)}")
    return told


def _advice(status: int, content: Any) -> str:
    if status == 401:
        return "The API key is not that of a Daily domain."
    if content is None or status in (402, 403):
        return f"{CARD}."
    return f"Daily's test must reach {content['url']} and be answered with 200. {CARD}."


def run(driver: Driver, out: Callable[[str], None]) -> None:
    """Bring the stack up, and create or update its webhook.

    Raises:
        StackError: the stack has no rooms at Daily, Daily cannot reach it, or does not take the webhook.
    """
    config = driver.decrypted_config()
    given = daily.settings_of(config)
    if not given:
        raise ConfigError("no agent of this stack offers the transport 'daily', so it takes no webhooks")
    url = str(driver.up()["url"].value).partition("/#key=")[0]
    parts = urlsplit(url)
    if parts.scheme != "https" or is_loopback(parts.hostname or ""):
        raise ConfigError(
            f"the stack's URL is {url}, which Daily cannot reach; allowed: https:// at a public name"
        )
    key = given["daily_api_key"].get_secret_value()
    secret = given.get("daily_webhook_secret")
    hmac = derived_secret(key) if secret is None else secret.get_secret_value()
    api_url = given.get("daily_api_url", Settings.model_fields["daily_api_url"].default)
    out(f"{CARD} if Daily refuses")
    uuid, is_new = register(url, hmac, key, api_url)
    out(f"webhook {uuid} is {'created' if is_new else 'updated'}: Daily sends events to {url}{PATH}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="stacks.daily_webhook", description="Sets up Daily's webhook.")
    parser.add_argument("--stack", default="local")
    options = parser.parse_args(arguments)
    return exit_status(lambda: run(Driver(CHECKOUT, options.stack, find), say))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
