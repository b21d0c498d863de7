"""What every test gets: the fixture plugins, one file a topic, and hypothesis profiles."""

import os

from hypothesis import HealthCheck, settings

pytest_plugins = [
    "tests.fixtures.services",
    "tests.fixtures.processes",
    "tests.fixtures.rollup",
    "tests.fixtures.terminal",
    "tests.fixtures.roles",
    "tests.fixtures.older_tzdata",
]

# No test is wrong because the machine is slow.
settings.register_profile(
    "default", deadline=None, derandomize=False, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("default"), max_examples=200, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
