"""The images: the dispatcher's, which is the engine proxy's too, and one for each bot directory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import pulumi
import pulumi_docker_build as docker_build

from dispatcher.engine_proxy.settings import repository_of
from dispatcher.settings import AgentSettings
from dispatcher.version import VERSION
from stacks.shared import bot_packages
from stacks.shared.content import fingerprint
from stacks.shared.keys import Compression, ImageKeys
from stacks.shared.revision import revision
from stacks.shared.slugs import slugs

DISPATCHER_SOURCES = (
    *("dispatcher", "switchboard.dist-info", "requirements-node.txt"),
    # Of the bots' package only what the dispatcher imports.
    *("bot/__init__.py", "bot/confinement.py", "bot/leader.py", "bot/output.py", "bot/protocol.py"),
    "bot/versions.py",
    *("images/dispatcher.Dockerfile", "images/base.py", "images/finish.py", "images/packages.sh"),
    *("images/requirements-dispatcher-aws.txt", "images/requirements-dispatcher-gcp.txt", "images/sdk.py"),
    *("images/requirements-dispatcher.txt", "images/requirements-build.txt"),
)
BOT_SOURCES = ("bot", "images")
"""Sources of a bot's image, beside its bot directory."""

# The dispatcher's word for it, `dispatcher.machines.container.request.MODELS_TARGET`; a test compares them.
MODELS_TARGET = "/mnt/models"


ZSTD_LEVEL = 12
"""Level of compression with zstd, which BuildKit does at its best from 10 on: a fifth smaller than gzip."""


@dataclass(frozen=True)
class How:
    """Form of an image: what its content does not say."""

    compression: Compression
    platforms: Sequence[docker_build.Platform]


@dataclass(frozen=True)
class ImagesArgs:
    """Arguments of all images that go to one registry."""

    checkout: Path
    reference: Callable[[str, str], pulumi.Input[str]]
    """Name and fingerprint → reference: `registry.example.com/switchboard-prod-dispatcher:0123abcd`. An
    output where the stack makes the registry."""
    pushed: bool
    """True if they are pushed to a registry; else they are loaded into the engine."""
    base: str = ""
    """Base of the dispatcher's image; by default the one that its Dockerfile names."""
    compression: Compression = "gzip"
    """Compression of the layers of the dispatcher's image, if it is pushed."""
    logins: Sequence[docker_build.RegistryArgs] = ()
    """To registries, beside the user's own (`docker login`)."""
    platforms: Sequence[docker_build.Platform] = ()
    """Of the dispatcher's image. Without any, that of the engine."""
    cache: pulumi.Input[str] | None = None
    """Repository for the builds' cache, beside the builder's own."""


@dataclass(frozen=True)
class BotImages:
    """Images of a placement's bots."""

    agents: Mapping[str, pulumi.Output[str]]
    """Agent → reference: with a registry by digest, else by a tag that stands for one content."""
    repositories: Sequence[str]
    """The repositories of those that are built, which no change of a bot changes; of a registry that the
    stack makes none."""


class Images(pulumi.ComponentResource):
    """Builds what the stack runs. An image's tag is the fingerprint of what it is made from.

    Args:
        prefix: Begins the logical names of images.
    """

    def __init__(
        self, name: str, args: ImagesArgs, prefix: str = "", opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("switchboard:docker:Images", name, None, opts)
        self._args = args
        self._prefix = prefix
        self.built: list[docker_build.Image] = []
        """All of them, in the order in which they were described."""
        if prefix:
            # Without the dispatcher's image.
            self.register_outputs({})

    def dispatcher(self, arguments: Mapping[str, str] | None = None) -> pulumi.Output[str]:
        """Describe the dispatcher's image; return its reference.

        Args:
            arguments: Arguments of its build.
        """
        given = {**(arguments or {}), **({"BASE": self._args.base} if self._args.base else {})}
        how = How(self._args.compression, self._args.platforms)
        built = self._build("dispatcher", "dispatcher", DISPATCHER_SOURCES, given, "the checkout", how)
        self.register_outputs({"dispatcher": built})
        return built

    def bots(
        self,
        agents: Mapping[str, AgentSettings],
        keys: ImageKeys,
        *,
        models: bool = False,
        platforms: Sequence[docker_build.Platform] | None = None,
    ) -> BotImages:
        """Describe an image for each bot directory.

        Args:
            agents: Agents of the placement.
            models: True if models are on a volume, and not in the images.
            platforms: By default those of the dispatcher's image.
        """
        how = How(keys.compression, self._args.platforms if platforms is None else platforms)
        checkout = self._args.checkout
        parents = {agent.bot.parent for agent in agents.values() if agent.image is None}
        called = slugs(parents, checkout)
        directories = {
            parent: self._bot(parent, f"bot-{name}", agents, keys, how, models=models)
            for parent, name in called.items()
        }
        references = {
            name: pulumi.Output.from_input(agent.image)
            if agent.image is not None
            else directories[agent.bot.parent]
            for name, agent in agents.items()
        }
        places = [self._args.reference(f"bot-{one}", "0") for one in called.values()]
        repositories = {repository_of(one) for one in places if isinstance(one, str)}
        return BotImages(references, sorted(repositories))

    def _bot(
        self,
        directory: Path,
        name: str,
        agents: Mapping[str, AgentSettings],
        keys: ImageKeys,
        how: How,
        *,
        models: bool,
    ) -> pulumi.Output[str]:
        args = self._args
        here = [agent for agent in agents.values() if agent.image is None and agent.bot.parent == directory]
        arguments = {
            # Of several bots in a directory a machine is told which one it runs.
            "BOT_FILE": min(agent.bot.name for agent in here),
            "TRANSPORTS": " ".join(sorted({one for agent in here for one in agent.transports})),
            "VAD": keys.vad,
            "MEDIA": keys.media,
        }
        if keys.torch_index:
            arguments["TORCH_INDEX"] = keys.torch_index
        if models:
            arguments["MODELS"] = MODELS_TARGET
        if keys.base:
            arguments["BASE"] = keys.base
        if directory.is_relative_to(args.checkout):
            arguments["BOT_DIR"] = directory.relative_to(args.checkout).as_posix()
        owner = next(called for called, agent in agents.items() if agent in here)
        listed = bot_packages.find(directory / arguments["BOT_FILE"], args.checkout)
        if listed is not None and listed.parent == directory and listed.name != bot_packages.NAMES[0]:
            arguments["REQUIREMENTS"] = listed.name
        above = listed if listed is not None and listed.parent != directory else None
        whose = f"switchboard:agents.{owner}.bot: {str(directory)!r}"
        return self._build(name, "bot", BOT_SOURCES, arguments, whose, how, directory, above)

    def _build(
        self,
        name: str,
        dockerfile: str,
        sources: Sequence[str],
        arguments: Mapping[str, str],
        whose: str,
        how: How,
        bots: Path | None = None,
        packages: Path | None = None,
    ) -> pulumi.Output[str]:
        """Describe an image. `packages`, from above the bot directory, lists the bot's packages."""
        args = self._args
        given = {**arguments, "VERSION": VERSION}
        mark = fingerprint(args.checkout, sources, bots, given, whose)
        contexts: dict[str, docker_build.ContextArgs] = {}
        if packages is not None:
            staged = _staged(packages, args.checkout)
            mark = hashlib.sha256(f"{mark} {staged.name}".encode()).hexdigest()[:16]
            contexts["bot-requirements"] = docker_build.ContextArgs(location=str(staged))
        zstd = args.pushed and how.compression == "zstd"
        if zstd:
            # The same content has another digest then.
            mark = hashlib.sha256(f"{mark} zstd".encode()).hexdigest()[:16]
        reference = args.reference(name, mark)
        # Not of the fingerprint: another commit of the same content is no other image.
        made_from = revision(args.checkout, [*sources, *filter(None, [arguments.get("BOT_DIR")])])
        if bots is not None and not bots.is_relative_to(args.checkout):
            # Before 23.0 an engine's own BuildKit has no named contexts. The provider never uses that one: it
            # has a builder (docs/docker.md#the-builder).
            contexts["bot-files"] = docker_build.ContextArgs(location=str(bots))
        image = docker_build.Image(
            f"{self._prefix}{name}-image",
            tags=[reference],
            context=docker_build.BuildContextArgs(location=str(args.checkout), named=contexts or None),
            dockerfile=docker_build.DockerfileArgs(
                location=str(args.checkout / "images" / f"{dockerfile}.Dockerfile")
            ),
            build_args={**given, **({"REVISION": made_from} if made_from else {})},
            build_on_preview=False,
            exports=[_in_zstd(reference)] if zstd else None,
            # An export of its own pushes.
            push=args.pushed and not zstd,
            load=not args.pushed,
            **_cache(args.cache, f"{self._prefix}{name}"),
            registries=args.logins or None,
            platforms=how.platforms or None,
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.built.append(image)
        if not args.pushed:
            # A loaded image has no digest that a registry would know.
            return pulumi.Output.from_input(reference)
        # A provider may mark every output as secret when one input is: here the registry's password.
        return pulumi.Output.unsecret(image.ref)


def _in_zstd(reference: pulumi.Input[str]) -> docker_build.ExportArgs:
    """Push with layers in zstd, which only OCI's types of media have a name for."""
    return docker_build.ExportArgs(
        registry=docker_build.ExportRegistryArgs(
            names=[reference],
            push=True,
            compression=docker_build.CompressionType.ZSTD,
            compression_level=ZSTD_LEVEL,
            force_compression=True,
            oci_media_types=True,
        )
    )


class _Cache(TypedDict, total=False):
    cache_from: list[docker_build.CacheFromArgs]
    cache_to: list[docker_build.CacheToArgs]


def _cache(repository: pulumi.Input[str] | None, name: str) -> _Cache:
    """Return the arguments of an image's cache in a registry, as a manifest that ECR takes."""
    if repository is None:
        return {}
    place = pulumi.Output.concat(repository, ":", name)
    return {
        "cache_from": [docker_build.CacheFromArgs(registry=docker_build.CacheFromRegistryArgs(ref=place))],
        "cache_to": [
            docker_build.CacheToArgs(
                registry=docker_build.CacheToRegistryArgs(
                    ref=place,
                    mode=docker_build.CacheMode.MAX,
                    image_manifest=True,
                    oci_media_types=True,
                    # A build whose cache could not be written is whole.
                    ignore_error=True,
                )
            )
        ],
    }


def _staged(file: Path, checkout: Path) -> Path:
    """Return a directory with this file alone: a builder gets all of what it is given."""
    content = file.read_bytes()
    directory = checkout / ".switchboard" / "bot-packages" / hashlib.sha256(content).hexdigest()[:16]
    (directory / "out").mkdir(parents=True, exist_ok=True)
    (directory / "out" / file.name).write_bytes(content)
    return directory
