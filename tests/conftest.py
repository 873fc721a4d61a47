"""What all tests share: float64 on demand, programs that compile quickly, and property tests that
are the same in every run. JAX_DISABLE_MOST_OPTIMIZATIONS=0 compiles them as users do.
"""

import gc
import os
from collections.abc import Iterator

import hypothesis
import jax
import jaxlib.version
import pytest

# Nearly all of a test's time is XLA's, which compiles it for one run.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    jax.config.update("jax_disable_most_optimizations", True)
    # Programs that tests start inherit these. XLA stops at a flag that it does not know.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
    if jaxlib.version.__version_info__ < (0, 11):
        quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        os.environ["XLA_FLAGS"] = f"{quick} {os.environ.get('XLA_FLAGS', '')}".strip()

hypothesis.settings.register_profile(
    "fbp", derandomize=True, database=None, deadline=None, print_blob=True
)
hypothesis.settings.load_profile("fbp")


def pytest_collection_finish() -> None:
    """What is imported and collected stays to the end, so the garbage collector passes it over."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 inside one test."""
    with jax.enable_x64(True):
        yield
