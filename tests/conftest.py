"""What the tests of every folder may use."""

pytest_plugins = ["tests.postgres"]
