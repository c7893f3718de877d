"""Machines: the providers' contract, the providers, and the channels to what runs in them."""
