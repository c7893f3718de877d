"""Machines as containers of a Docker engine, or of Podman's service."""
