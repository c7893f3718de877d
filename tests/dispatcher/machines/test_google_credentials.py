"""Access tokens for Google's APIs: where they come from, how long they are kept, and errors."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from dispatcher.machines.google.api import GoogleApi
from dispatcher.machines.google.credentials import HELD_SECONDS, Credentials
from dispatcher.machines.provider import ProviderError, Rejected, Unreachable
from tests.doubles import VirtualClock
from tests.fly.wire import InProcess
from tests.gcp.engine import FakeEngine
from tests.gcp.server import TOKEN

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PRIVATE = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
EMAIL = "dispatcher@my-project.iam.gserviceaccount.com"
TOKEN_URL = "https://oauth2.googleapis.com/token"
ACCOUNT = json.dumps(
    {
        "type": "service_account",
        "project_id": "my-project",
        "private_key_id": "1",
        "private_key": PRIVATE,
        "client_email": EMAIL,
        "token_uri": TOKEN_URL,
    }
)


class Google(httpx.AsyncBaseTransport):
    """The server of tokens and the metadata server: RFC 7523, and "About VM metadata".

    Attributes:
        answers: Answers in their place, each for one request.
    """

    def __init__(self) -> None:
        self.given = 0
        self.answers: list[httpx.Response | Exception] = []
        self.expires_in = 3600
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        if request.url.host == "metadata.google.internal" or request.url.host == "169.254.169.254":
            return self._metadata(request)
        assert str(request.url) == TOKEN_URL
        form = parse_qs(request.content.decode())
        assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        claims = jwt.decode(form["assertion"][0], PUBLIC, ["RS256"], audience=TOKEN_URL)
        assert claims["iss"] == EMAIL
        assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
        return httpx.Response(200, json=self._token())

    def _metadata(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["metadata-flavor"] == "Google"
        headers = {"metadata-flavor": "Google", "content-type": "application/json"}
        path = request.url.path.removeprefix("/computeMetadata/v1/")
        if path.endswith("/token"):
            return httpx.Response(200, json=self._token(), headers=headers)
        if path == "project/project-id":
            return httpx.Response(200, text="my-project", headers={**headers, "content-type": "text/html"})
        if path.startswith("instance/service-accounts/"):
            account = {"email": EMAIL, "scopes": [], "aliases": ["default"]}
            return httpx.Response(200, json=account, headers=headers)
        if path in ("", "/", "universe/universe-domain"):
            return httpx.Response(200, text="googleapis.com" if path.strip("/") else "", headers=headers)
        return httpx.Response(404, headers=headers)

    def _token(self) -> dict[str, Any]:
        self.given += 1
        return {"access_token": f"ya29.{self.given}", "expires_in": self.expires_in, "token_type": "Bearer"}


@pytest.fixture
def google() -> Google:
    return Google()


@pytest.fixture(autouse=True)
def _no_credentials_of_this_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_CLOUD_PROJECT",
        "GCE_METADATA_HOST",
        "NO_GCE_CHECK",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))


def test_token_of_a_key_is_shared_and_replaced_before_it_expires(google: Google) -> None:
    clock = VirtualClock()
    credentials = Credentials(ACCOUNT, clock, google)

    async def go() -> None:
        assert set(await asyncio.gather(*(credentials.token() for _ in range(10)))) == {"ya29.1"}
        clock.advance(3000)
        assert await credentials.token() == "ya29.1"
        clock.advance(400)
        assert await credentials.token() == "ya29.2"
        assert await credentials.token(refused="ya29.2") == "ya29.3"
        assert await credentials.token(refused="ya29.2") == "ya29.3"

    asyncio.run(go())
    assert len(google.requests) == 3


def test_token_is_used_until_it_expires_where_no_other_is_given(google: Google) -> None:
    clock = VirtualClock()
    credentials = Credentials(ACCOUNT, clock, google)
    denied = httpx.Response(400, json={"error": "invalid_grant", "error_description": "disabled"})

    async def go() -> None:
        assert await credentials.token() == "ya29.1"
        clock.advance(3500)
        google.answers = [denied]
        assert await credentials.token() == "ya29.1"
        assert await credentials.token() == "ya29.1"
        assert len(google.requests) == 2
        with pytest.raises(Rejected):
            await credentials.token(refused="ya29.1")
        clock.advance(101)
        google.answers = [denied]
        with pytest.raises(Rejected):
            await credentials.token()
        clock.advance(HELD_SECONDS)
        assert await credentials.token() == "ya29.2"

    asyncio.run(go())


def test_token_of_the_hosts_service_account_needs_no_settings(google: Google) -> None:
    credentials = Credentials("", VirtualClock(), google)
    assert asyncio.run(credentials.token()) == "ya29.1"
    assert all(request.url.path.startswith("/computeMetadata") for request in google.requests[1:])


def test_token_of_the_file_that_the_environment_names(
    google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "key.json").write_text(ACCOUNT)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    assert asyncio.run(Credentials("", VirtualClock(), google).token()) == "ya29.1"
    assert [str(request.url) for request in google.requests] == [TOKEN_URL]


def test_missing_credentials_are_looked_for_again_after_a_while(
    google: Google, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # google-auth repeats what may pass
    google.answers = [httpx.ConnectError("there is no metadata server here")] * 100
    clock = VirtualClock()
    credentials = Credentials("", clock, google)

    async def go() -> None:
        for _ in range(2):
            with pytest.raises(
                Rejected, match="no credentials for Google Cloud were found: run the dispatcher"
            ):
                await credentials.token()
        google.answers = []
        (file := tmp_path / "key.json").write_text(ACCOUNT)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        with pytest.raises(Rejected):
            await credentials.token()
        clock.advance(HELD_SECONDS)
        assert await credentials.token() == "ya29.1"

    asyncio.run(go())


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (httpx.ConnectError("secret"), Unreachable, "ConnectError"),
        (httpx.Response(503, text="later"), Unreachable, "no access token"),
        (
            httpx.Response(
                400, json={"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
            ),
            Rejected,
            "Invalid JWT Signature",
        ),
        (httpx.Response(200, json={"expires_in": 1}), Rejected, "no access token"),
        (httpx.Response(200, json=[1]), Unreachable, "an answer of another shape"),
        (httpx.Response(200, json={"access_token": "t", "expires_in": {}}), Unreachable, "another shape"),
    ],
)
def test_token_that_is_not_given_is_told_by_its_kind(
    google: Google, answer: Any, kind: type[ProviderError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # google-auth repeats what may pass
    google.answers = [answer] * 10
    with pytest.raises(kind, match=words) as failed:
        asyncio.run(Credentials(ACCOUNT, VirtualClock(), google).token())
    assert "secret" not in str(failed.value)
    assert "PRIVATE" not in str(failed.value)


def test_key_that_is_no_key_is_rejected_without_repeating_it(google: Google) -> None:
    broken = json.dumps({**json.loads(ACCOUNT), "private_key": "hidden"})
    with pytest.raises(Rejected, match="the credentials cannot be used") as refused:
        asyncio.run(Credentials(broken, VirtualClock(), google).token())
    assert "hidden" not in str(refused.value)


def test_token_that_the_api_refuses_is_replaced_once() -> None:
    class Old:
        asked: list[str]

        def __init__(self, *given: str) -> None:
            self.given, self.asked = list(given), []

        async def token(self, refused: str = "") -> str:
            self.asked.append(refused)
            return self.given.pop(0)

    engine = FakeEngine(VirtualClock())

    async def ask(tokens: Old) -> int:
        api = GoogleApi(
            "Compute Engine", "http://x.test/compute/v1", tokens, engine.clock, {}, InProcess(engine)
        )
        path = "projects/my-project/zones/europe-west4-a/instances/calls-m-1"
        return (await api.call("read", "GET", path, expected=(404,))).status

    good = Old("revoked", TOKEN)
    assert asyncio.run(ask(good)) == 404
    assert good.asked == ["", "revoked"]
    with pytest.raises(Rejected, match="Compute Engine refuses the credentials"):
        asyncio.run(ask(Old("revoked", "revoked")))
