"""Proxy between the dispatcher and a Docker engine, because the engine's socket gives root on the host.

It runs in a container of its own, from the dispatcher's image: `python -m dispatcher.engine_proxy`. It passes
only requests that the `container` provider makes: rules.py defines them.
"""
