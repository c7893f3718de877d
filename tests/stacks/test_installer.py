"""Packages come by uv, as pip is configured; where uv cannot, by pip, and one line says why.

pip and uv are the real ones, offline: their index is a directory with a wheel that the tests make.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from stacks.errors import SetupError
from stacks.installer import UV, Installer, cause
from tests.test_requirements import ROOT


def wheel(directory: Path, name: str, files: dict[str, str], version: str = "1.0") -> str:
    """Write a wheel as PEP 427 describes it; return its hash."""
    info = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{path},{digest(text.encode())},{len(text.encode())}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            entry = zipfile.ZipInfo(member)
            entry.external_attr = (0o100755 if "/scripts/" in member else 0o100644) << 16
            archive.writestr(entry, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


class Place:
    """A checkout with one pinned package, and an index that only pip's configuration names."""

    def __init__(self, root: Path, venv: Path) -> None:
        self.root = root
        self.index = root / "index"
        self.index.mkdir(parents=True)
        self.venv = root / ".venv"
        shutil.copytree(venv, self.venv, symlinks=True)
        (root / "images").mkdir()
        self.pin(wheel(self.index, "pinned", {"pinned.py": "HERE = True\n"}))
        self.configure(f"[global]\nno-index = true\nfind-links = {self.index} {root / 'missing'}\n")
        # The package uv is one whose script calls the real uv, which the tests' environment has.
        self.offer_uv(f'exec {Path(sys.executable).parent / "uv"} "$@"')

    def offer_uv(self, script: str) -> None:
        (self.root / "uv-was-called").unlink(missing_ok=True)
        text = f"#!/bin/sh\ntouch {self.root / 'uv-was-called'}\n{script}\n"
        sha = wheel(self.index, "uv", {"uv-1.0.data/scripts/uv": text})
        (self.root / UV).write_text(f"uv==1.0 --hash=sha256:{sha}\n")

    def pin(self, sha: str, version: str = "1.0") -> None:
        (self.root / "requirements.txt").write_text(f"pinned=={version} --hash=sha256:{sha}\n")

    def configure(self, text: str) -> None:
        (self.root / "pip.conf").write_text(text)

    def install(self) -> None:
        Installer(self.root, self.venv).install("requirements.txt")

    @property
    def uv_was_called(self) -> bool:
        return (self.root / "uv-was-called").exists()

    @property
    def installed(self) -> bool:
        return any(self.venv.glob("lib/*/site-packages/pinned.py"))

    def installer(self) -> str:
        """The package's installer, as its metadata says (PEP 376)."""
        (file,) = self.venv.glob("lib/*/site-packages/pinned-*.dist-info/INSTALLER")
        return file.read_text().strip()


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One is made, and copied for each test: pip's own installation takes seconds."""
    made = tmp_path_factory.mktemp("venv") / "made"
    subprocess.run([sys.executable, "-m", "venv", str(made)], check=True)
    return made


@pytest.fixture
def place(tmp_path: Path, venv: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    made = Place(tmp_path / "checkout", venv)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(made.root / "pip.conf"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return made


def test_install_uses_uv_and_the_index_of_pip_configuration(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.install()
    assert place.installer() == "uv"
    assert "notice" not in capsys.readouterr().out


def test_install_falls_back_to_pip_when_uv_has_no_wheel(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (place.index / "uv-1.0-py3-none-any.whl").unlink()
    place.install()
    assert place.installer() == "pip"
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("notice")]
    assert line.startswith("notice: uv was not installed: ERROR: No matching distribution found for uv==1.0")
    assert line.endswith("; pip installs the packages, which takes about a minute longer")


def test_install_falls_back_to_pip_when_uv_fails(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.offer_uv("echo 'error: no route to https://me:hunter2@mirror' >&2; exit 2")
    place.install()
    assert place.installer() == "pip"
    said = capsys.readouterr().out
    assert "notice: uv failed: error: no route to https://***@mirror; pip installs" in said
    assert "hunter2" not in said


def test_install_refuses_a_package_whose_hash_is_another(place: Place) -> None:
    place.pin("0" * 64)
    with pytest.raises(SetupError, match=r"(?s)^the packages of requirements\.txt were not installed:.*HASH"):
        place.install()
    assert place.uv_was_called
    assert not place.installed


def test_install_checks_hashes_when_the_user_told_uv_not_to(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.pin("0" * 64)
    monkeypatch.setenv("UV_NO_VERIFY_HASHES", "1")
    with pytest.raises(SetupError):
        place.install()
    assert not place.installed


def test_environment_made_by_pip_goes_on_with_uv(place: Place) -> None:
    """An older release installed with pip, and had no stamp for uv."""
    pip = [place.venv / "bin/python", "-m", "pip", "install", "-q", "--require-hashes"]
    subprocess.run([*pip, "-r", place.root / "requirements.txt"], check=True)
    assert place.installer() == "pip"
    place.pin(wheel(place.index, "pinned", {"pinned.py": "HERE = 'still'\n"}, version="1.1"), "1.1")
    place.install()
    assert place.installer() == "uv"


@pytest.mark.parametrize("text", ["uv failed:\n  first\n\n  last", "uv failed:\nlast"])
def test_cause_is_one_line(text: str) -> None:
    assert cause(SetupError(text)) == "uv failed: last"


def test_uv_has_one_pin() -> None:
    """One uv installs here and in the images."""
    files = [path for path in ROOT.rglob("requirements*.txt") if ".venv" not in path.parts]
    assert [path.name for path in files if "\nuv==" in "\n" + path.read_text()] == [Path(UV).name]
