"""Remove libraries that voice bots never use from an image: `python3 slim.py audio|video DIRECTORY`.

FFmpeg's libraries, which PyAV's wheel contains, are linked to video encoders and to screen libraries, and do
not load without them. Each of these is replaced by a stand-in: a library of the same name whose functions all
fail. So FFmpeg loads, refuses to encode with them as it does when memory is short, and finds no screen.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Set
from pathlib import Path

ENCODERS = ("libx265", "libSvtAv1Enc", "libvmaf")
"""Encoders of H.265 and AV1, and a meter of video quality, 29 MB: no Pipecat transport sends their output.
The encoders of VP8 and H.264, which SmallWebRTC sends, stay."""

SCREENS = ("libxcb", "libXau", "libdrm")
"""Screen libraries, 31 MB with the gaps in their files: FFmpeg and Pillow take pictures of a screen with
them."""

FORMATS = ("PIL/_avif*.so", "pillow.libs/libavif-*")
"""Images in AVIF, 5 MB. Pillow reads and writes all other formats, and reports this one as not supported."""

PROFILES = ("PIL/_imagingcms*.so", "pillow.libs/liblcms2-*")
"""Colour profiles of printers and screens, 0.5 MB. Pillow reports that it has no support for them."""

FONTS = ("PIL/_imagingft*.so", "pillow.libs/libfreetype-*", "pillow.libs/libharfbuzz-*")
"""Text drawn into pictures, 3 MB. Pillow reports that it has no support for it."""

FAILS = {
    # A status other than 0. x265's only function returns a table of functions that all return NULL.
    "x86_64": "mov $-1, %eax\n ret",
    "aarch64": "mov w0, #-1\n ret",
}
NOTHING = {"x86_64": "xor %eax, %eax\n ret", "aarch64": "mov x0, #0\n ret"}
TABLE = {"x86_64": "lea table(%rip), %rax\n ret", "aarch64": "adrp x0, table\n add x0, x0, :lo12:table\n ret"}

TABLE_ENTRIES = 64
"""Entries of a stand-in's table: more than x265's `x265_api` has. Those before the functions are numbers that
nobody compares."""

GIVES_TABLE = re.compile(r"x265_api_get_\d+")


def slim(directory: Path) -> None:
    """Slim every site-packages in the directory."""
    for packages in directory.rglob("site-packages"):
        for pattern in FORMATS + FONTS + PROFILES:
            for path in packages.glob(pattern):
                path.unlink()
        going = {
            library
            for name in ENCODERS + SCREENS
            for library in packages.glob(f"*.libs/{name}-*.so*")
            if library.is_file()
        }
        asked = symbols("--undefined-only", set(packages.rglob("*.so*")) - going).keys()
        for library in going:
            stand_in(library, asked)


def stand_in(library: Path, asked: Set[str]) -> None:
    """Replace a library by one with those of the functions `asked` that it has; all of them fail.

    Raises:
        SystemExit: a name asked for is not a function.
    """
    given = symbols("--defined-only", [library])
    wanted = sorted(asked & given.keys())
    if data := [name for name in wanted if given[name] not in "TW"]:
        sys.exit(
            f"slim.py: {library.name}: {', '.join(data)} is no function, and nothing can stand in for it"
        )
    with tempfile.TemporaryDirectory() as made:
        source, compiled = Path(made, "source.s"), Path(made, "compiled.o")
        source.write_text(assembly(wanted, platform.machine()))
        run("as", "-o", str(compiled), str(source))
        run(
            "ld",
            "-shared",
            "-z",
            "noexecstack",
            "-soname",
            soname(library),
            "-o",
            str(library),
            str(compiled),
        )


def assembly(names: Iterable[str], machine: str) -> str:
    """Return the source of a library with these functions."""
    lines = ['.section .note.GNU-stack,"",%progbits', ".text", "nothing:", NOTHING[machine]]
    for name in names:
        does = TABLE if GIVES_TABLE.fullmatch(name) else FAILS
        lines += [f".globl {name}", f".type {name}, %function", f"{name}:", does[machine]]
    lines += [".data", ".balign 8", "table:", *[".quad nothing"] * TABLE_ENTRIES]
    return "\n".join([*lines, ""])


def symbols(which: str, libraries: Iterable[Path]) -> dict[str, str]:
    """Return the dynamic symbols of libraries: name → type, a letter as `nm` has it."""
    # Not by the name alone: CUDA has a header `algorithm.sort_heap.h`.
    files = [str(path) for path in libraries if not path.is_symlink() and is_elf(path)]
    if not files:
        return {}
    lines = run("nm", "--dynamic", "--no-weak", which, "--format", "posix", *files).splitlines()
    return {words[0]: words[1] for line in lines if len(words := line.split()) > 1 and not line.endswith(":")}


def is_elf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def soname(library: Path) -> str:
    found = re.search(r"SONAME.*\[(.+)\]", run("readelf", "--dynamic", "--wide", str(library)))
    return found[1] if found else library.name


def run(*command: str) -> str:
    """Run a command; return what it printed. Raises SystemExit with its error if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"slim.py: {command[0]}: status {result.returncode}: {result.stderr.strip()[-2000:]}")
    return result.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("media")
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    if arguments.media not in ("audio", "video"):
        sys.exit(f"MEDIA: '{arguments.media}' is neither; allowed: audio, video")
    if arguments.media == "audio":
        slim(arguments.directory)


if __name__ == "__main__":
    main()
