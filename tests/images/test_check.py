"""A build's check of its voice activity detector: Pipecat's own, and stand-ins that are broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.images.conftest import CHECKOUT
from tests.patience import PATIENCE

DETECTOR = """\
import socket
import numpy

class SileroVADAnalyzer:
    def __init__(self, sample_rate):
        {load}

    def set_sample_rate(self, rate):
        pass

    def voice_confidence(self, samples):
        assert len(samples) == 1024
        return numpy.array([{confidence}])
"""


def check(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """As `images/models.sh` runs it."""
    return subprocess.run(
        [sys.executable, "-P", CHECKOUT / "images" / "check.py", "onnx"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_pipecats_detector_passes() -> None:
    result = check({})
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("confidence", "load", "complaint"),
    [
        ("1.0 if any(samples) else 0.0", "pass", ""),
        ("0.0", "pass", "the detector (onnx) does not hear a voice: 0.0"),
        ("1.0", "pass", "the detector (onnx) takes silence for speech: 1.0"),
        ("numpy.nan", "pass", "the detector (onnx) takes silence for speech: nan"),
        ("numpy.nan if any(samples) else 0.0", "pass", "the detector (onnx) does not hear a voice: nan"),
        ("0.0", "raise OSError('there is no model')", "there is no model"),
        ("0.0", "socket.create_connection(('192.0.2.1', 443), 1)", "there is no network"),
        ("0.0", "socket.getaddrinfo('models.example', 443)", "there is no network"),
    ],
)
def test_a_detector_that_is_broken_fails_the_build(
    tmp_path: Path, confidence: str, load: str, complaint: str
) -> None:
    module = tmp_path / "pipecat" / "audio" / "vad" / "silero.py"
    module.parent.mkdir(parents=True)
    module.write_text(DETECTOR.format(confidence=confidence, load=load))
    for package in ("pipecat", "pipecat/audio", "pipecat/audio/vad"):
        (tmp_path / package / "__init__.py").touch()
    result = check({"PYTHONPATH": str(tmp_path)})
    assert (result.returncode != 0) is bool(complaint)
    assert complaint in result.stderr
