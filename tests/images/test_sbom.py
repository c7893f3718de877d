"""The bills of materials say what is in the images."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.engine import Engine
from tests.images.conftest import CHECKOUT, CLOUD_BOT, build_arguments
from tests.images.test_bot_image import shell
from tests.images.test_build_files import pins


def bill(engine: Engine, base: str, name: str, directory: Path, **arguments: str) -> dict[str, Any]:
    given = build_arguments(name, CHECKOUT, {"BASE": base, "VERSION": "9.8.7", **arguments})
    engine.build_files(directory, "--target", "sbom", *given)
    return json.loads((directory / f"{name}.cdx.json").read_text())


def of(document: dict[str, Any], kind: str) -> dict[str, str]:
    """Its packages of a kind of package URL: name -> version."""
    listed = document["components"]
    return {one["name"].lower(): one["version"] for one in listed if one["purl"].startswith(f"pkg:{kind}/")}


def test_a_bots_bill_names_its_packages_and_those_of_its_own(
    engine: Engine, base_image: str, bot_image: str, tmp_path: Path
) -> None:
    document = bill(engine, base_image, "bot", tmp_path, **CLOUD_BOT)
    assert (document["bomFormat"], document["metadata"]["component"]["version"]) == ("CycloneDX", "9.8.7")
    inside = shell(engine, bot_image, "ls -d /opt/venv/lib/python3*/site-packages/*.dist-info")
    names = {re.sub("[-_.]+", "-", name.lower()) for name in re.findall(r"([^/]+)-[^-/]+\.dist-info", inside)}
    python = {re.sub("[-_.]+", "-", name): version for name, version in of(document, "pypi").items()}
    assert set(python) == names
    assert python["tabulate"] == "0.9.0"
    version = shell(engine, bot_image, "/opt/venv/bin/python --version").removeprefix("Python ")
    assert of(document, "generic") == {"python": version}
    debian = of(document, "deb")
    assert {"libc6", "libssl3t64", "python3"} <= set(debian)
    assert not {"apt", "perl-base", "python3-pip"} & set(debian)


def test_the_dispatchers_bill_has_the_versions_of_the_lock(
    engine: Engine, base_image: str, tmp_path: Path
) -> None:
    pinned = pins("images/requirements-dispatcher.txt")
    document = bill(engine, base_image, "dispatcher", tmp_path)
    python = of(document, "pypi")
    assert {"fastapi", "sqlalchemy"} <= set(python)
    for name, version in python.items():
        assert version in pinned[re.sub("[-_.]+", "-", name)]
    npm = of(document, "npm")
    assert {"@pipecat-ai/client-js", "@pipecat-ai/small-webrtc-transport"} <= set(npm)
    assert not {"esbuild", "typescript"} & set(npm), "what builds the page is not in it"
