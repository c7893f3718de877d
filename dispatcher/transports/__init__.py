"""Transports: how audio travels between a client and its bot. One file each."""
