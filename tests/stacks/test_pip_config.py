"""pip's configuration, as `pip config list` prints it, in uv's words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stacks.pip_config import arguments, environment, parse

MIRROR = "https://mirror.example/simple"


def test_options_of_files_and_environment_are_merged_as_pip_does(tmp_path: Path) -> None:
    """The real pip reads them: `install` goes before `global`, the environment before both."""
    (tmp_path / "pip.conf").write_text(
        f"[global]\nindex-url = {MIRROR}\ntimeout = 5\nretries = 1\n[install]\nretries = 7\n"
        "find-links =\n    /a b\n    https://x.example/w\n[list]\nformat = json\n"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        env={**inherited, "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PIP_DEFAULT_TIMEOUT": "180.5"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    options = parse(listed)
    assert (options["index-url"], options["retries"]) == (MIRROR, "7")
    assert options["find-links"].split() == ["/a", "b", "https://x.example/w"]
    assert "format" not in options
    found = environment({**options, "timeout": "180.5"}, {})
    assert (found["UV_HTTP_TIMEOUT"], found["UV_HTTP_RETRIES"]) == ("181", "7")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"index-url": MIRROR}, {"UV_DEFAULT_INDEX": MIRROR}),
        (
            {"extra-index-url": f"{MIRROR} https://b.example"},
            {"UV_INDEX": f"{MIRROR} https://b.example", "UV_INDEX_STRATEGY": "unsafe-best-match"},
        ),
        ({"no-index": "yes"}, {"UV_NO_INDEX": "true"}),
        ({"trusted-host": "a.example\nb.example:8443"}, {"UV_INSECURE_HOST": "a.example b.example:8443"}),
        ({"find-links": "https://x.example/w /nowhere"}, {"UV_FIND_LINKS": "https://x.example/w"}),
        ({"find-links": "/"}, {"UV_FIND_LINKS": "file:///"}),
        ({"cert": "/c.pem"}, {"SSL_CERT_FILE": "/c.pem"}),
        ({"client-cert": "/me.pem"}, {"SSL_CLIENT_CERT": "/me.pem"}),
        ({"proxy": "http://p:3128"}, {"HTTPS_PROXY": "http://p:3128", "HTTP_PROXY": "http://p:3128"}),
        ({"keyring-provider": "subprocess"}, {"UV_KEYRING_PROVIDER": "subprocess"}),
        ({"timeout": "soon"}, {}),
    ],
)
def test_option_becomes_a_variable(options: dict[str, str], expected: dict[str, str]) -> None:
    known = {"SSL_CERT_FILE": "/s.pem", "https_proxy": "http://other"} if "timeout" not in options else {}
    found = environment(options, known)
    assert expected.items() <= found.items()
    assert {name for name in found if name.startswith("UV_")} - set(expected) <= {"UV_SYSTEM_CERTS"}
    assert "proxy" not in options or "https_proxy" not in found


@pytest.mark.parametrize("name", ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"])
def test_index_of_uv_itself_goes_first(name: str) -> None:
    found = environment({"index-url": MIRROR, "extra-index-url": MIRROR}, {name: "https://own.example"})
    assert MIRROR not in found.values()
    assert found[name] == "https://own.example"


def test_certificates_are_those_that_pip_would_take() -> None:
    known = {"SSL_CERT_FILE": "/s.pem", "REQUESTS_CA_BUNDLE": "/r.pem"}
    assert environment({"cert": "/c.pem"}, known)["SSL_CERT_FILE"] == "/c.pem"
    assert environment({}, known)["SSL_CERT_FILE"] == "/r.pem"
    assert environment({}, {"SSL_CERT_FILE": "/s.pem"})["SSL_CERT_FILE"] == "/s.pem"


def test_wheels_and_sources_are_chosen_as_for_pip() -> None:
    assert arguments({"no-binary": "av,numpy", "only-binary": ":none:"}) == [
        "--no-binary=av",
        "--no-binary=numpy",
    ]
