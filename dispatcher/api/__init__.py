"""HTTP: what clients, machines and operators call."""
