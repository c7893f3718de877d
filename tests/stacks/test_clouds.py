"""Every stack reads the keys and settings of every cloud, with the packages of `requirements.txt` alone."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

CHECKOUT = Path(__file__).resolve().parents[2]

REGISTRIES = (
    "stacks.clouds.registry()",
    "dispatcher.machines.registry.providers()",
    "dispatcher.transports.registry.transports()",
)


def canonical(name: str) -> str:
    """Return a distribution's name as PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def of_other_installs() -> list[str]:
    """Return the modules that are here, and not where `requirements.txt` alone is installed."""
    locked = re.findall(r"^([A-Za-z0-9._-]+)==", (CHECKOUT / "requirements.txt").read_text(), re.MULTILINE)
    installed = {canonical(name) for name in locked}
    return sorted(
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not installed & {canonical(owner) for owner in owners}
    )


@pytest.mark.parametrize("registry", REGISTRIES)
def test_all_plugins_are_imported_when_no_extra_is_installed(registry: str) -> None:
    missing = of_other_installs()
    assert {"pulumi_aws", "pulumi_docker", "pulumi_docker_build", "pulumi_gcp", "moto"} <= set(missing)
    code = (
        "import json, sys\n"
        "sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))\n"
        f"import {registry.rpartition('.')[0]}\n"
        f"found = {registry}\n"
        "for name in found.names: found.load(name)\n"
        "print(json.dumps(list(found.names)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(missing)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) >= 3
