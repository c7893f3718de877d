"""A stand-in for Pulumi's language host of Python, which a full installation has and an engine alone has not.

    python -m tests.stacks.language_host [engine's address]

It runs policy packs, as `pulumirpc.LanguageRuntime.RunPlugin` is described (pulumi/language.proto):
by `pulumi.policy` of the pack's virtual environment, in the project's directory, with the engine's address
and the pack's directory as arguments. Programs it does not run: those of the tests are inline.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import grpc
from google.protobuf.json_format import MessageToDict
from pulumi.runtime.proto import language_pb2 as messages
from pulumi.runtime.proto import language_pb2_grpc, plugin_pb2


class LanguageHost(language_pb2_grpc.LanguageRuntimeServicer):
    """The two calls that an engine makes to run a policy pack."""

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version="0.0.0")

    def RunPlugin(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        if request.kind != "analyzer":
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"this host runs no {request.kind}")
        program = Path(request.info.program_directory)
        options = MessageToDict(request.info.options)
        python = Path(request.info.root_directory) / options["virtualenv"] / "bin" / "python"
        command = [str(python), "-u", "-m", "pulumi.policy", *request.args, str(program)]
        environment = dict(one.split("=", 1) for one in request.env)
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=request.pwd, env=environment, stdout=pipe, stderr=pipe) as process:
            context.add_callback(process.kill)
            yield from _said(process)
        yield messages.RunPluginResponse(exitcode=process.returncode)


def _said(process: subprocess.Popen[bytes]) -> Iterator[Any]:
    """Yield what a process writes, until it has closed both of its outputs."""
    parts: SimpleQueue[Any] = SimpleQueue()

    def read(name: str, output: IO[bytes]) -> None:
        for line in output:
            said: Any = {name: line}
            parts.put(messages.RunPluginResponse(**said))
        parts.put(None)

    outputs = {"stdout": process.stdout, "stderr": process.stderr}
    for one in outputs.items():
        threading.Thread(target=read, args=one, daemon=True).start()
    for _ in outputs:
        yield from iter(parts.get, None)


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(LanguageHost(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    # The engine reads the port, and ends this process when it is done.
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    sys.exit(main())
