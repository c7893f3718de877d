"""The PostgreSQL server that other tests use."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, ProgrammingError

from tests.patience import PATIENCE
from tests.postgres import Missing, Postgres, StopMode, find

CHECKOUT = Path(__file__).resolve().parents[1]

WAITS = """
import time
from tests.postgres import Postgres

server = Postgres()
pid = (server.directory / "data" / "postmaster.pid").read_text().split()[0]
print(pid, server.directory, flush=True)
time.sleep(600)
"""


def execute(url: str, statement: str) -> list[tuple]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        result = connection.execute(sa.text(statement))
        return [tuple(row) for row in result] if result.returns_rows else []


def test_each_database_is_empty_and_its_own(postgres: Postgres):
    one, other = postgres.create_database(), postgres.create_database()
    execute(one, "CREATE TABLE here (id integer)")
    with pytest.raises(ProgrammingError, match="does not exist"):
        execute(other, "SELECT * FROM here")
    for url in (one, other):
        postgres.drop_database(url)
        with pytest.raises(OperationalError, match="does not exist"):
            execute(url, "SELECT 1")


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_what_was_committed_outlives_a_stop_and_the_port_stays(
    postgres: Postgres, postgres_url: str, mode: StopMode
):
    execute(postgres_url, "CREATE TABLE kept (id integer)")
    execute(postgres_url, "INSERT INTO kept VALUES (7)")
    postgres.stop(mode)
    with pytest.raises(OperationalError):
        execute(postgres_url, "SELECT 1")
    postgres.start()
    assert execute(postgres_url, "SELECT id FROM kept") == [(7,)]


def test_it_outlives_the_thread_that_started_it(postgres: Postgres):
    postgres.stop()
    for work in (postgres.start, lambda: None):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    with postgres.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert "shutdown request" not in postgres.log.rpartition("ready to accept connections")[2]


def test_it_does_not_run_as_root_and_takes_nobody_without_the_password(postgres: Postgres):
    with postgres.connect() as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        assert row is not None
        server = psutil.Process(row[0]).parent()
    assert server is not None
    assert server.uids().real != 0
    addresses = [found.laddr for found in server.net_connections("tcp") if found.status == psutil.CONN_LISTEN]
    assert addresses == [("127.0.0.1", postgres.port)]
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://postgres:wrong@127.0.0.1:{postgres.port}/postgres")


def test_it_dies_with_the_process_that_started_it():
    starter = subprocess.Popen([sys.executable, "-c", WAITS], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid, directory = starter.stdout.readline().split()
    server = psutil.Process(int(pid))
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    deadline = time.monotonic() + PATIENCE
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the server outlived its starter"
        time.sleep(0.05)
    subprocess.run(["rm", "-rf", directory], check=True)


def test_without_the_programs_the_reason_says_what_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Missing, match=r"`initdb` and `postgres` of PostgreSQL 15 or later on PATH"):
        find(tmp_path)


def test_a_server_that_is_too_old_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    old = tmp_path / "14" / "bin"
    old.mkdir(parents=True)
    for program in ("initdb", "postgres"):
        (old / program).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 14.11 (Debian 14.11-1)'\n")
        (old / program).chmod(0o755)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Missing, match=r"found: .*PostgreSQL\) 14\.11"):
        find(tmp_path)
