"""Firewall of the bots' network on an engine's host: `python -m dispatcher.firewall`.

It runs in a container of its own, in the host's network, with NET_ADMIN alone and without the engine's
socket. The engine's proxy tells it the network; ruleset.py says which packets pass.
"""
