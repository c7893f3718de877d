"""Telling a database that does not answer from one that refuses, and saying the first once, not for every
transaction."""

from __future__ import annotations

import logging

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, TimeoutError

log = logging.getLogger(__name__)

READ_ONLY = "25006"
"""PostgreSQL's read_only_sql_transaction: a standby that is about to take over, or was left behind."""


def is_outage(error: BaseException) -> bool:
    """Return True if the transaction may work once the database is back. A refusal or bug is no outage."""
    if isinstance(error, DBAPIError):
        gone = error.connection_invalidated or getattr(error.orig, "sqlstate", None) == READ_ONLY
        return gone or isinstance(error, (OperationalError, InterfaceError))
    # Of the pool: all connections are busy with transactions that do not end.
    return isinstance(error, TimeoutError)


class Outage:
    """State of the database, by its last transactions: it answers, or it does not."""

    def __init__(self) -> None:
        self._down = False
        self._for_writes = False
        """It refuses what writes; on a full disk, and a PostgreSQL standby, it may still be read."""

    def failed(self, error: BaseException, *, writes: bool) -> None:
        if not is_outage(error):
            # A constraint that refuses is an answer. The rest is a fault of ours, which who comes back to
            # the store again and again must not pass over as an outage.
            if not isinstance(error, IntegrityError):
                log.error("the database refused a transaction", exc_info=error)
            return
        self._for_writes = self._for_writes or writes
        if not self._down:
            self._down = True
            reason = str(getattr(error, "orig", None) or error).strip()
            log.error("the store does not answer: %s", reason)

    def answered(self, *, writes: bool) -> None:
        if self._down and (writes or not self._for_writes):
            self._down = self._for_writes = False
            log.warning("the store answers again")
