"""What all tests share: float64 on demand, and property tests that are the same in every run."""

from collections.abc import Iterator

import hypothesis
import jax
import pytest

hypothesis.settings.register_profile(
    "fbp", derandomize=True, database=None, deadline=None, print_blob=True
)
hypothesis.settings.load_profile("fbp")


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 inside one test."""
    with jax.enable_x64(True):
        yield
