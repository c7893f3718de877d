"""Proxy between the dispatcher and a Docker engine, whose socket is the host's root.

It runs in a container of its own, from the dispatcher's image: `python -m dispatcher.engine_proxy`. It lets
through what the `container` provider asks for, and nothing else: rules.py says what that is.
"""
