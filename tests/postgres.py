"""A private PostgreSQL server for tests, and an empty database for each test.

The server listens on loopback only, runs as an unprivileged user when the tests run as root (`initdb` and
`postgres` refuse root), keeps its data in a temporary directory, and dies with the process that started it.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from tests.ports import free_port

OLDEST_MAJOR = 15
"""The oldest version that the dispatcher supports."""

SECONDS = 60.0
"""For each of: making the data directory, starting, stopping. A loaded machine takes a few."""

UNPRIVILEGED = ("postgres", "nobody")
"""The users that are tried, in this order, when the tests run as root."""

HARMLESS = ("fsync=off", "full_page_writes=off")
"""Lose data when the host fails, not when the server is killed: enough for every test, and fast."""

StopMode = Literal["fast", "immediate"]
_SIGNALS: dict[StopMode, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Missing(Exception):
    """There is no PostgreSQL to run; the text says what was looked for."""


class Postgres:
    """One server: started when it is made, and again on the same port after `stop`.

    Args:
        durable: Whether commits wait for the disk, as in production; for measurements.

    Raises:
        Missing: this machine has no PostgreSQL 15 or later.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._programs = find()
        self._as = _unprivileged()
        self._durable = durable
        self._password = secrets.token_hex(16)
        self._databases = 0
        self._process: subprocess.Popen[bytes] | None = None
        # Linux tells a child of the death of the thread that started it: one that lives as long as this.
        self._starter = ThreadPoolExecutor(1)
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="switchboard-postgres-"))
        self._data = self.directory / "data"
        self._log_path = self.directory / "server.log"
        try:
            self._init()
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def url(self, database: str = "postgres") -> str:
        """SQLAlchemy's URL of a database."""
        return f"postgresql+psycopg://postgres:{self._password}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A connection of its own, in autocommit; the caller closes it."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            password=self._password,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )

    def create_database(self) -> str:
        """Make an empty database; gives its URL."""
        self._databases += 1
        name = f"test_{self._databases}"
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database, and break the connections to it."""
        name = sa.make_url(url).database or ""
        with self.connect() as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def start(self) -> None:
        """Start the server and return once it takes connections. Fine if it runs."""
        if self.running:
            return
        settings = [
            *("listen_addresses=127.0.0.1", f"port={self.port}", "unix_socket_directories="),
            *("max_connections=200", "shared_buffers=32MB", "timezone=UTC"),
            *(() if self._durable else HARMLESS),
        ]
        arguments = [argument for setting in settings for argument in ("-c", setting)]
        with self._log_path.open("ab") as log:
            self._process = self._popen([self._programs / "postgres", "-D", self._data, *arguments], log)
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError as error:
                if not self.running or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL does not start: {error}\n{self.log}") from error
            time.sleep(0.02)

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and return once it is gone. Fine if it is stopped.

        `fast` rolls back what is under way and says goodbye; `immediate` is a crash.
        """
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(_SIGNALS[mode])
        try:
            self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise RuntimeError(f"PostgreSQL does not stop ({mode}):\n{self.log}") from None
        self._process = None

    @property
    def log(self) -> str:
        """The server's output."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def close(self) -> None:
        """Stop the server and delete its data."""
        self.stop("immediate")
        self._starter.shutdown()
        shutil.rmtree(self.directory)

    def __enter__(self) -> Postgres:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _init(self) -> None:
        password = self.directory / "password"
        password.write_text(self._password)
        if self._as is not None:
            for path in (self.directory, password):
                os.chown(path, self._as.pw_uid, self._as.pw_gid)
        options = ["--username=postgres", f"--pwfile={password}", "--auth=scram-sha-256"]
        options += ["--encoding=UTF8", "--no-locale", *(() if self._durable else ("--no-sync",))]
        with self._log_path.open("ab") as log:
            status = self._popen([self._programs / "initdb", "-D", self._data, *options], log).wait(SECONDS)
        if status != 0:
            raise RuntimeError(f"initdb failed with status {status}:\n{self.log}")

    def _popen(self, command: list[Any], log: IO[bytes]) -> subprocess.Popen[bytes]:
        return self._starter.submit(
            subprocess.Popen[bytes],
            command,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C is for the tests; they stop the server.
            start_new_session=True,
            preexec_fn=lambda: die_with_the_parent(signal.SIGQUIT),
            user=self._as.pw_uid if self._as is not None else None,
            group=self._as.pw_gid if self._as is not None else None,
            extra_groups=[] if self._as is not None else None,
        ).result()


def find(installed: Path = Path("/usr/lib/postgresql")) -> Path:
    """The directory of PostgreSQL's programs: on PATH, else the newest where Debian installs them.

    Raises:
        Missing: there is none, or all are older than 15.
    """
    places = [Path(found).parent] if (found := shutil.which("postgres")) else []
    places += sorted(installed.glob("*/bin"), key=_major_of_path, reverse=True)
    seen: list[str] = []
    for place in places:
        if not all((place / program).exists() for program in ("initdb", "postgres")):
            continue
        version = subprocess.check_output([place / "postgres", "--version"], text=True).strip()
        number = re.search(r"\b(\d+)(\.|devel|beta|rc)", version)
        if number is not None and int(number[1]) >= OLDEST_MAJOR:
            return place
        seen.append(f"{place}: {version}")
    found_instead = f" (found: {'; '.join(seen)})" if seen else ""
    raise Missing(
        f"no `initdb` and `postgres` of PostgreSQL {OLDEST_MAJOR} or later on PATH "
        f"or in {installed}/*/bin{found_instead}"
    )


def _major_of_path(path: Path) -> float:
    try:
        return float(path.parent.name)
    except ValueError:
        return 0.0


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom the server runs as; None for whoever runs the tests."""
    if os.geteuid() != 0:
        return None
    known = {user.pw_name: user for user in pwd.getpwall()}
    for name in UNPRIVILEGED:
        if name in known:
            return known[name]
    raise Missing(f"PostgreSQL does not run as root, and there is no user {' or '.join(UNPRIVILEGED)}")


def die_with_the_parent(number: signal.Signals) -> None:
    """Have this process get a signal when the one that started it dies, even by kill -9."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, number)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for all tests. Without its programs they are skipped; where they must run (CI), they fail.

    A test may stop it and start it; it leaves it as it likes.
    """
    try:
        server = Postgres()
    except Missing as missing:
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    with server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty database, which is dropped after the test."""
    postgres.start()
    url = postgres.create_database()
    yield url
    postgres.start()
    postgres.drop_database(url)
