"""Time that a test waits for what should happen."""

from __future__ import annotations

PATIENCE = 300.0
"""Seconds. It measures nothing: it ends what hangs, on a machine that other work makes many times slower."""
