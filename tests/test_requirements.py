"""The pinned packages are those of pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FILES = {
    "requirements.txt": PROJECT["dependencies"],
    "requirements-aws.txt": PROJECT["dependencies"] + EXTRAS["aws"],
    "requirements-docker.txt": PROJECT["dependencies"] + EXTRAS["docker"],
    "requirements-fly.txt": PROJECT["dependencies"] + EXTRAS["fly"],
    "requirements-gcp.txt": PROJECT["dependencies"] + EXTRAS["gcp"],
    "requirements-dev.txt": PROJECT["dependencies"]
    + EXTRAS["aws"]
    + EXTRAS["docker"]
    + EXTRAS["gcp"]
    + EXTRAS["dev"],
}


@pytest.mark.parametrize("name", FILES)
def test_everything_that_is_wanted_is_pinned_within_its_bounds(name):
    pinned = dict(re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", (ROOT / name).read_text(), re.MULTILINE))
    for wanted in map(Requirement, FILES[name]):
        assert pinned[canonicalize_name(wanted.name)] in wanted.specifier, f"{wanted}: run `make lock`"


@pytest.mark.parametrize(
    "path",
    sorted([*ROOT.glob("requirements*.txt"), ROOT / "stacks" / "policy_pack" / "requirements.txt"]),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_pin_has_hashes_and_no_registry(path):
    text = path.read_text()
    pins = re.findall(r"^[a-z0-9._-]+==", text, re.MULTILINE)
    hashed = re.findall(r"^[a-z0-9._-]+==[^\n]*\\\n +--hash=sha256:", text, re.MULTILINE)
    assert len(pins) == len(hashed) > 0
    assert "://" not in text
