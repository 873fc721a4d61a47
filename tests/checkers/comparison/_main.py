"""Every checker on every rule, and the text that says what came of it."""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import jax

from comparison._case import cases, installed
from comparison._checkers import CHECKERS
from comparison._record import Record
from comparison._run import run_all
from comparison._tables import bug_table, by_name, right_table


def main(
    seeds: int = 5,
    only: str = "",
    sizes: str = "tiny,real",
    checkers: str = "",
    told: bool = False,
    bugs: bool = False,
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
    if bugs:
        chosen = [case for case in chosen if case.bug]
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
    wrong_ones = sum(case.bug is not None for case in chosen)
    where = f"{os.cpu_count()} cores, jax {jax.__version__}, "
    where += f"{wrong_ones} wrong and {len(chosen) - wrong_ones} "
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
