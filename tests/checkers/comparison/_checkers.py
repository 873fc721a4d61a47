"""python experiments/checkers.py [--seeds N] [--only REGEX] [--sizes tiny,real] [--checkers REGEX]
                                  [--told] [--fast] [--workers N] [--limit S] [--json FILE]

About 6 hours on the 2 cores of a 2.6 GHz Xeon with five seeds and both sizes; with --fast (one
seed, tiny, torch's fast mode only) about 30 minutes. Expected, at tiny sizes with five seeds of 341
bugs, 1,705 runs each (of fbp, fast, with two):

                     detected   leaf named   term named   warm, median
    fbp                100.0 %      100.0 %       90.7 %         0.14 s
    fbp, fast           96.2 %       96.7 %       66.9 %         0.05 s
    check_grads         86.3 %                                   0.02 s
    check_grads f64     89.9 %                                   0.02 s
    chex                66.3 %                                   0.02 s
    gradcheck           86.1 %                                   0.12 s
    gradcheck, fast     83.6 %                                   0.12 s

Gradient checkers beside each other: on rules with a planted bug (`planted.BUGS`), and on rules that
are right (`planted.CORRECT`, `alternatives.RULES`), where whatever is said is a false alarm. Each
has the same functions and the same random arguments:

    fbp                 fbp.check(f, *args), as it is and with budget="fast"
    check_grads         jax.test_util.check_grads with order=1, modes=("rev",) and its default
                        tolerances, in float32. (Its default modes need a forward derivative,
                        which a custom_vjp has not; order 2 differentiates twice.)
    check_grads f64     the same in float64, atol = rtol = 1e-6, eps = cbrt(2^-52) = 6e-6
    chex                chex.assert_numerical_grads(f, args, order=1, modes=("rev",)), float32
    gradcheck           torch.autograd.gradcheck at its defaults, in float64, of a Function that
                        calls the jitted f, and jax.vjp of it; and with fast_mode=True

The others are given f's float arguments alone; integers, keys and None are closed over. Detected
means that a checker says: the gradient is wrong. A checker that stops for another reason (a dtype,
a tracer, its own limits) counts under `error`; one that would take longer than --limit seconds, or
hold a Jacobian of more than 50 million numbers, under `slow`; neither is a detection. With --told
the bugs that show only at a special input or in a special use are given with it, to all alike.

Three rules that count as right raise alarms, which are true. Of `stats.norm.logcdf`, with the first
seed at tiny sizes in float32 (RANGE): deep in the tail jax 0.10.2's own derivative of log_ndtr,
which it takes, loses its digits: at -1500 it is 1595.6, and should be 1500.0. Of optax's
weighted_logsoftmax, and of safe_softmax_cross_entropy, which is made of it, at real sizes
(VARIANT): under `vmap` with one argument unbatched jaxlib 0.10.2 compiles them wrongly for a CPU,
and the gradient of all but the first of a batch is another one. With jaxlib 0.12.0, or with
XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type= , it is right.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FBP, FBP_FAST = "fbp", "fbp, fast"
DETECTED, PASSED, ERROR, SLOW = "detected", "passed", "error", "slow"
UNVERIFIABLE, OTHER = "unverifiable", "other verdict"
ENTRIES = 50_000_000  # of a dense Jacobian: 400 MB, and gradcheck holds several


class TooSlow(Exception):
    """The time that a check may take is over."""


@dataclass(frozen=True)
class Case:
    """One rule: wrong if it has a bug, right otherwise."""

    name: str
    make: Callable[[], Callable]
    args: Callable[[np.random.Generator, str], tuple]
    bug: Any = None
    reference: Callable | None = None
    dtypes: tuple[str, ...] = ("float32",)

    @property
    def family(self) -> str:
        return self.name.split("/")[0]


@dataclass(frozen=True)
class Record:
    """What one checker said of one case, once."""

    case: str
    wrong: bool
    size: str
    dtype: str
    seed: int
    checker: str
    outcome: str
    seconds: float
    verdict: str = ""
    leaf_named: bool | None = None
    term_named: bool | None = None
    message: str = ""


def cases(told: bool = False) -> tuple[list[Case], list[str]]:
    """All rules that can be run here, and a line for each that cannot."""
    import alternatives
    import planted

    found, notes = [], []
    for bug in planted.BUGS:
        args, make = bug.args, bug.make
        if told and bug.at:
            args = bug.at
        if told and bug.within:
            make = functools.partial(lambda bug: bug.within(bug.make()), bug)
        found.append(Case(bug.name, make, args, bug))
    dtypes = ("float32", "float64", "bfloat16")
    for rule in planted.CORRECT:
        found.append(Case(f"{rule.name}/right", rule.make, rule.args, dtypes=dtypes))
    for rule in alternatives.RULES:
        if missing := [name for name in rule.needs if not installed(name)]:
            notes.append(f"skipped: {rule.name}, {', '.join(missing)} is not installed")
            continue
        found.append(
            Case(rule.name, rule.make, rule.args, None, rule.reference, tuple(rule.dtypes))
        )
    return found, notes


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a package above it is missing, or is None in sys.modules
        return False


def is_float(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def as_dtype(args: tuple, dtype: str) -> tuple:
    """The arguments on the device, float leaves in this dtype, complex ones as wide."""

    def cast(leaf: Any) -> Any:
        if not hasattr(leaf, "dtype") or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            return jnp.asarray(leaf, jnp.result_type(dtype, jnp.complex64))
        return jnp.asarray(leaf, dtype if is_float(leaf) else None)

    return jax.tree.map(cast, args)


def parted(f: Callable, args: tuple) -> tuple[Callable, list[jax.Array], list[Any]]:
    """h(floats, others) gives f's float outputs; and its float leaves, and the other ones."""
    leaves, tree = jax.tree.flatten(args)
    where = [is_float(leaf) for leaf in leaves]

    def h(floats: Iterable[Any], others: Iterable[Any]) -> tuple:
        floats, others = iter(floats), iter(others)
        full = [next(floats if here else others) for here in where]
        return tuple(y for y in jax.tree.leaves(f(*jax.tree.unflatten(tree, full))) if is_float(y))

    parts = (
        [leaf for leaf, here in zip(leaves, where, strict=True) if here == kind] for kind in (1, 0)
    )
    return h, *parts


def of_floats(f: Callable, args: tuple) -> tuple[Callable, list[jax.Array]]:
    """f as a function of its float leaves that gives its float outputs, and those leaves."""
    h, floats, others = parted(f, args)
    return lambda *xs: h(xs, others), floats


# A check takes a case, its function, the arguments in float32 and the seconds it may take. It gives
# an outcome and what else there is to record, or raises.
Said = tuple[str, dict[str, Any]]
Check = Callable[[Case, Callable, tuple, float], Said]


def by_fbp(budget: str, case: Case, f: Callable, args: tuple, limit: float) -> Said:
    import fbp

    report = fbp.check(f, *args, reference=case.reference, budget=budget)
    said: dict[str, Any] = {"verdict": report.verdict}
    if case.bug is None:
        outcome = PASSED if report.ok else DETECTED
        if report.verdict == UNVERIFIABLE.upper():
            outcome = UNVERIFIABLE
        elif not report.ok:
            said["message"] = str(report)
        return outcome, said
    if report.verdict in case.bug.verdicts:
        outcome = DETECTED
    elif report.verdict == UNVERIFIABLE.upper():
        outcome = UNVERIFIABLE
    else:
        outcome = PASSED if report.ok else OTHER
    wrong = {str(row.path) for row in report.leaves if row.verdict != "OK"}
    if case.bug.leaves:
        said["leaf_named"] = wrong == set(case.bug.leaves)
    hints = list(report.hints)[:3]
    said["term_named"] = any(names(hint, right) for hint in hints for right in case.bug.right)
    told = "; ".join(f"{hint.leaf} {hint.kind}: {hint.text}" for hint in hints)
    said["message"] = f"leaves {sorted(wrong)}; {told}"
    return outcome, said


def names(hint: Any, right: str) -> bool:
    """Whether a hint is of the right kind, and says what "kind:regex" asks of its text."""
    kind, _, text = right.partition(":")
    return hint.kind == kind and re.search(text, hint.text) is not None


def complaint(check: Callable[[], None], errors: type[Exception], about: str) -> Said:
    """Detected if the check raises `errors` with a message about a gradient."""
    try:
        check()
    except errors as error:
        if not re.search(about, str(error)):
            raise
        return DETECTED, {"message": shortened(error)}
    return PASSED, {}


MISMATCH = r"Not equal to tolerance|Mismatched elements|not close|x and y"


def by_check_grads(wide: bool, case: Case, f: Callable, args: tuple, limit: float) -> Said:
    from jax.test_util import check_grads

    options: dict[str, Any] = {}
    if wide:
        options = {"atol": 1e-6, "rtol": 1e-6, "eps": float(np.cbrt(np.finfo(np.float64).eps))}
        args = as_dtype(args, "float64")
    g, floats = of_floats(f, args)
    check = functools.partial(check_grads, g, floats, order=1, modes=("rev",), **options)
    return complaint(check, AssertionError, MISMATCH)


def by_chex(case: Case, f: Callable, args: tuple, limit: float) -> Said:
    import chex

    g, floats = of_floats(f, args)
    check = functools.partial(chex.assert_numerical_grads, g, floats, order=1, modes=("rev",))
    return complaint(check, AssertionError, MISMATCH)


JACOBIAN = r"Jacobian mismatch|not reentrant|[Nn]umerical gradient for function expected to be zero"


def by_gradcheck(fast: bool, case: Case, f: Callable, args: tuple, limit: float) -> Said:
    """In float64, as torch asks: a Function around the jitted f and its jitted rule."""
    import torch
    from torch.autograd.gradcheck import GradcheckError, gradcheck

    h, floats, others = parted(f, as_dtype(args, "float64"))
    forward, backward = compiled(f, h)
    if not fast:
        outputs = jax.eval_shape(forward, floats, others)
        entries = sum(x.size for x in floats) * sum(y.size for y in outputs)
        if entries > ENTRIES:
            return SLOW, {"message": f"a Jacobian of {entries:.1e} numbers"}
    begin = time.monotonic()

    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *xs: Any) -> Any:
            if time.monotonic() - begin > limit:
                raise TooSlow
            ctx.save_for_backward(*xs)
            return tuple(map(to_torch, forward([to_numpy(x) for x in xs], others)))

        @staticmethod
        def backward(ctx: Any, *dys: Any) -> Any:
            if time.monotonic() - begin > limit:
                raise TooSlow
            # The gradient of jax is the conjugate of torch's.
            xs = [to_numpy(x) for x in ctx.saved_tensors]
            dxs = backward(xs, others, tuple(np.conj(to_numpy(dy)) for dy in dys))
            return tuple(to_torch(np.conj(dx)) for dx in dxs)

    def to_torch(x: Any) -> Any:
        return torch.tensor(np.array(x))

    def to_numpy(x: Any) -> np.ndarray:
        return x.detach().resolve_conj().numpy()

    xs = tuple(to_torch(x).requires_grad_() for x in floats)
    check = functools.partial(gradcheck, Rule.apply, xs, fast_mode=fast)
    return complaint(check, GradcheckError, JACOBIAN)


@functools.lru_cache(maxsize=1)
def compiled_once(f: Callable) -> dict[str, tuple[Callable, Callable]]:
    return {}


def compiled(f: Callable, h: Callable) -> tuple[Callable, Callable]:
    """The jitted f and its jitted vjp, the same for all arguments of one tree."""
    kept = compiled_once(f)
    if not kept:

        def backward(floats: Any, others: Any, dys: Any) -> Any:
            return jax.vjp(lambda xs: h(xs, others), floats)[1](dys)[0]

        kept["f"] = (jax.jit(h), jax.jit(backward))
    return kept["f"]


@dataclass(frozen=True)
class Checker:
    """One way to check a gradient; `wide` where it works in float64."""

    check: Check
    needs: str
    wide: bool = False
    all_dtypes: bool = False


CHECKERS = {
    FBP: Checker(functools.partial(by_fbp, "default"), "fbp", all_dtypes=True),
    FBP_FAST: Checker(functools.partial(by_fbp, "fast"), "fbp", all_dtypes=True),
    "check_grads": Checker(functools.partial(by_check_grads, False), "jax"),
    "check_grads f64": Checker(functools.partial(by_check_grads, True), "jax", wide=True),
    "chex": Checker(by_chex, "chex"),
    "gradcheck": Checker(functools.partial(by_gradcheck, False), "torch", wide=True),
    "gradcheck, fast": Checker(functools.partial(by_gradcheck, True), "torch", wide=True),
}


def shortened(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


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


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"


def quantiles(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    return f"{statistics.median(seconds):.2g} / {np.quantile(seconds, 0.95):.2g}"


def aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def counted(records: list[Record], *outcomes: str) -> int:
    return sum(r.outcome in outcomes for r in records)


def bug_table(records: list[Record]) -> str:
    header = ["wrong rules", "runs", "detected %", "missed", "other verdict", "error", "slow"]
    header += ["unverifiable", "leaf %", "term %", "cold s", "warm s"]
    rows = [header]
    for name in present(records):
        mine = [r for r in records if r.checker == name]
        leaf = [r.leaf_named for r in mine if r.leaf_named is not None]
        term = [r.term_named for r in mine if r.term_named is not None]
        timed = [r for r in mine if r.outcome not in (ERROR, SLOW)]
        row = [name, str(len(mine)), percent(counted(mine, DETECTED), len(mine))]
        row += [str(counted(mine, o)) for o in (PASSED, OTHER, ERROR, SLOW, UNVERIFIABLE)]
        row += [percent(sum(leaf), len(leaf)), percent(sum(term), len(term))]
        row += [quantiles([r.seconds for r in timed if (r.seed == 0) == cold]) for cold in (1, 0)]
        rows.append(row)
    return aligned(rows)


def right_table(records: list[Record]) -> str:
    header = ["right rules", "dtype", "runs", "false alarms", "of rules", "error", "slow"]
    header += ["unverifiable", "cold s", "warm s"]
    rows = [header]
    for name in present(records):
        for dtype in dict.fromkeys(r.dtype for r in records if r.checker == name):
            mine = [r for r in records if (r.checker, r.dtype) == (name, dtype)]
            alarms = {r.case for r in mine if r.outcome == DETECTED}
            timed = [r for r in mine if r.outcome not in (ERROR, SLOW)]
            # The table says what a checker works in, which is not always what it was given.
            row = [name, "float64" if CHECKERS[name].wide else dtype, str(len(mine))]
            row += [str(counted(mine, DETECTED)), f"{len(alarms)}/{len({r.case for r in mine})}"]
            row += [str(counted(mine, o)) for o in (ERROR, SLOW, UNVERIFIABLE)]
            row += [
                quantiles([r.seconds for r in timed if (r.seed == 0) == cold]) for cold in (1, 0)
            ]
            rows.append(row)
    return aligned(rows)


def present(records: list[Record]) -> list[str]:
    return [name for name in CHECKERS if any(r.checker == name for r in records)]


def by_name(records: list[Record]) -> str:
    """What fbp got wrong, a line for each case: to be mended."""
    lines: list[str] = []
    wrong = [r for r in records if r.wrong]
    lists = {
        "missed": [r for r in wrong if r.outcome in (PASSED, OTHER, UNVERIFIABLE)],
        "error": [r for r in records if r.outcome == ERROR],
        "false alarm": [r for r in records if not r.wrong and r.outcome == DETECTED],
        "unverifiable": [r for r in records if not r.wrong and r.outcome == UNVERIFIABLE],
        "wrong leaf": [r for r in wrong if r.outcome == DETECTED and r.leaf_named is False],
        "wrong term": [r for r in wrong if r.outcome == DETECTED and r.term_named is False],
    }
    for name in (FBP, FBP_FAST):
        for what, found in lists.items():
            groups: dict[tuple, list[Record]] = {}
            for r in found:
                if r.checker == name:
                    groups.setdefault((r.case, r.size, r.dtype, r.verdict), []).append(r)
            for (case, size, dtype, verdict), group in groups.items():
                where = f"{name}: {what}: {case}, {size} {dtype}, {len(group)} times {verdict}"
                lines.append(f"{where}: {' '.join(group[0].message.split())[:160]}")
    return "\n".join(lines)


def main(
    seeds: int = 5,
    only: str = "",
    sizes: str = "tiny,real",
    checkers: str = "",
    told: bool = False,
    fast: bool = False,
    workers: int = 1,
    part: int = 0,
    limit: float = 20.0,
    json_file: str | None = None,
) -> str:
    """Runs every checker on every rule and returns the tables."""
    if fast:
        seeds, sizes = 1, "tiny"
    chosen, notes = cases(told)
    chosen = [case for case in chosen if re.search(only, case.name)]
    if told:
        chosen = [case for case in chosen if case.bug and (case.bug.at or case.bug.within)]
    if part:
        families = list(dict.fromkeys(case.family for case in chosen))
        chosen = [case for case in chosen if families.index(case.family) % workers == part - 1]
    names = [name for name in CHECKERS if re.search(checkers, name)]
    if fast:
        names = [name for name in names if name != "gradcheck"]
    for package in dict.fromkeys(CHECKERS[name].needs for name in names):
        if not installed(package):
            notes.append(f"skipped: {package} is not installed")
            names = [name for name in names if CHECKERS[name].needs != package]
    if any(CHECKERS[name].needs == "fbp" for name in names):
        import fbp

        if not hasattr(fbp, "check"):
            notes.append("skipped: this fbp has no check")
            names = [name for name in names if CHECKERS[name].needs != "fbp"]
    if workers > 1 and not part:
        records = run_in_processes(workers)
        notes.append(f"{workers} processes at once: the times are not those of a quiet machine")
    else:
        records = run_all(chosen, sizes.split(","), names, seeds, limit)
    if json_file:
        found = {"notes": notes, "records": [asdict(r) for r in records]}
        Path(json_file).write_text(json.dumps(found, indent=1))
    bugs = sum(case.bug is not None for case in chosen)
    where = f"{os.cpu_count()} cores, jax {jax.__version__}, {bugs} wrong and {len(chosen) - bugs} "
    where += f"right rules, {sizes}, {seeds} seeds; seconds are median / 95th percentile"
    wrong, right = [r for r in records if r.wrong], [r for r in records if not r.wrong]
    tables = [bug_table(wrong)] * bool(wrong) + [right_table(right)] * bool(right)
    return "\n\n".join(["\n".join([*notes, where]), *tables, by_name(records)])


def run_in_processes(workers: int) -> list[Record]:
    """This command once more for each worker, with its part of the families."""
    records = []
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / f"{i}.json") for i in range(workers)]
        running = []
        for i, file in enumerate(files):
            command = [sys.executable, *sys.argv, "--part", str(i + 1), "--json", file]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        codes = [process.wait() for process in running]
        if any(codes):
            raise RuntimeError("a process failed; see what it said above")
        for file in files:
            found = json.loads(Path(file).read_text())
            records += [Record(**record) for record in found["records"]]
    return records


if __name__ == "__main__":
    os.environ.setdefault("PJRT_NPROC", "8")  # collectives of four devices on two cores
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description="Compares gradient checkers.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", metavar="REGEX", default="", help="names of rules")
    parser.add_argument("--sizes", default="tiny,real")
    parser.add_argument("--checkers", metavar="REGEX", default="")
    parser.add_argument("--told", action="store_true", help="bugs at their special inputs and uses")
    parser.add_argument("--fast", action="store_true", help="one seed, tiny, no slow gradcheck")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--part", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds for one gradcheck")
    parser.add_argument("--json", dest="json_file", metavar="FILE")
    print(main(**vars(parser.parse_args())))
