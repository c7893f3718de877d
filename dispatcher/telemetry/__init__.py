"""Telemetry: metrics, traces, and logs that carry the ids of their session and machine."""
