"""The HTTP interface, for clients, machines and operators."""
