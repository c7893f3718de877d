"""One process drives several runs of the engine, and keeps them apart."""

from __future__ import annotations

import contextvars
from concurrent import futures

import grpc
import pytest
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc
from pulumi.runtime.settings import get_engine, reset_options

import stacks.engine.drive

assert stacks.engine.drive, "it is what is tested, by what it does to the engine's channels"


class Engine(engine_pb2_grpc.EngineServicer):
    """The engine's side of a run."""

    def GetRootResource(self, request, context):
        return engine_pb2.GetRootResourceResponse(urn="urn:here")


def listening(port: int = 0) -> tuple[grpc.Server, int]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    engine_pb2_grpc.add_EngineServicer_to_server(Engine(), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


class Run:
    """The program's side of a run, with a context of its own."""

    def __init__(self, port: int) -> None:
        self._context = contextvars.copy_context()
        self._context.run(reset_options, project="p", stack="s", engine_address=f"127.0.0.1:{port}")

    def ask(self) -> str:
        engine = self._context.run(get_engine)
        assert engine is not None
        return engine.GetRootResource(engine_pb2.GetRootResourceRequest()).urn


def test_a_run_whose_engine_has_the_port_of_an_earlier_ones_is_served() -> None:
    server, port = listening()
    first = Run(port)
    assert first.ask() == "urn:here"
    server.stop(0).wait()
    for _ in range(3):
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            first.ask()

    server, _ = listening(port)
    try:
        assert Run(port).ask() == "urn:here"
    finally:
        server.stop(0).wait()
