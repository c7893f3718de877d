"""A recorded graph as Terraform's JSON, and Terraform's own AWS provider that validates and applies it.

The provider's executable comes from a local mirror: TF_PLUGIN_MIRROR, or a directory of `MIRRORS`. A machine
without Terraform or a mirror skips the tests that need them.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.stacks.aws.graph import Graph, Recorded
from tests.stacks.aws.names import RENAMED, TYPES, Schema, translated

MIRRORS = ("/opt/tf-plugins", "/usr/share/terraform/plugins", "~/.terraform.d/plugins")
PROVIDER_PATH = "registry.terraform.io/hashicorp/aws"

SERVICES = (
    *("acm", "applicationautoscaling", "budgets", "cloudfront", "cloudwatch", "ec2", "ecr", "ecs", "elbv2"),
    *("events", "iam", "logs", "rds", "route53", "s3", "secretsmanager", "sns", "ssm", "sts"),
)
"""Services whose endpoints lead to moto."""

AUTO_NAMED = "0000000"
"""Pulumi's random suffix of a name that a program leaves to it, where Terraform wants one."""


CHANGES = 2
"""Status of `terraform plan -detailed-exitcode` where something changes."""


@functools.cache
def mirror() -> Path | None:
    """Return the directory that has the provider."""
    for given in (os.environ.get("TF_PLUGIN_MIRROR"), *MIRRORS):
        if given and (Path(given).expanduser() / PROVIDER_PATH).is_dir():
            return Path(given).expanduser()
    return None


def why_not() -> str:
    """Say what is missing to run Terraform; nothing if it can."""
    if shutil.which("terraform") is None:
        return "terraform is not on PATH"
    return "" if mirror() else f"no directory has {PROVIDER_PATH}: set TF_PLUGIN_MIRROR to one"


needs_terraform = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can run")


@functools.cache
def schema() -> Schema:
    """Return the provider's schema; one without types on a machine that cannot run it."""
    if why_not():
        return Schema({})
    with tempfile.TemporaryDirectory() as directory:
        terraform = Terraform(Path(directory))
        terraform.write({"terraform": {"required_providers": {"aws": {"source": "hashicorp/aws"}}}})
        terraform.run("init", "-input=false")
        return Schema(json.loads(terraform.run("providers", "schema", "-json")))


@dataclass(frozen=True)
class Excluded:
    """Parts of a graph that Terraform does not get, each by its name."""

    resources: Collection[str] = ()
    """Logical names."""
    arguments: Collection[tuple[str, str]] = ()
    """Logical name or type token, and property."""


def document(
    graph: Graph,
    schema: Schema,
    endpoint: str = "",
    region: str = "us-east-1",
    excluded: Excluded | None = None,
) -> dict[str, Any]:
    """Return the graph as a Terraform module.

    Args:
        endpoint: URL of the server that every service is called at.
        region: Region of resources whose provider names none.
    """
    left_out = excluded or Excluded()
    resources: dict[str, dict[str, Any]] = {}
    kept = {name: one for name, one in graph.aws.items() if name not in left_out.resources}
    for name, one in kept.items():
        resources.setdefault(TYPES[one.type], {})[name] = _resource(one, schema, kept, left_out, region)
    regions = sorted({one.region for one in kept.values() if one.region not in ("", region)})
    providers = [_provider(region, endpoint)]
    providers += [{**_provider(other, endpoint), "alias": other} for other in regions]
    return {
        "terraform": {"required_providers": {"aws": {"source": "hashicorp/aws"}}},
        "provider": {"aws": providers},
        "resource": resources,
    }


def _provider(region: str, endpoint: str) -> dict[str, Any]:
    return {
        "region": region,
        "access_key": "testing",
        "secret_key": "testing",
        "skip_credentials_validation": True,
        "skip_metadata_api_check": True,
        "skip_region_validation": True,
        **({"endpoints": [dict.fromkeys(SERVICES, endpoint)]} if endpoint else {}),
    }


def _resource(
    one: Recorded, schema: Schema, kept: Mapping[str, Recorded], left_out: Excluded, region: str
) -> dict[str, Any]:
    block = schema.block(TYPES[one.type])
    without = {name for of, name in left_out.arguments if of in (one.type, one.name)}
    given = {name: value for name, value in one.inputs.items() if name not in without}
    renamed = {name: RENAMED[TYPES[one.type], name] for name in given if (TYPES[one.type], name) in RENAMED}
    found = translated({name: value for name, value in given.items() if name not in renamed}, block, one.name)
    found |= {theirs: given[name] for name, theirs in renamed.items()}
    if block["attributes"].get("name", {}).get("required") and "name" not in found:
        found["name"] = f"{one.name}-{AUTO_NAMED}"
    needed = [kept[name].address for name in one.dependencies if name in kept]
    if needed:
        found["depends_on"] = needed
    if one.region not in ("", region):
        found["provider"] = f"aws.{one.region}"
    return found


class TerraformError(AssertionError):
    """Terraform refused: the text is its own."""


class Terraform:
    """A directory with one module, and its state."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "terraformrc").write_text(
            f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror()}"\n  }}\n}}\n'
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_"))}
        self._environment = {
            **kept,
            "TF_CLI_CONFIG_FILE": str(directory / "terraformrc"),
            "TF_IN_AUTOMATION": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "CHECKPOINT_DISABLE": "1",
        }

    def write(self, module: Mapping[str, Any]) -> None:
        (self.directory / "main.tf.json").write_text(json.dumps(module, indent=1, sort_keys=True))

    def run(self, *arguments: str) -> str:
        """Run a command and return its output. Raises TerraformError if it fails."""
        return self._checked(*arguments).stdout

    def _checked(self, *arguments: str, statuses: Collection[int] = (0,)) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["terraform", *arguments],
            cwd=self.directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE * 2,
            check=False,
        )
        if done.returncode not in statuses:
            raise TerraformError(f"terraform {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}")
        return done

    def validate(self) -> None:
        self.run("init", "-input=false", "-no-color")
        self.run("validate", "-no-color")

    def apply(self) -> None:
        self.run("apply", "-auto-approve", "-input=false", "-no-color")

    def destroy(self) -> None:
        self.run("destroy", "-auto-approve", "-input=false", "-no-color", "-refresh=false")

    def planned(self) -> dict[str, list[str]]:
        """Return the resources that a plan changes: address → its actions."""
        options = ("-input=false", "-no-color", "-out=plan", "-detailed-exitcode")
        if self._checked("plan", *options, statuses=(0, CHANGES)).returncode == 0:
            return {}
        changes = json.loads(self.run("show", "-json", "plan")).get("resource_changes", [])
        return {
            one["address"]: one["change"]["actions"]
            for one in changes
            if one["change"]["actions"] != ["no-op"]
        }

    def values(self) -> dict[str, dict[str, Any]]:
        """Return the attributes of the applied resources: address → attributes."""
        state = json.loads((self.directory / "terraform.tfstate").read_text())
        return {
            f"{one['type']}.{one['name']}": one["instances"][0]["attributes"] for one in state["resources"]
        }

    def resolved(self, value: Any) -> Any:
        """Return a value with its references replaced by the attributes of what was applied."""
        known = self.values()

        def attribute(found: re.Match[str]) -> str:
            address, _, name = found[1].rpartition(".")
            return str(known[address][name])

        if isinstance(value, str):
            return re.sub(r"\$\{([a-z0-9_]+\.[A-Za-z0-9_-]+\.[a-z0-9_]+)\}", attribute, value)
        if isinstance(value, Mapping):
            return {name: self.resolved(one) for name, one in value.items()}
        return [self.resolved(one) for one in value] if isinstance(value, (list, tuple)) else value
