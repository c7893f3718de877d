"""The bot's image: what is in it, what is not, and how its machine behaves."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from bot.protocol import MACHINE_TOKEN_VARIABLE, Assignment, Ended, Hello, Ready, Stop, entrypoint_arguments
from images.finish import (
    STANDARD_WITHOUT_BYTECODE,
    WITH_BYTECODE,
    WITHOUT_BYTECODE,
    WITHOUT_DOCSTRINGS,
)
from tests.bot.client import Client, client
from tests.bot.dispatcher import TOKEN, assignment, dispatcher
from tests.engine import DockerError, Engine
from tests.images.conftest import CHECKOUT, CLOUD_BOT, DAILY, Build
from tests.images.test_layers import tree
from tests.patience import PATIENCE
from tests.ports import free_port

MEGABYTE = 1_000_000

CONFINED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")

IMPORTS = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
"""

EVERY_BOT = (
    *("bot.runtime", "bot.observe", "bot.session_api", "bot.vad", "fastapi", "httpx", "websockets"),
    *("pipecat.audio.turn.smart_turn.local_smart_turn_v3", "pipecat.audio.vad.silero"),
    *("pipecat.audio.resamplers.soxr_stream_resampler", "pipecat.audio.mixers.soundfile_mixer"),
    *("pipecat.processors.aggregators.llm_context", "pipecat.processors.frameworks.rtvi"),
    *("pipecat.services.openai.llm", "pipecat.services.openai.stt", "pipecat.services.openai.tts"),
    *("pipecat.runner.types", "pipecat.runner.utils", "pipecat.pipeline.worker", "pipecat.workers.runner"),
    *("pipecat.utils.string", "pipecat.utils.text.transforms.numbers"),
)
TRANSPORTS = {
    "daily": ("pipecat.transports.daily.transport",),
    "webrtc": ("bot.webrtc", "pipecat.transports.smallwebrtc.transport"),
    "websocket": ("pipecat.transports.websocket.fastapi", "pipecat.serializers.twilio"),
}


def python(engine: Engine, image: str, code: str, *arguments: str, stdin: str | None = None) -> str:
    """Run Python in the image as it is meant to be run, and with no network."""
    return engine.docker(
        *("run", "--rm", "--interactive", "--network", "none", *CONFINED),
        *("--entrypoint", "python", image, "-P", "-c", code, *arguments),
        stdin=stdin,
    )


def shell(engine: Engine, image: str, script: str) -> str:
    """Run a script in the image as root, so that it sees all files."""
    return engine.docker("run", "--rm", "--user", "0", "--entrypoint", "sh", image, "-c", script)


@asynccontextmanager
async def container(engine: Engine, image: str, url: str, assigned: Assignment | None) -> AsyncIterator[str]:
    """A machine in a container that reaches this host's loopback; gives the container's id."""
    started = await asyncio.to_thread(
        engine.docker,
        *("run", "--detach", "--network", "host", *CONFINED),
        *("--env", f"{MACHINE_TOKEN_VARIABLE}={TOKEN}", image, *entrypoint_arguments("m-1", url, assigned)),
    )
    try:
        yield started
    finally:
        await asyncio.to_thread(engine.docker, "rm", "--force", started)


async def exit_code(engine: Engine, started: str) -> int:
    return int(await asyncio.to_thread(engine.docker, "wait", started, timeout=PATIENCE))


def test_what_bots_import_is_there(engine: Engine, bot_image: str) -> None:
    python(engine, bot_image, IMPORTS, *EVERY_BOT, *(name for names in TRANSPORTS.values() for name in names))


HEAR = """
import base64, sys, numpy, bot.vad
vad = bot.vad.create_vad()
vad.set_sample_rate(16000)
audio = base64.b64decode(sys.stdin.read())
for sound in (bytes(len(audio)), audio):
    windows = [sound[start : start + 1024] for start in range(0, len(sound) - 1023, 1024)]
    print(max(numpy.asarray(vad.voice_confidence(window)).item() for window in windows))
"""


def test_the_detector_hears_speech_with_no_network(engine: Engine, bot_image: str) -> None:
    with wave.open(str(CHECKOUT / "tests" / "bot" / "agents" / "sentence.wav")) as file:
        sentence = base64.b64encode(file.readframes(file.getnframes())).decode()
    silent, spoken = map(float, python(engine, bot_image, HEAR, stdin=sentence).splitlines())
    assert 0 <= silent < 0.3
    assert 0.9 < spoken <= 1


def test_a_build_fails_whose_detector_does(build: Build, tmp_path: Path) -> None:
    changed = tree(tmp_path)
    check = changed / "images" / "check.py"
    text = check.read_text()
    # What the check takes for a voice is none to the model.
    broken = text.replace("confidence, voice()", "confidence, ([0.0] * WINDOW for _ in voice())")
    assert broken != text
    check.write_text(broken)
    with pytest.raises(DockerError, match=r"the detector \(onnx\) does not hear a voice"):
        build("bot", context=changed, **CLOUD_BOT)


def test_authorities_are_found_and_not_all_read(engine: Engine, bot_image: str) -> None:
    code = """
import os, pathlib, ssl, httpx
for context in (ssl.create_default_context(), httpx.create_ssl_context()):
    print(context.verify_mode == ssl.CERT_REQUIRED, len(context.get_ca_certs()))
print(len(list(pathlib.Path(os.environ["SSL_CERT_DIR"]).glob("*.0"))) > 100)
"""
    assert python(engine, bot_image, code).splitlines() == ["True 0", "True 0", "True"]


def test_it_runs_as_nobody_in_particular_and_writes_nowhere(engine: Engine, bot_image: str) -> None:
    code = (
        "import os, pathlib, pwd\n"
        "print(os.getuid(), os.getgid(), pwd.getpwuid(os.getuid()).pw_name, pathlib.Path.home())\n"
        "print([d for d in ['/', '/app', '/opt/venv', '/tmp'] if os.access(d, os.W_OK)])"
    )
    assert python(engine, bot_image, code).splitlines() == ["10001 10001 switchboard /tmp", "[]"]


def test_no_program_changes_its_user_or_group(engine: Engine, bot_image: str) -> None:
    assert shell(engine, bot_image, "find / -xdev -type f -perm /6000 2>/dev/null; true") == ""


def test_no_tools_of_builders_and_no_traces_of_the_build(engine: Engine, bot_image: str) -> None:
    tools = "cc gcc g++ ld as make pip pip3 uv apt apt-get dpkg perl git curl npm node"
    assert shell(engine, bot_image, f"for t in {tools}; do command -v $t; done; true") == ""
    modules = "pip setuptools ensurepip numba llvmlite cv2 resampy pytest"
    code = f"import importlib.util as u; print([m for m in '{modules}'.split() if u.find_spec(m)])"
    assert python(engine, bot_image, code) == "[]"
    places = "/build /root /tmp /var/cache /var/lib/apt /etc/pip.conf /etc/uv /usr/share/doc"
    names = r"-name tests -o -name .cache -o -name '.env*' -o -name '*.a' -o -name '*.pyi'"
    left = shell(engine, bot_image, f"find {places} -mindepth 1 2>/dev/null; find / -xdev {names}; true")
    assert left == ""


def test_all_bytecode_is_there_and_is_used(engine: Engine, bot_image: str) -> None:
    code = """
import importlib, importlib.util, json, pathlib, sys
from fnmatch import fnmatch
missing, *patterns = [], *map(json.loads, sys.argv[1:])

def is_rare(source):
    # As images/finish.py has it.
    packages, standard, kept = patterns
    before, _, name = source.rpartition("/site-packages/")
    if not before:
        name = source.rpartition(pathlib.__file__.rpartition("/pathlib")[0] + "/")[2]
    names = packages if before else standard
    return any(fnmatch(name, one) for one in names) and not any(fnmatch(name, one) for one in kept)

def lacks_a_package(source):
    # Of Pipecat's: a service's module whose package a bot that uses it has in its requirements.
    within = str(source).rpartition("/site-packages/")[2]
    if not within.startswith("pipecat/"):
        return False
    try:
        importlib.import_module(within.removesuffix(".py").replace("/", "."))
    except Exception:
        return True
    return False

for root in ("/opt", "/app", pathlib.__file__.rpartition("/")[0]):
    for source in pathlib.Path(root).rglob("*.py"):
        compiled = pathlib.Path(importlib.util.cache_from_source(str(source)))
        # Bit 0: valid by the source's hash; bit 1 would be: look at the source first.
        if not compiled.exists() or compiled.read_bytes()[4:8] != bytes([1, 0, 0, 0]):
            try:
                compile(source.read_bytes(), str(source), "exec", dont_inherit=True)
            except (SyntaxError, ValueError):
                continue  # a template of a package, no module
            if not is_rare(str(source)) and not lacks_a_package(source):
                missing.append(str(source))
print(missing)
"""
    rules = map(json.dumps, (WITHOUT_BYTECODE, STANDARD_WITHOUT_BYTECODE, WITH_BYTECODE))
    assert python(engine, bot_image, code, *rules) == "[]"


EVERY_MODULE = """
import importlib, importlib.util, json, pathlib, sys, sysconfig
failed = []

def try_all(root, within):
    for source in sorted(root.rglob("*.py")):
        name = ".".join(source.relative_to(within).with_suffix("").parts).removesuffix(".__init__")
        compiled = pathlib.Path(importlib.util.cache_from_source(str(source))).exists()
        if not compiled or name.endswith("__main__") or name in ("antigravity", "this", "click._winconsole"):
            continue
        try:
            importlib.import_module(name)
        except (ImportError, SystemExit):
            pass  # Of a module that imports another one, whose package is not there.
        except Exception as error:
            failed.append(f"{name}: {error!r}")

packages = pathlib.Path(sysconfig.get_path("purelib"))
for name in json.loads(sys.argv[1]):
    try_all(packages / name, packages)
standard = pathlib.Path(sysconfig.get_path("stdlib"))
try_all(standard, standard)
print(failed)
"""


def test_every_module_can_be_imported_without_docstrings(engine: Engine, bot_image: str) -> None:
    said = python(engine, bot_image, EVERY_MODULE, json.dumps(WITHOUT_DOCSTRINGS)).splitlines()
    assert said[-1] == "[]"


RARE = """
import importlib.util, pathlib, sys
import openai
client = openai.OpenAI(api_key="none")
print(client.beta.threads is not None)
source = sys.modules["openai.resources.beta.threads.threads"].__file__
print(pathlib.Path(importlib.util.cache_from_source(source)).exists())
try:
    client.admin
except ImportError as error:
    print(error.name)
"""


def test_what_few_bots_import_has_no_bytecode_or_is_left_out(engine: Engine, bot_image: str) -> None:
    assert python(engine, bot_image, RARE).split() == ["True", "False", "openai.resources.admin"]


def test_its_size_is_within_the_aim(engine: Engine, bot_image: str) -> None:
    assert int(engine.docker("inspect", "--format", "{{.Size}}", bot_image)) < 360 * MEGABYTE


def test_its_labels_and_its_secrets(engine: Engine, bot_image: str) -> None:
    config = json.loads(engine.docker("inspect", "--format", "{{json .Config}}", bot_image))
    assert config["Labels"]["org.opencontainers.image.revision"] == "0123abcd"
    assert config["Labels"]["org.opencontainers.image.version"] == "9.8.7"
    environment = dict(variable.split("=", 1) for variable in config["Env"])
    assert environment["SWITCHBOARD_BOT_FILE"] == "/app/bot.py"
    assert not [name for name in environment if name.startswith(("PIP_", "UV_", "NPM_"))]


def test_onnx_runtime_tells_nobody_what_it_runs(engine: Engine, bot_image: str) -> None:
    """With the variable it makes no uploader; without it, it complains of a read-only home."""
    code = "import sys; sys.stderr = sys.stdout; import bot.vad; bot.vad.create_vad()"
    command = (
        "--entrypoint",
        "sh",
        bot_image,
        "-c",
        f"python -P -c '{code}' 2>&1 | grep -ci telemetry; true",
    )
    run = ("run", "--rm", "--network", "none", *CONFINED)
    assert engine.docker(*run, *command) == "0"
    assert engine.docker(*run, "--env", "ORT_DISABLE_TELEMETRY=", *command) != "0"


async def test_a_bot_for_pipecat_cloud_serves_a_session(engine: Engine, bot_image: str) -> None:
    async with (
        dispatcher() as served,
        container(engine, bot_image, served.url, assignment("webrtc")) as started,
    ):
        await served.wait_for(Hello)
        client = Client()
        await client.connect(served)
        await served.wait_for(Ready)
        status, answer = await served.call("POST", "table", [["a", 1]])
        assert status == 200, answer
        assert answer == {"table": "-  -\na  1\n-  -", "directory": "/app"}
        state = json.loads(
            await asyncio.to_thread(engine.docker, "inspect", "--format", "{{json .State.Health}}", started)
        )
        assert state["Status"] in ("starting", "healthy")
        await asyncio.to_thread(engine.docker, "exec", started, *healthy(engine, bot_image))
        await served.send(Stop(message="enough"))
        ended = await served.wait_for(Ended)
        code = await exit_code(engine, started)
        await client.pc.close()
        assert (ended.reason, code) == ("stopped", 0)


def healthy(engine: Engine, image: str) -> list[str]:
    """The image's health command."""
    test = json.loads(engine.docker("inspect", "--format", "{{json .Config.Healthcheck.Test}}", image))
    assert test[0] == "CMD"
    return test[1:]


def test_a_machine_that_does_not_come_to_life_is_not_healthy(engine: Engine, bot_image: str) -> None:
    started = engine.docker(
        *("run", "--detach", *CONFINED, "--stop-signal", "KILL", "--entrypoint", "sleep", bot_image, "600")
    )
    try:
        with pytest.raises(DockerError):
            engine.docker("exec", started, *healthy(engine, bot_image))
    finally:
        engine.docker("rm", "--force", started)


async def test_sigterm_reaches_the_bot_as_pid_1(engine: Engine, bot_image: str) -> None:
    async with dispatcher() as served, container(engine, bot_image, served.url, None) as started:
        await served.wait_for(Hello)
        await asyncio.to_thread(engine.docker, "kill", "--signal", "TERM", started)
        ended = await served.wait_for(Ended)
        assert (ended.reason, ended.message, await exit_code(engine, started)) == (
            "machine_stopped",
            "The machine was told to stop by SIGTERM.",
            0,
        )


def test_it_says_what_it_must_be_told(engine: Engine, bot_image: str) -> None:
    with pytest.raises(DockerError, match=r"status 2\n.*--machine-id"):
        engine.docker("run", "--rm", *CONFINED, bot_image, "--dispatcher", "http://127.0.0.1:1")


@asynccontextmanager
async def hosted(engine: Engine, image: str, tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    """The image as Pipecat Cloud starts it; gives the container's id, and its address once it is ready."""
    tmp_path.chmod(0o777)
    port = free_port()
    started = await asyncio.to_thread(
        engine.docker,
        *("run", "--detach", "--network", "host", *CONFINED, "--env", f"PORT={port}"),
        *("--volume", f"{tmp_path}:/tmp", image),
    )
    try:
        address = f"127.0.0.1:{port}"
        async with asyncio.timeout(PATIENCE), httpx.AsyncClient(trust_env=False) as http:
            while True:
                try:
                    await http.get(f"http://{address}/readyz")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
        yield started, address
    finally:
        await asyncio.to_thread(engine.docker, "rm", "--force", started)


@pytest.fixture(scope="module")
def probe_image(build: Build) -> str:
    """A bot that writes down what it got."""
    return build("bot", "--tag", "switchboard-test/probe", BOT_DIR="tests/bot/bots", BOT_FILE="cloud.py")


async def test_it_serves_a_room_as_pipecat_cloud_asks_for_it(
    engine: Engine, probe_image: str, tmp_path: Path
) -> None:
    headers = {"x-daily-session-id": "s-1", "x-daily-room-url": "https://x.daily.co/r"}
    headers["x-daily-room-token"] = "room-token"

    async with (
        hosted(engine, probe_image, tmp_path) as (started, address),
        httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as http,
    ):
        start = asyncio.create_task(http.post(f"http://{address}/bot", json={"a": 1}, headers=headers))
        while not (tmp_path / "seen.json").exists():
            await asyncio.sleep(0.05)
            assert not start.done()
        (tmp_path / "leave").touch()
        assert (await start).json() == {}
        await exit_code(engine, started)
        assert json.loads((tmp_path / "seen.json").read_text()) == {
            "type": "DailyRunnerArguments",
            "body": {"a": 1},
            "session": "s-1",
            "room": "https://x.daily.co/r",
            "token": "room-token",
        }


async def test_it_serves_a_websocket_as_pipecat_cloud_opens_it(
    engine: Engine, probe_image: str, tmp_path: Path
) -> None:
    async with hosted(engine, probe_image, tmp_path) as (started, address):
        (tmp_path / "leave").touch()
        async with connect(f"ws://{address}/ws", proxy=None) as call:
            await call.send("bye")
            assert await call.recv() == "BYE"
            await call.wait_closed()
        await exit_code(engine, started)
        assert json.loads((tmp_path / "seen.json").read_text())["type"] == "WebSocketRunnerArguments"


async def test_it_answers_an_offer_as_pipecat_cloud_passes_it_on(
    engine: Engine, bot_image: str, tmp_path: Path
) -> None:
    async with (
        hosted(engine, bot_image, tmp_path) as (started, address),
        httpx.AsyncClient(base_url=f"http://{address}", trust_env=False, timeout=PATIENCE) as http,
        client() as caller,
    ):
        answer = await http.post("/api/offer", json=await caller.offer())
        assert answer.status_code == 200, answer.text
        await caller.accept(answer.json())
        table = await http.post("/table", json=[["a", 1]])
        assert table.json()["directory"] == "/app"
        await caller.track
        while caller.channel.readyState != "open":
            await asyncio.sleep(0.05)
        await caller.pc.close()
        assert await exit_code(engine, started) == 0


def test_a_transport_that_is_none(build: Build) -> None:
    with pytest.raises(
        DockerError, match="'fax' is not a transport; allowed: some of: daily webrtc websocket"
    ):
        build("bot", TRANSPORTS="fax")


def test_requirements_that_are_not_there(build: Build) -> None:
    with pytest.raises(DockerError, match=r"REQUIREMENTS: 'more\.txt' is not in the bot directory"):
        build("bot", **CLOUD_BOT, REQUIREMENTS="more.txt")


def test_packages_of_a_pyproject_are_installed(engine: Engine, build: Build, tmp_path: Path) -> None:
    for name in ("bot", "images"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    project = tmp_path / "mine"
    project.mkdir()
    (project / "bot.py").write_text("")
    listed = '[project]\nname = "mine"\nversion = "1"\ndependencies = ["cowsay==6.1", "pipecat-ai==1.13.0"]\n'
    (project / "pyproject.toml").write_text(listed)
    image = build(
        *("bot", "--target", "packages"),
        context=tmp_path,
        BOT_DIR="mine",
        REQUIREMENTS="pyproject.toml",
        TRANSPORTS="websocket",
    )
    installed = shell(engine, image, "ls /out/opt/venv/lib/python3*/site-packages").split()
    assert {"cowsay", "pipecat_ai-1.13.0.dist-info"} <= set(installed)
    assert "pipecat_ai-1.14.0.dist-info" not in installed


def test_daily_alone_is_smaller(engine: Engine, build: Build) -> None:
    image = build("bot", "--tag", "switchboard-test/bot-daily", **DAILY)
    python(engine, image, IMPORTS, *EVERY_BOT, *TRANSPORTS["daily"])
    code = "import importlib.util as u; print(u.find_spec('av'), u.find_spec('aiortc'))"
    assert python(engine, image, code) == "None None"
    assert int(engine.docker("inspect", "--format", "{{.Size}}", image)) < 255 * MEGABYTE


ENCODE = """
import io, json, av
from PIL import features
seen = {name: features.check(name) for name in ("avif", "webp", "jpg", "freetype2", "littlecms2")}
for codec in ("libx265", "libsvtav1", "libx264", "libvpx"):
    file = av.open(io.BytesIO(), "w", format="matroska")
    stream = file.add_stream(codec, rate=30)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    try:
        seen[codec] = bool(stream.encode(av.VideoFrame(64, 64, "yuv420p")) + stream.encode(None))
    except (MemoryError, av.error.FFmpegError):
        seen[codec] = False
print(json.dumps(seen))
"""


@pytest.mark.parametrize("media", ["audio", "video"])
def test_media_that_no_voice_bot_sends_are_left_out_and_refused(
    engine: Engine, build: Build, bot_image: str, media: str
) -> None:
    image = bot_image if media == "audio" else build("bot", **CLOUD_BOT, MEDIA=media)
    python(engine, image, IMPORTS, *EVERY_BOT, *TRANSPORTS["webrtc"])
    all_ = media == "video"
    assert json.loads(python(engine, image, ENCODE)) == {
        "avif": all_,
        "freetype2": all_,
        "littlecms2": all_,
        "webp": True,
        "jpg": True,
        "libx265": all_,
        "libsvtav1": all_,
        "libx264": True,
        "libvpx": True,
    }


SCREEN = """
import av
from PIL import ImageGrab
for of in (lambda: av.open(":0", format="x11grab"), lambda: ImageGrab.grab(xdisplay=":0")):
    try:
        of()
    except OSError as e:
        print(type(e).__name__)
"""


def test_pictures_of_a_screen_are_refused(engine: Engine, bot_image: str) -> None:
    assert python(engine, bot_image, SCREEN).split() == ["OSError", "OSError"]


def test_nothing_is_there_that_administers_a_machine(engine: Engine, bot_image: str) -> None:
    names = ("su", "mount", "useradd", "openssl", "timeout", "find", "sh")
    path = "import os; os.environ['PATH'] += ':/usr/sbin:/sbin'; "
    code = f"{path}import shutil; print(*filter(shutil.which, {names}))"
    assert python(engine, bot_image, code) == "timeout find sh"
    found = "import ctypes.util; print(ctypes.util.find_library('c'))"
    assert python(engine, bot_image, found) == "libc.so.6"


def test_media_that_are_none(build: Build) -> None:
    with pytest.raises(DockerError, match="MEDIA: 'smell' is neither; allowed: audio, video"):
        build("bot", **CLOUD_BOT, MEDIA="smell")


def test_a_detector_that_is_none(build: Build) -> None:
    with pytest.raises(DockerError, match="VAD: 'fax' is not a detector; allowed: onnx, torch"):
        build("bot", **CLOUD_BOT, VAD="fax")


def test_models_may_be_on_a_volume(engine: Engine, build: Build) -> None:
    image = build("bot", **CLOUD_BOT, MODELS="/mnt/models")
    config = json.loads(engine.docker("inspect", "--format", "{{json .Config}}", image))
    environment = dict(variable.split("=", 1) for variable in config["Env"])
    assert environment["TORCH_HOME"] == "/mnt/models/torch"
    assert environment["HF_HOME"] == "/mnt/models/huggingface"
    assert shell(engine, image, "ls -d /mnt/models") == "/mnt/models"
