"""Layers in zstd, pushed and pulled for real, as the `docker` stack asks for them (key `compression`)."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stacks.docker.config import DockerConfig
from tests.engine import Engine, Missing, cache_directory
from tests.recent_engine import bridge, find_recent
from tests.registry import Registry
from tests.stacks.docker.test_program import KEY, described

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ZSTD_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
"""Of the OCI image specification, v1.1: "OCI Image Media Types"."""

CONTENT = "".join(f"{number}\n" for number in range(200_000))


def exports(image: str, **docker: Any) -> dict[str, Any]:
    """Return the inputs of an image, as the program describes it."""
    resources = described([KEY], registry="registry.example/team", **docker)["resources"]
    return resources[image]["inputs"]


@pytest.fixture(scope="module")
def containerd_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine whose own builder pushes, as that of `docker-build` does: with containerd's image store."""
    config = tmp_path_factory.mktemp("engine") / "daemon.json"
    config.write_text(json.dumps({"features": {"containerd-snapshotter": True}}))
    with ExitStack() as stack:
        try:
            programs = find_recent()
            programs = replace(programs, options=(*programs.options, "--config-file", str(config)))
            stack.enter_context(bridge())
            engine = stack.enter_context(Engine(cache_directory() / "docker-recent", programs))
        except Missing as missing:
            pytest.skip(str(missing))
        yield engine


def output_of(export: dict[str, Any], reference: str) -> str:
    """Return the option `--output` of `docker buildx build` that says what an export says."""
    inside = dict(export["registry"])
    words = {
        "compression": inside.pop("compression"),
        "compression-level": str(int(inside.pop("compressionLevel"))),
        "force-compression": str(inside.pop("forceCompression")).lower(),
        "oci-mediatypes": str(inside.pop("ociMediaTypes")).lower(),
        "push": str(inside.pop("push")).lower(),
        "store": str(inside.pop("store")).lower(),
    }
    inside.pop("names", None)
    assert not inside, sorted(inside)
    pairs = ",".join(f"{key}={value}" for key, value in words.items())
    return f"type=registry,name={reference},{pairs},registry.insecure=true"


def manifest(registry: Registry, name: str) -> dict[str, Any]:
    request = urllib.request.Request(f"http://{registry.address}/v2/{name}", headers={"Accept": MANIFEST})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return json.load(answer)


def test_layers_in_zstd_are_pushed_pulled_and_run(
    containerd_engine: Engine, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-everybody")
    engine = containerd_engine
    (export,) = exports("dispatcher-image", compression="zstd")["exports"]
    (tmp_path / "numbers").write_text(CONTENT)
    (tmp_path / "Dockerfile").write_text('FROM scratch\nCOPY numbers /\nCMD ["/none"]\n')
    reference = f"{registry.address}/team/numbers:1"
    engine.docker(
        "buildx", "build", "--provenance=false", "--output", output_of(export, reference), str(tmp_path)
    )
    (layer,) = manifest(registry, "team/numbers/manifests/1")["layers"]
    assert layer["mediaType"] == ZSTD_LAYER
    assert layer["size"] < len(CONTENT) / 2
    # An engine that is its own builder keeps what it has pushed.
    if engine.has_image(reference):
        engine.docker("rmi", reference)
    engine.docker("pull", "--quiet", reference)
    container = engine.docker("create", reference)
    try:
        engine.docker("cp", f"{container}:/numbers", str(tmp_path / "pulled"))
    finally:
        engine.docker("rm", container)
        engine.docker("rmi", reference)
    assert (tmp_path / "pulled").read_text() == CONTENT


def test_gzip_is_what_it_was_and_zstd_has_a_tag_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-everybody")
    plain, named, zstd = (
        exports("dispatcher-image", **given)
        for given in ({}, {"compression": "gzip"}, {"compression": "zstd"})
    )
    assert plain == named
    assert plain["push"] is True
    assert "exports" not in plain
    assert zstd["push"] is False
    assert zstd["exports"][0]["registry"]["names"] == zstd["tags"]
    assert zstd["tags"] != plain["tags"]


def test_zstd_without_a_registry_is_refused() -> None:
    with pytest.raises(ValueError, match="'zstd' is refused without a registry"):
        DockerConfig.model_validate({"compression": "zstd"})
