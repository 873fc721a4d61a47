"""One checker on one rule, and all on all."""

import dataclasses
import sys
import time
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from comparison._case import Case
from comparison._checkers import CHECKERS
from comparison._floats import as_dtype
from comparison._record import ERROR, SLOW, Record
from comparison._said import TooSlow, shortened


def run(case: Case, size: str, dtype: str, name: str, seeds: int, limit: float) -> list[Record]:
    """One checker on one case: one function for all seeds, so that all but the first are warm."""
    checker, records = CHECKERS[name], []
    f = None
    for seed in range(seeds):
        begin = time.perf_counter()
        said: dict[str, Any] = {}
        with jax.enable_x64(checker.wide or dtype == "float64"):
            try:
                f = f or case.make()
                args = as_dtype(case.args(np.random.default_rng(seed), size), dtype)
                begin = time.perf_counter()
                outcome, said = checker.check(case, f, args, limit)
            except TooSlow:
                outcome = SLOW
            except Exception as error:
                outcome, said = ERROR, {"message": shortened(error)}
        seconds = time.perf_counter() - begin
        wrong = case.bug is not None
        record = Record(case.name, wrong, size, dtype, seed, name, outcome, seconds, **said)
        records.append(record)
        if outcome == SLOW:  # so would it be with the other seeds
            records += [dataclasses.replace(record, seed=i) for i in range(seed + 1, seeds)]
            break
    return records


def run_all(
    chosen: list[Case], sizes: Iterable[str], names: list[str], seeds: int, limit: float
) -> list[Record]:
    """All records. The checkers take turns in being first, which meets an operation uncompiled."""
    records = []
    for i, case in enumerate(chosen):
        for size in sizes:
            for name in names[i % len(names) :] + names[: i % len(names)]:
                # The others are compared in the dtypes that they are used in.
                dtypes = case.dtypes if CHECKERS[name].all_dtypes else ("float32",)
                for dtype in dtypes:
                    records += run(case, size, dtype, name, seeds, limit)
        if i % 50 == 49:
            jax.clear_caches()
        done = f"{i + 1}/{len(chosen)}"
        print(f"\r{done} {case.name[:60]:60}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return records
