"""One session on the bot's event loop: load the bot file, answer the offer, run the bot, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bot import command_line, outcome, packages, tracing
from bot.calls import Calls
from bot.files import Files
from bot.loader import BotFunction, as_main_thread, load
from bot.logs import logger, recent_errors
from bot.outcome import InvalidBot, Outcome
from bot.preload import preload, preload_transport
from bot.problems import Problem
from bot.progress import Progress, Report
from bot.protocol import Assignment, Request
from bot.runner_arguments import runner_arguments
from bot.session_api import Routes, offer_pipecatcloud
from bot.watch import Watch

_PIPELINE_SHARE = 0.6
_TASK_SHARE = 0.3
"""Share of the grace for the pipeline to end once it is cancelled; the bot's task gets the same share after
it."""

_HANG_UP_SECONDS = 1.0
"""Wait for the peer connection's last packets."""

WEBRTC = "webrtc"
WEBSOCKET = "websocket"

_TRANSPORTS_WITH_A_ROOM = ("daily",)


class Session:
    """`run` belongs to the bot's event loop; what `bot.control.Commands` has may be called from any thread.

    Args:
        report: Where the session tells what happens.
        grace: Seconds that a bot has to end once it is told to stop.
        traceparent: The session's trace context, if the machine was started for its session.
        has_server: Whether an HTTP server of this process (`bot.hosted`) serves the bot's own routes.
        bot_arguments: The bot's own command line.
        open_socket: Opens the WebSocket of a session over one, and returns once its client is there.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        report: Report,
        bot_file: Path,
        grace: float,
        traceparent: str | None = None,
        *,
        has_server: bool = False,
        bot_arguments: Sequence[str] = (),
        open_socket: Callable[[str, Callable[[], None]], Awaitable[Any]] | None = None,
    ) -> None:
        self._loop = loop
        self._report = report
        self._bot_file = bot_file
        self._grace = grace
        self._traceparent = traceparent
        self._has_server = has_server
        self._bot_arguments = bot_arguments
        self._open_socket = open_socket
        self._cli_args: Any = None
        self._websocket: Any = None
        self._opened: Any = None
        self._assignment: asyncio.Future[Assignment] = loop.create_future()
        self._loaded: asyncio.Future[BotFunction] = loop.create_future()
        self._transport_loaded: asyncio.Future[None] = loop.create_future()
        self._connection: asyncio.Future[tuple[Any, Any]] = loop.create_future()
        self._stopping = asyncio.Event()
        self._room_open = asyncio.Event()
        offered, answered = partial(report.mark, "offer"), partial(report.mark, "answer")
        self._calls = Calls(loop, report.send, offered, answered)
        self._progress: Progress | None = None
        self._watch: Watch | None = None
        self._files: Files | None = None
        self._cut_short: Outcome | None = None

    def returned(self) -> Outcome:
        """Return the outcome if the bot returns now."""
        progress = self._progress
        if progress is None:
            return outcome.returned(False, recent_errors())
        return outcome.returned(
            progress.started, recent_errors(), failure=progress.error, fatal=progress.is_broken
        )

    # From any thread.

    def assign(self, assignment: Assignment, *, websocket: Any = None) -> None:
        """Assign the session, with the connection that it talks over if the machine has one already."""
        self._loop.call_soon_threadsafe(self._assign, assignment, websocket)

    def room_open(self) -> None:
        """Let the bot join: the session's room exists, or nobody can say so."""
        self._loop.call_soon_threadsafe(self._room_open.set)

    def request(self, request: Request) -> None:
        self._loop.call_soon_threadsafe(self._calls.take, request)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)

    def run_soon(self, tell: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(tell)

    # On the bot's event loop.

    async def run(self, assignment: Assignment | None, *, is_told_of_room: bool = False) -> Outcome:
        """Serve one session, from the first import to the bot's end.

        Args:
            assignment: The session that the machine was started for; None if `assign` will tell it.
            is_told_of_room: Whether `room_open` will be called. The room may not exist before that, and a bot
                that cannot join at once does not try again.
        """
        if not is_told_of_room:
            self._room_open.set()
        if assignment is not None:
            self._assign(assignment)
        serving = asyncio.create_task(self._serve())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            await self._wind_down(serving)
        stopping.cancel()
        # Also if the bot returned by itself after that.
        result = self._cut_short or _result(serving, self._grace)
        await self._hang_up(result)
        return result

    def _assign(self, assignment: Assignment, websocket: Any = None) -> None:
        if not self._assignment.done():
            self._websocket = websocket
            self._assignment.set_result(assignment)

    async def _serve(self) -> Outcome:
        try:
            offer_pipecatcloud()
            self._load()
            if not self._assignment.done():
                await asyncio.wait({self._loaded, self._assignment}, return_when=asyncio.FIRST_COMPLETED)
                if self._loaded.done():
                    self._loaded.result()
                    self._report.phase("idle")
                await self._assignment
                if not self._loaded.done():
                    self._report.phase("loading")
            return await self._prepare_and_run(await self._assignment)
        except InvalidBot as invalid:
            return invalid.outcome

    async def _prepare_and_run(self, assignment: Assignment) -> Outcome:
        in_room = assignment.transport in _TRANSPORTS_WITH_A_ROOM
        self._progress = Progress(self._report, in_room=in_room, end=self._cut)
        if assignment.transport == WEBRTC:
            await self._transport_loaded
            self._accept_offers(assignment, self._progress)
        else:
            text = f"This session's transport is {assignment.transport}, which has no offers."
            self._calls.peer.set_exception(Problem(409, "no-offers", text))
        bot = await self._loaded
        await self._room_open.wait()
        self._files = files = Files.of(self._bot_file)
        routes = Routes(files)
        async with contextlib.nullcontext() if self._has_server else routes.lifespan():
            # A page may call a route of the bot before it makes its offer.
            self._calls.routes.set_result(routes)
            arguments = await self._arguments(assignment, files.storage)
            self._watch = Watch(self._progress)
            self._watch.install()
            self._report.phase("starting")
            tracing.join(assignment.traceparent or self._traceparent)
            return await self._run_bot(bot, arguments)

    async def _arguments(self, assignment: Assignment, storage: Any) -> Any:
        if assignment.transport == WEBSOCKET and self._websocket is None and self._open_socket is not None:
            self._report.phase("waiting")
            gone = self._progress.client_gone if self._progress is not None else _nothing
            self._websocket = self._opened = await self._open_socket(assignment.session_id, gone)
        if assignment.transport != WEBRTC:
            return runner_arguments(
                assignment, self._cli_args, websocket=self._websocket, file_storage=storage
            )
        if not self._connection.done():
            self._report.phase("waiting")
        connection, request_data = await self._connection
        return runner_arguments(
            assignment,
            self._cli_args,
            connection=connection,
            request_data=request_data,
            file_storage=storage,
        )

    def _accept_offers(self, assignment: Assignment, progress: Progress) -> None:
        from bot.webrtc import Peer

        def connected(connection: Any, request_data: Any) -> None:
            self._connection.set_result((connection, request_data))

        self._calls.peer.set_result(Peer(assignment.ice_servers, connected, progress.client_gone))

    async def _run_bot(self, bot: BotFunction, arguments: Any) -> Outcome:
        try:
            running = bot(arguments)
            if not inspect.isawaitable(running):
                raise InvalidBot(
                    f"`bot` in the bot file {self._bot_file.name} is not async: it gave {running!r}."
                )
            await running
        except InvalidBot:
            raise
        except asyncio.CancelledError as error:
            if self._stopping.is_set():
                raise
            return outcome.raised(error)
        except SystemExit as error:
            return outcome.exited(error.code, self.returned(), recent_errors())
        except Exception as error:  # noqa: BLE001 - whatever a bot raises is its last word
            logger.opt(exception=error).error("the bot raised")
            return outcome.raised(error)
        return self.returned()

    def _cut(self, result: Outcome) -> None:
        """End the session with this outcome; the first one counts."""
        if self._cut_short is None and not self._stopping.is_set():
            self._cut_short = result
            self._stopping.set()

    async def _wind_down(self, serving: asyncio.Task[Outcome]) -> None:
        """Let the bot end as Pipecat ends one; cancel its task only if that does not work."""
        if self._watch is not None and self._watch.can_cancel:
            cancelling = asyncio.create_task(self._watch.cancel("the session was stopped"))
            await asyncio.wait({serving}, timeout=self._grace * _PIPELINE_SHARE)
            await _settle(cancelling)
        if not serving.done():
            serving.cancel()
            await asyncio.wait({serving}, timeout=self._grace * _TASK_SHARE)

    async def _hang_up(self, result: Outcome) -> None:
        peer = self._calls.peer
        await self._calls.end(_problem(result) if self._has_server else None)
        if peer.done() and peer.exception() is None:
            closing = asyncio.create_task(peer.result().close())
            await asyncio.wait({closing}, timeout=_HANG_UP_SECONDS)
            await _settle(closing)
        if self._opened is not None:
            # A bot that has closed it already makes this an error.
            closing = asyncio.create_task(self._opened.close())
            with contextlib.suppress(RuntimeError):
                await asyncio.wait_for(closing, _HANG_UP_SECONDS)
        if self._files is not None:
            await self._files.close()

    def _load(self) -> None:
        """Import on a thread: an import that hangs, or takes seconds, must not delay `stop` or ICE."""
        thread = threading.Thread(target=self._load_on_thread, name="switchboard-loader", daemon=True)
        thread.start()

    def _load_on_thread(self) -> None:
        with as_main_thread(self._loop):
            try:
                packages.check_pipecat()
                # The transport may be told over the channel meanwhile.
                is_known = self._assignment.done()
                if is_known:
                    self._load_transport()
                _import_pipecat()
                if not is_known:
                    self._load_transport()
                self._report.mark("imported")
                # With a session to serve, only the bot file's own imports are worth the time.
                if not self._assignment.done():
                    preload()
                if self._assignment.done():
                    self._report.phase("loading")
                bot, module = load(self._bot_file, self._bot_arguments)
                self._cli_args = command_line.parse(self._bot_file, module, list(self._bot_arguments))
            except BaseException as error:  # noqa: BLE001 - it is raised again on the event loop
                self._loop.call_soon_threadsafe(self._fail_loading, error)
                return
        self._report.mark("loaded")
        self._loop.call_soon_threadsafe(self._loading_done, bot)

    def _load_transport(self) -> None:
        known = self._assignment.done()
        if known and self._assignment.result().transport != WEBRTC:
            return
        try:
            _import_transport()
        except InvalidBot as error:
            if known:
                raise
            # The image was built for other transports; the session is unlikely to use this one.
            self._loop.call_soon_threadsafe(self._transport_missing, error)
        else:
            self._loop.call_soon_threadsafe(self._transport_loaded.set_result, None)

    def _transport_missing(self, error: InvalidBot) -> None:
        self._transport_loaded.set_exception(error)
        self._transport_loaded.exception()  # mark it as retrieved, or asyncio logs it

    def _loading_done(self, bot: BotFunction) -> None:
        # Imported modules live to the end; the collector need not visit them again.
        gc.freeze()
        gc.enable()
        self._loaded.set_result(bot)
        self._calls.loaded.set_result(None)

    def _fail_loading(self, error: BaseException) -> None:
        self._loaded.set_exception(error)
        if not self._transport_loaded.done():
            self._transport_loaded.set_exception(error)


def _nothing() -> None:
    pass


def _import_transport() -> None:
    try:
        preload_transport()
    except ImportError as error:
        raise InvalidBot(f"Transport webrtc needs pipecat-ai[webrtc]: {outcome.describe(error)}") from error


def _import_pipecat() -> None:
    try:
        import pipecat.runner.types  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise InvalidBot(f"Pipecat cannot be imported: {outcome.describe(error)}") from error


def _result(serving: asyncio.Task[Outcome], grace: float) -> Outcome:
    if not serving.done():
        return Outcome("stopped", "The session was stopped.", f"The bot did not stop within {grace:g} s.")
    if serving.cancelled():
        return outcome.stopped()
    error = serving.exception()
    if error is not None:
        logger.opt(exception=error).error("the session failed outside of the bot's function")
        return Outcome(
            "bot_error",
            f"The session failed outside of the bot's function: {outcome.describe(error)}",
            outcome.traceback_of(error),
        )
    return serving.result()


def _problem(result: Outcome) -> Problem:
    """Return the answer to calls of a session that ended so; the dispatcher's own answer has the
    same form."""
    if result.exit_code == 0:
        return Problem(410, "session_over", result.message)
    return Problem(502, result.reason, result.message)


async def _settle(task: asyncio.Task[Any]) -> None:
    """Cancel the task if it still runs, and log what it raised."""
    task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(result, Exception):
        logger.opt(exception=result).warning("an error while the session ended")
