"""Machines: the provider contract, the providers, and the channels to running machines."""
