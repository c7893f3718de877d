"""Translate pip's configuration to uv's, which reads neither pip.conf nor PIP_….

A company's mirror, certificates and proxy are configured for pip. uv's own variables win where both are set.
Sources: uv's pages "Compatibility with pip", "TLS certificates" and "Environment variables".
Only the standard library is imported here: `stacks.setup` runs before anything is installed.
"""

from __future__ import annotations

import ast
import math
import os
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path

SECTIONS = ("global", "install", ":env:")
"""In the order in which pip applies them to `pip install`; files are merged by `pip config list`."""

INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL")
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "UV_SYSTEM_CERTS", "UV_NATIVE_TLS")
PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY")

UNCHECKED = ("UV_NO_VERIFY_HASHES",)
"""Variables of uv that would take the check of hashes away."""


def parse(listed: str) -> dict[str, str]:
    """Return the options of `pip install` from the output of `pip config list`; pip ignores empty ones."""
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listed.splitlines():
        name, separator, value = line.partition("=")
        section, dot, option = name.partition(".")
        if separator and dot and section in found:
            found[section][option] = _unquoted(value).strip()
    merged = {option: value for section in SECTIONS for option, value in found[section].items() if value}
    # pip's name for PIP_DEFAULT_TIMEOUT.
    if "default-timeout" in merged:
        merged.setdefault("timeout", merged.pop("default-timeout"))
    return merged


def _unquoted(value: str) -> str:
    try:
        return str(ast.literal_eval(value))
    except (SyntaxError, ValueError):
        return value


def arguments(options: Mapping[str, str]) -> list[str]:
    """Return the arguments of `uv pip install` that say which packages come as wheels or as source."""
    return [
        f"--{name}={one}"
        for name in ("no-binary", "only-binary")
        for one in options.get(name, "").replace(",", " ").split()
        if one != ":none:"
    ]


def environment(options: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of uv: the one that is `known`, and what pip's options say."""
    result = {name: value for name, value in known.items() if name not in UNCHECKED}
    for name, value in {**_indexes(options, known), **_connection(options)}.items():
        result.setdefault(name, value)
    result.update(_certificates(options, known))
    if proxy := options.get("proxy"):
        for name in PROXY_VARIABLES:
            result.pop(name.lower(), None)
            result[name] = proxy
    return result


def _indexes(options: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    result = {}
    if not any(known.get(name) for name in INDEX_VARIABLES):
        if index := options.get("index-url"):
            result["UV_DEFAULT_INDEX"] = index
        if more := options.get("extra-index-url", "").split():
            result["UV_INDEX"] = " ".join(more)
            # pip takes a file from whichever index has it. The hashes say which files these may be.
            result["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if _is_on(options.get("no-index", "")):
        result["UV_NO_INDEX"] = "true"
    if places := [place for one in options.get("find-links", "").split() if (place := _place(one))]:
        result["UV_FIND_LINKS"] = ",".join(places)
    if hosts := options.get("trusted-host", "").split():
        result["UV_INSECURE_HOST"] = " ".join(hosts)
    if options.get("keyring-provider") == "subprocess":
        result["UV_KEYRING_PROVIDER"] = "subprocess"
    return result


def _place(link: str) -> str | None:
    """Return a place of `find-links` as a URL, since uv separates them by commas; None if it is missing."""
    if "://" in link:
        return link
    path = Path(link.removeprefix("file:")).expanduser()
    return path.resolve().as_uri() if path.exists() else None


def _connection(options: Mapping[str, str]) -> dict[str, str]:
    result = {}
    for name, option in (("UV_HTTP_TIMEOUT", "timeout"), ("UV_HTTP_RETRIES", "retries")):
        try:
            result[name] = str(math.ceil(float(options[option])))
        except (KeyError, ValueError, OverflowError):
            continue
    return result


def _certificates(options: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Trust what pip trusts: its option, then what requests reads, then the system's store."""
    result = {}
    if client := options.get("client-cert"):
        result["SSL_CLIENT_CERT"] = client
    bundle = options.get("cert") or known.get("REQUESTS_CA_BUNDLE") or known.get("CURL_CA_BUNDLE")
    if bundle:
        result["SSL_CERT_DIR" if Path(bundle).is_dir() else "SSL_CERT_FILE"] = bundle
    elif not any(known.get(name) for name in CERTIFICATE_VARIABLES) and _system_has_certificates():
        result["UV_SYSTEM_CERTS"] = "true"
    return result


def _system_has_certificates() -> bool:
    paths = ssl.get_default_verify_paths()
    return sys.platform == "darwin" or bool(paths.cafile or (paths.capath and any(os.scandir(paths.capath))))


def _is_on(value: str) -> bool:
    return value.lower() in ("1", "true", "yes", "on", "t", "y")
