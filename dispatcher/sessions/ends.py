"""Ends of sessions by what others report: providers, the transport, and the bot itself."""

from __future__ import annotations

from bot.protocol import Ended
from dispatcher.domain.model import End
from dispatcher.machines.failover import Abandoned, Faulty
from dispatcher.machines.provider import NoCapacity, ProviderError, QuotaReached, Throttled, Unreachable
from dispatcher.transports.errors import NoAnswer, Refused, RoomError, TooManyCalls


def end_by_provider(error: ProviderError) -> End:
    """The reason and its words, for the error of the fleet."""
    match error:
        case NoCapacity():
            return End("no_capacity", "No machine is free for this session right now.", str(error))
        case QuotaReached():
            return End("quota_reached", "This deployment has all the machines that it may have.", str(error))
        case Throttled():
            message = "The machines API is taking no more calls right now."
            return End("throttled", message, str(error), retry_after=error.retry_after)
        case Faulty():
            return End(
                "internal_error", "The dispatcher failed to ask for a machine; its log says why.", str(error)
            )
        case Abandoned():
            message = (
                "The dispatcher that asked for the machine died, and nobody could find out what came of it."
            )
            return End("unreachable", message, str(error))
        case Unreachable():
            return End("unreachable", "The machines API did not answer.", str(error))
        case _:
            return End("rejected", f"The machine could not be created: {error}.", str(error))


def end_by_room(error: RoomError) -> End:
    """The reason and its words, for the error of the transport."""
    match error:
        case TooManyCalls():
            message = "The service that has the rooms is taking no more calls right now."
            return End("room_throttled", message, str(error), retry_after=error.retry_after)
        case NoAnswer():
            return End("room_unreachable", "The service that has the rooms did not answer.", str(error))
        case Refused(caller_fault=fault) if fault:
            return End("room_rejected", f"The session's room could not be created. {fault}", str(error))
        case _:
            return End("room_rejected", "The session's room could not be created.", str(error))


def end_by_report(report: Ended) -> End:
    """The bot's own last word."""
    return End(report.reason, report.message, report.detail or None, report.exit_code)
