"""Tables of what the checkers said, and the lines of what fbp got wrong."""

import statistics

import numpy as np

from comparison._checkers import CHECKERS, FBP, FBP_FAST
from comparison._record import DETECTED, ERROR, OTHER, PASSED, SLOW, UNVERIFIABLE, Record


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
    header += ["unverifiable", "leaf %", "term %", "first line %", "cold s", "warm s"]
    rows = [header]
    for name in present(records):
        mine = [r for r in records if r.checker == name]
        leaf = [r.leaf_named for r in mine if r.leaf_named is not None]
        term = [r.term_named for r in mine if r.term_named is not None]
        timed = [r for r in mine if r.outcome not in (ERROR, SLOW)]
        row = [name, str(len(mine)), percent(counted(mine, DETECTED), len(mine))]
        row += [str(counted(mine, o)) for o in (PASSED, OTHER, ERROR, SLOW, UNVERIFIABLE)]
        first = [r.first_named for r in mine if r.first_named is not None]
        row += [percent(sum(named), len(named)) for named in (leaf, term, first)]
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
        "wrong first line": [r for r in wrong if r.term_named and r.first_named is False],
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
