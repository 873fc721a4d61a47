"""What fbp says of the rules and programs of public JAX libraries.

    python experiments/libraries.py [--only REGEX] [--limit SECONDS] [--workers N] [--json FILE]

Installs nothing: it checks what is installed of the libraries that `_libraries/` has a file for.
Each case runs in a process of its own, which is ended after `--limit` seconds, 120 by default.

For 137 checks and 72 audits of 27 libraries; of 23 of them, 120 checks and 61 audits take about 9
minutes on 2 quiet cores with --workers 2, the solvers of the others longer. Expected: a line for
each that says OK or CONVENTION, but for the known bugs, "true bug", which are printed with their
reason, and with the numbers that prove it without fbp. What else is there is a mistake of fbp's:
"false alarm", "crashed" or "out of time". The last line counts them.
"""

import argparse
import ast
import concurrent.futures
import importlib
import importlib.metadata
import importlib.util
import json
import math
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "_libraries"
RIGHT = ("OK", "CONVENTION")


def main(only: str = "", limit: float = 120, workers: int = 1, file: Path | None = None):
    """Runs the cases whose `library.name` matches, prints the table, and returns its rows."""
    cases = [
        (library, kind, name)
        for library in installed()
        for kind, name in cases_of(library)
        if re.search(only, f"{library}.{name}")
    ]
    versions = {library: version(library) for library, _, _ in cases}
    rows = []
    print(f"{'library':24}{'version':10}{'kind':6} {'case':34}{'verdict':17}seconds", flush=True)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for row in pool.map(lambda case: run(*case, limit), cases):
            row["version"] = versions[row["library"]]
            rows.append(row)
            print(line(row), flush=True)
            if file is not None:
                file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    bugs = [row for row in rows if row["outcome"] == "true bug"]
    print(*[f"{row['library']}.{row['name']}: {row['why']}" for row in bugs], sep="\n")
    print(summary(rows))
    return rows


def installed() -> list[str]:
    """The libraries that have cases and can be imported."""
    names = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
    return [name for name in names if importlib.util.find_spec(name) is not None]


def version(library: str) -> str:
    distributions = importlib.metadata.packages_distributions().get(library, ["?"])
    return importlib.metadata.version(distributions[0])


def cases_of(library: str) -> list[tuple[str, str]]:
    """The kind and the name of each case, read from the file without importing the library."""
    found = []
    for node in ast.parse((FOLDER / f"{library}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            if any("audit" in ast.unparse(decorator) for decorator in node.decorator_list):
                found.append(("audit", node.name))
        elif ast.unparse(node).startswith("check("):
            found.append(("check", ast.literal_eval(node.value.args[0])))
    return found


def run(library: str, kind: str, name: str, limit: float) -> dict[str, Any]:
    """The row of one case, which runs in a process of its own."""
    row = {"library": library, "kind": kind, "name": name, "verdict": "", "seconds": limit}
    command = [sys.executable, __file__, "--limit", str(limit), "--case", library, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {**row, "outcome": "out of time"}
    try:
        return {**row, **json.loads(done.stdout.splitlines()[-1])}
    except (IndexError, ValueError):
        return {**row, "outcome": "crashed", "text": done.stderr[-3000:]}


def run_here(library: str, name: str, limit: float) -> dict[str, Any]:
    """What fbp says of one case, and whether that is right."""
    from _libraries._cases import CASES

    import fbp

    warnings.filterwarnings("ignore")
    importlib.import_module(f"_libraries.{library}")
    case = CASES[name]
    f, *args = case.make()
    # What a check has not begun by then it leaves out, and says so.
    options = {"seconds": 0.6 * limit, **case.options} if case.kind == "check" else case.options
    started, cpu = time.perf_counter(), time.process_time()
    try:
        report = (fbp.audit if case.kind == "audit" else fbp.check)(f, *args, **options)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - started
        return {"outcome": "crashed", "seconds": seconds, "text": text}
    cpu = time.process_time() - cpu
    row = {"verdict": report.verdict, "seconds": report.seconds, "cpu": cpu, "text": str(report)}
    if case.bug is None:
        return {**row, "outcome": _outcome(report.verdict)}
    given, right = case.bug.proof()
    shown = f"the rule gives {given:.6g}, right is {right:.6g}"
    if math.isclose(given, right, rel_tol=1e-6):
        outcome = "mended" if report.verdict in RIGHT else "false alarm"
    elif report.verdict == case.bug.verdict:
        outcome = "true bug"
    else:
        outcome = f"missed: expected {case.bug.verdict}"
    return {**row, "outcome": outcome, "why": f"{case.bug.why}: {shown}"}


def _outcome(verdict: str) -> str:
    return "right" if verdict in RIGHT else "false alarm"


def line(row: dict[str, Any]) -> str:
    says = "" if row["outcome"] == "right" else f"  {row['outcome']}"
    place = f"{row['library']:24}{row['version'][:9]:10}{row['kind']:6} {row['name']:34}"
    return f"{place}{row['verdict']:17}{row['seconds']:7.1f}{says}"


def summary(rows: Sequence[dict[str, Any]]) -> str:
    kinds, outcomes = Counter(r["kind"] for r in rows), Counter(r["outcome"] for r in rows)
    missed = sum(n for outcome, n in outcomes.items() if outcome.startswith("missed"))
    seconds = sorted(row["seconds"] for row in rows)
    return (
        f"{kinds['check']} checks and {kinds['audit']} audits of "
        f"{len({row['library'] for row in rows})} libraries: {outcomes['crashed']} crashed, "
        f"{outcomes['false alarm']} false alarms, {outcomes['out of time']} out of time; "
        f"{outcomes['true bug']} true bugs found, {missed} missed; seconds: "
        f"median {statistics.median(seconds):.1f}, p90 {seconds[int(0.9 * len(seconds))]:.1f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", metavar="REGEX", default="")
    parser.add_argument("--limit", metavar="SECONDS", type=float, default=120)
    parser.add_argument("--workers", metavar="N", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(run_here(*given.case, given.limit)))
    else:
        main(given.only, given.limit, given.workers, given.json)
