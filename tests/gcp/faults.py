"""Errors in the shapes of Google's APIs."""

from __future__ import annotations

from typing import Any

from tests.fly.faults import Fault
from tests.fly.wire import Answer


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, reason: str = "", rpc: str = "") -> None:
        super().__init__(message)
        self.answer = error(status, message, reason, rpc)


def error(
    status: int, message: str, reason: str = "", rpc: str = "", info: str = "", **metadata: str
) -> Answer:
    """Return an error as `google.rpc.Status`, with Compute Engine's list `errors` if it has a reason.

    Args:
        rpc: The name of a google.rpc.Code.
        info: Reason of an `ErrorInfo`, with its metadata.
    """
    said: dict[str, Any] = {"code": status, "message": message}
    if reason:
        said["errors"] = [{"message": message, "domain": "global", "reason": reason}]
    if rpc:
        said["status"] = rpc
    if info:
        detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "googleapis.com"}
        said["details"] = [{**detail, "reason": info, "metadata": metadata}]
    return Answer(status, {"error": said})


RATE_LIMITED = Fault(
    error(
        403,
        "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute' of service "
        "'compute.googleapis.com' for consumer 'project_number:1'.",
        "rateLimitExceeded",
    )
)
FORBIDDEN = Fault(
    error(
        403,
        "Required 'compute.instances.create' permission for "
        "'projects/my-project/zones/europe-west4-a/instances/x'",
        "forbidden",
    )
)
DISABLED = Fault(
    error(
        403,
        "Compute Engine API has not been used in project 1 before or it is disabled.",
        "accessNotConfigured",
        "PERMISSION_DENIED",
        info="SERVICE_DISABLED",
    )
)
BROKEN = Fault(error(503, "Internal error. Please try again or contact Google Support.", "backendError"))
RUN_RATE_LIMITED = Fault(
    error(
        429,
        "Quota exceeded for quota metric 'Job run requests' and limit 'Job run requests per minute per "
        "region' of service 'run.googleapis.com' for consumer 'project_number:1'.",
        "",
        "RESOURCE_EXHAUSTED",
        info="RATE_LIMIT_EXCEEDED",
        quota_limit="JobRunRequestsPerMinutePerRegion",
    )
)
RUN_QUOTA = Fault(
    error(429, "Quota exceeded for total allowable running executions.", "", "RESOURCE_EXHAUSTED")
)
RUN_BROKEN = Fault(error(503, "The service is currently unavailable.", "", "UNAVAILABLE"))
LOST_REPLY = Fault(lose="reply")
LOST_REQUEST = Fault(lose="request")


def stockout(zone: str) -> dict[str, Any]:
    """Return the error of an operation in a zone without capacity."""
    return {
        "code": "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
        "message": f"The zone 'projects/my-project/zones/{zone}' does not have enough resources available to "
        "fulfill the request.  '(resource type:compute)'.",
        "errorDetails": [
            {
                "errorInfo": {
                    "reason": "resource_availability",
                    "domain": "compute.googleapis.com",
                    "metadatas": {"vmType": "e2-standard-2", "zone": zone, "zonesAvailable": ""},
                }
            }
        ],
    }


QUOTA = {"code": "QUOTA_EXCEEDED", "message": "Quota 'CPUS' exceeded.  Limit: 24.0 in region europe-west4."}
NO_ADDRESS = {
    "code": "IP_SPACE_EXHAUSTED_WITH_DETAILS",
    "message": "IP space of 'projects/my-project/regions/europe-west4/subnetworks/bots' is exhausted.",
}
NO_IMAGE = {
    "code": "RESOURCE_NOT_FOUND",
    "message": "The resource 'projects/my-project/global/images/bots-1' was not found",
}
INTERNAL = {
    "code": "INTERNAL_ERROR",
    "message": "Internal error. Please try again or contact Google Support.",
}
