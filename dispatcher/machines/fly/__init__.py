"""Machines as Fly Machines."""
