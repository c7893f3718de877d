"""Export of spans: OTLP over HTTP, as the standard `OTEL_…` variables say; the SDK itself reads most of them.

Off unless an endpoint or the exporter is named: then the SDK is not even imported. (The specification's own
default, to send to this host, would fill the log of everybody without a collector.)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dispatcher.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SERVICE = "switchboard-dispatcher"
"""The service's name, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` has another."""

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


CLOSE_SECONDS = 3.0
"""Limit on an exit's wait for the last spans to be sent."""


class InvalidExport(ValueError):
    """An `OTEL_…` variable has an unsupported value."""


def tracer_provider(environment: Mapping[str, str]) -> TracerProvider | None:
    """Return the tracer provider; None if nothing is to be traced.

    Raises:
        InvalidExport: a variable has a value that is not supported.
    """
    if not _wanted(environment):
        return None
    for name in _PROTOCOLS:
        if environment.get(name, "http/protobuf") not in ("", "http/protobuf"):
            raise InvalidExport(f"{name}: '{environment[name]}' is not supported; allowed: http/protobuf")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    attributes = {"service.version": VERSION}
    if not environment.get("OTEL_SERVICE_NAME") and "service.name=" not in environment.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        attributes["service.name"] = SERVICE
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


async def close(provider: TracerProvider) -> None:
    """Send the remaining spans. A collector that does not answer delays no exit."""
    thread = threading.Thread(target=provider.shutdown, name="switchboard-spans", daemon=True)
    thread.start()
    await asyncio.to_thread(thread.join, CLOSE_SECONDS)


def _wanted(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "")
    if exporter not in ("", "none", "otlp"):
        raise InvalidExport(f"OTEL_TRACES_EXPORTER: '{exporter}' is not supported; allowed: otlp, none")
    if exporter == "":
        return any(environment.get(name) for name in _ENDPOINTS)
    return exporter == "otlp"
