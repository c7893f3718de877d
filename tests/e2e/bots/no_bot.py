"""A file with no bot in it."""
