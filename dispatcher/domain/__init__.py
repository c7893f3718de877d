"""The core: records, and policies as pure functions. It does no I/O and imports only itself."""
