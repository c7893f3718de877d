"""A Daily REST API to test against; the tests of the transport beside it."""
