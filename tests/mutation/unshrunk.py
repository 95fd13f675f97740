"""A plugin of pytest: a failing example of Hypothesis is enough, no smaller one is looked for."""

from hypothesis import Phase, settings


def pytest_sessionstart() -> None:
    """After the tests' own profile was loaded, and before tests are collected."""
    usual = settings.get_profile("voxfit")
    settings.register_profile("unshrunk", usual, phases=(Phase.explicit, Phase.generate))
    settings.load_profile("unshrunk")
