"""The mutants of a function: changes to its source that tests of its gradient should detect."""

import ast
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

from fbp.verify.mutate import _arithmetic, _calls
from fbp.verify.mutate._context import Context, Function

OPERATORS: dict[str, Callable[[Any, Context], Iterator[ast.AST]]] = {
    "sign": _arithmetic.sign,
    "term": _arithmetic.term,
    "factor": _arithmetic.factor,
    "constant": _arithmetic.constant,
    "condition": _arithmetic.condition,
    "order": _arithmetic.order,
    "index": _arithmetic.index,
    "axis": _calls.axis,
    "function": _calls.function,
    "transpose": _calls.transpose,
    "mask": _calls.mask,
    "scatter": _calls.scatter,
    "names": _calls.names,
    "precision": _calls.precision,
}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change to one function.

    Attributes:
      file: the path of the file.
      line: the line number.
      before: the statement without the change, on one line.
      after: the statement with the change.
      operator: the kind of bug, a key of `OPERATORS`.
      function: the qualified name of the function, such as `RMSNorm.backward`.
      start, end: the range of bytes of the file that is replaced.
      text: the replacement.
    """

    file: str
    line: int
    before: str
    after: str
    operator: str
    function: str
    start: int = dataclasses.field(repr=False)
    end: int = dataclasses.field(repr=False)
    text: str = dataclasses.field(repr=False)

    def __str__(self) -> str:
        before, after = shortened(self.before, self.after)
        return f"{shown(self.file)}:{self.line}  {before}  ->  {after}"

    def applied(self, source: bytes) -> bytes:
        """The source of the file with the change."""
        return source[: self.start] + self.text.encode() + source[self.end :]


@dataclasses.dataclass(frozen=True)
class Place:
    """A function in a file: its qualified name, and its syntax node."""

    file: str
    name: str
    node: Function


def mutants_in(places: list[Place]) -> list[Mutant]:
    """All mutants of the functions that compile, without duplicates."""
    found: list[Mutant] = []
    for file in dict.fromkeys(place.file for place in places):
        with open(file, "rb") as opened:
            source = opened.read()
        seen = {ast.dump(ast.parse(source))}
        for place in places:
            if place.file == file:
                found += _of_function(place, source, seen)
    return found


def _of_function(place: Place, source: bytes, seen: set[str]) -> Iterator[Mutant]:
    starts = line_starts(source)
    whole = ast.parse(source)
    statements = _statements(whole)
    context = Context(place.node, imported(whole))
    for node in sorted(context.nodes, key=lambda n: (getattr(n, "lineno", 0), _column(n))):
        if not hasattr(node, "lineno"):
            continue
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        for operator, mutate in OPERATORS.items():
            for new in mutate(node, context):
                text = ast.unparse(ast.fix_missing_locations(new))
                # As many lines as before, so that later lines keep their numbers.
                lines = "\n" * (node.end_lineno - node.lineno - text.count("\n"))
                text = f"({text}{lines})" if isinstance(node, ast.expr) else text + lines
                changed = source[:start] + text.encode() + source[end:]
                try:
                    tree = ast.parse(changed)
                    compile(tree, place.file, "exec", dont_inherit=True)
                except (SyntaxError, ValueError):
                    continue
                key = ast.dump(tree)
                if key in seen:
                    continue
                seen.add(key)
                at = _statement_around(statements, node.lineno, node.col_offset)
                before, after = _line(statements[at]), _line(_statements(tree)[at])
                yield Mutant(
                    *(place.file, node.lineno, before, after, operator, place.name),
                    *(start, end, text),
                )


def _column(node: Any) -> tuple[int, int, int]:
    # Of two nodes that start at the same place, the outer one comes first.
    return (
        getattr(node, "col_offset", 0),
        -getattr(node, "end_lineno", 0),
        -getattr(node, "end_col_offset", 0),
    )


def line_starts(source: bytes) -> list[int]:
    """The byte at which each line starts."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


def imported(tree: ast.AST) -> set[str]:
    """The names that import statements bind."""
    return {
        alias.asname or alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


def _statements(tree: ast.AST) -> dict[tuple[int, int], ast.stmt]:
    return {
        (node.lineno, node.col_offset): node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt)
    }


def _statement_around(
    statements: dict[tuple[int, int], ast.stmt], line: int, column: int
) -> tuple[int, int]:
    return max(at for at in statements if at <= (line, column))


def _line(statement: Any) -> str:
    """A statement on one line; of `if`, `while` and `for` only the head."""
    if isinstance(statement, ast.If | ast.While):
        return f"if {ast.unparse(statement.test)}"
    if isinstance(statement, ast.For):
        return f"for {ast.unparse(statement.target)} in {ast.unparse(statement.iter)}"
    return " ".join(ast.unparse(statement).split())


def shown(file: str) -> str:
    """The shorter of the path as given and the path relative to the current folder."""
    return min(os.path.relpath(file), file, key=len)


def shortened(before: str, after: str, width: int = 64) -> tuple[str, str]:
    """Two lines without the text that they share far from where they differ."""
    if max(len(before), len(after)) <= width:
        return before, after
    same = 0
    while same < min(len(before), len(after)) and before[same] == after[same]:
        same += 1
    rest = 0
    while rest < min(len(before), len(after)) - same and before[-1 - rest] == after[-1 - rest]:
        rest += 1
    around = max(8, (width - (max(len(before), len(after)) - same - rest)) // 2)
    first = max(0, same - around)
    last = max(0, rest - around)
    parts = [line[first : len(line) - last] for line in (before, after)]
    return tuple(f"{'...' * (first > 0)}{p}{'...' * (last > 0)}" for p in parts)  # type: ignore[return-value]
