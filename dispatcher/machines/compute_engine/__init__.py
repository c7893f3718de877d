"""The `compute-engine` provider."""
