"""What the tests of every folder may use."""

import hypothesis

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("switchboard", deadline=None)
hypothesis.settings.load_profile("switchboard")

pytest_plugins = ["tests.postgres", "tests.engine", "tests.base_image"]
