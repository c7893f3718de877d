"""Machines of Acme, a cloud in memory."""
