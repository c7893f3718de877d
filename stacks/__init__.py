"""The infrastructure: one package per cloud, and the engine that runs them."""
