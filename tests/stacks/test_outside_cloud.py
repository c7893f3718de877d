"""A cloud in a package outside the tree is found, configured, planned and priced as ours are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dispatcher.keys import hash_of
from stacks.metadata import contents
from tests.contracts.test_outside_provider import install as install_provider
from tests.patience import PATIENCE
from tests.stacks.planning import REPOSITORY

PACKAGE = REPOSITORY / "tests" / "outside_cloud"
CODE = (
    "import json, sys; from tests.stacks.record import record; "
    "print(json.dumps(record(json.load(sys.stdin), ['switchboard:acmeToken'])))"
)
IMAGE = f"registry.example/bot@sha256:{'0' * 64}"
CONFIG: dict[str, Any] = {
    "cloud": "docker",
    "keys": [{"name": "web", "hash": hash_of("sk_test"), "scope": "start"}],
    "agents": {"echo": {"bot": "/app/bot.py", "image": IMAGE, "cpu": 2, "placements": ["north"]}},
    "docker": {"domain": "voice.example.com"},
    "acmeToken": "acme_secret",
    "placements": {"north": {"cloud": "acme", "region": "north-7"}},
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory as pip lays it out for the packages of the provider and of the cloud."""
    install_provider(tmp_path)
    (tmp_path / "acme_cloud").symlink_to(PACKAGE / "acme_cloud")
    for path, text in contents(PACKAGE).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def described(site: Path, **changes: Any) -> dict[str, Any]:
    """Return what the program describes, in a process that finds the packages."""
    values = {
        f"switchboard:{name}": one if isinstance(one, str) else json.dumps(one)
        for name, one in (CONFIG | changes).items()
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(REPOSITORY)])},
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_outside_cloud_gives_a_place_to_bots(site: Path) -> None:
    found = described(site)
    values = found["resources"]["dispatcher-variables"]["inputs"]["values"]["value"]
    placements = json.loads(values["SWITCHBOARD_PLACEMENTS"])
    north = placements["north"]
    assert (north["provider"], north["region"]) == ("acme", "north-7")
    assert north["machine_url"] == "https://voice.example.com"
    assert values["SWITCHBOARD_ACME_API_TOKEN"] == "acme_secret"
    assert found["outputs"]["prices"] == {"echo": {"usdPerSecond": 0.02, "of": "a machine at Acme"}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"acmeToken": ""}, "switchboard:acmeToken: is missing, and placement north is at Acme"),
        (
            {"placements": {"north": {"cloud": "acme", "region": "North"}}},
            'switchboard:placements.north.region: "North" is refused; allowed: a region of Acme\'s',
        ),
        (
            {
                "cloud": "acme",
                "docker": {},
                "placements": {},
                "agents": {"echo": {"bot": "b.py", "image": IMAGE}},
            },
            "switchboard:cloud: 'acme' runs no dispatcher; allowed: local, docker, fly",
        ),
    ],
)
def test_outside_cloud_refuses_bad_values(site: Path, changes: dict[str, Any], words: str) -> None:
    assert described(site, **changes)["error"].startswith(words)


def test_no_file_of_ours_names_it() -> None:
    named = subprocess.run(
        [
            "git",
            "grep",
            "-il",
            "acme_cloud\\|AcmeCloud\\|acmeToken",
            "--",
            "dispatcher",
            "stacks",
            "bot",
            "images",
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert named.stdout == ""
