"""The result of `fbp.check`, as a value that prints as a card and converts to JSON."""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

from fbp._columns import align
from fbp._html import lines, shown, table
from fbp.verify.report._cross_check import WrongGradientError

# The verdicts that fail a check. CONVENTION, a choice the mathematics leaves open, does not.
# UNVERIFIABLE does: nothing wrong was found, but something could not be compared.
FAILING = (
    *("STRUCTURE", "NONDETERMINISTIC", "WRONG", "VARIANT", "PRECISION", "RANGE", "VACUOUS"),
    "UNVERIFIABLE",
)
# From most to least severe: the verdict of a rule is the first of these that occurs.
ORDER = (*FAILING, "CONVENTION", "OK")
COLOURS = {"OK": "32", "CONVENTION": "36", "VACUOUS": "33", "UNVERIFIABLE": "33"}


@dataclasses.dataclass(frozen=True)
class Hint:
    """One explanation of a wrong gradient.

    Attributes:
      leaf: the gradient it is about; "" for the whole rule.
      kind: a word for the kind of mistake: "sign", "factor", "term", ...
      text: the explanation, in one line.
    """

    leaf: str
    kind: str
    text: str


@dataclasses.dataclass(frozen=True)
class LeafRow:
    """One gradient of a report.

    Attributes:
      path: the argument it is the gradient of, as in `params.w`.
      dtype: its dtype.
      shape: its shape.
      verdict: the verdict on this gradient.
      error: the largest error in float64, relative to the gradient's largest element.
      excess: the largest error in float64, in units of the error that rounding allows.
      units: the largest error in its dtype on ordinary input, in rounding units.
      control: the same for autodiff.
      catches: for each kind of error, the smallest relative error that would have been caught.
      says: where it is wrong, and how.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    verdict: str
    error: float = 0.0
    excess: float = 0.0
    units: float = 0.0
    control: float = 0.0
    catches: dict[str, float] = dataclasses.field(default_factory=dict)
    says: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of `fbp.check`; `str()` formats it as a card.

    Attributes:
      name: the function.
      verdict: one word: see `fbp.check`.
      leaves: a row for each gradient.
      hints: explanations of a wrong gradient, the best first.
      notes: remarks for the reader: what could not be done, which approximations were accepted.
      variants: for each transformation, "same" or what differs.
      reference: what it was compared with.
      rules: the custom rules in the function.
      probes: how many sets of inputs and cotangents were compared.
      seconds: how long it took.
      reproduce: the function that returns `repro`.
    """

    name: str
    verdict: str
    leaves: tuple[LeafRow, ...] = ()
    hints: tuple[Hint, ...] = ()
    notes: tuple[str, ...] = ()
    variants: dict[str, str] = dataclasses.field(default_factory=dict)
    reference: str = ""
    rules: tuple[str, ...] = ()
    probes: int = 0
    seconds: float = 0.0
    reproduce: Callable[[], str] | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the rule can be trusted: OK, or a CONVENTION."""
        return self.verdict not in FAILING

    @functools.cached_property
    def repro(self) -> str:
        """A runnable program that shows the error on small plain input; "" if there is none."""
        return self.reproduce() if self.reproduce is not None else ""

    def raise_if_wrong(self) -> None:
        """Raises WrongGradientError with the report in one line, unless `ok`."""
        if not self.ok:
            raise WrongGradientError(self.line())

    def line(self) -> str:
        """The report in one line: the verdict, and its reason."""
        parts = [f"{self.verdict} {self.name}"]
        # The gradients that have the verdict of the whole come first.
        rows = sorted(self.leaves, key=lambda r: r.verdict != self.verdict)
        wrong = [f"{r.path} {r.says}".strip() for r in rows if r.verdict not in ("OK", "")]
        parts += wrong[:3]
        parts += [hint.text for hint in self.hints[:1]] or list(self.notes[:1])
        return ": ".join([parts[0], "; ".join(parts[1:])]) if parts[1:] else parts[0]

    def to_json(self, indent: int | None = None) -> str:
        """The report as JSON, with NaN and infinities as strings."""
        return as_json(self.fields(), indent)

    def fields(self) -> dict[str, Any]:
        """The fields of the report that its JSON holds."""
        fields = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "reproduce"
        }
        fields["leaves"] = [dataclasses.asdict(row) for row in self.leaves]
        fields["hints"] = [dataclasses.asdict(hint) for hint in self.hints]
        return {"ok": self.ok, **fields, "repro": self.repro}

    def __str__(self) -> str:
        return self.card()

    def card(self, colour: bool = False) -> str:
        """The report as text, optionally in colour for a terminal."""
        found = [f"{_painted(self.verdict, self.verdict, colour)}  {self.name}"]
        if self.leaves:
            found += [_paint_row(line, colour) for line in align(self.table()).splitlines()]
        return "\n".join([*found, *self._below()])

    def _repr_html_(self) -> str:
        rows = [table(self.table(), FAILING)] if self.leaves else []
        return shown(lines(f"{self.verdict}  {self.name}"), *rows, lines(*self._below()))

    def _below(self) -> list[str]:
        """The lines below the table."""
        said = []
        for hint in self.hints[:4]:
            kind = "match" if hint.kind in ("term", "input", "cotangent") else "hint"
            said.append(f"{kind}  {f'{hint.leaf}: ' if hint.leaf else ''}{hint.text}")
        said += [
            f"variant  {name}: {what}" for name, what in self.variants.items() if what != "same"
        ]
        said += [f"note  {note}" for note in self.notes]
        if self.reference:
            same = sum(what == "same" for what in self.variants.values())
            variants = f"; the same under {same} variants" if same else ""
            said.append(
                f"{self.probes} probes against {self.reference}{variants}; {self.seconds:.2f} s"
            )
        if self.reproduce is not None:
            said.append("a minimal reproduction: print(report.repro)")
        return said

    def table(self) -> list[list[str]]:
        """The cells of the table of gradients; the first row is the header."""
        rows = [["gradient", "shape", "verdict", "float64", "units", "autodiff", "catches", ""]]
        for r in self.leaves:
            shape = f"{r.dtype}[{','.join(map(str, r.shape))}]"
            caught = r.catches.get("scaled", float("inf"))
            rows.append(
                [
                    *(r.path, shape, r.verdict, f"{r.error:.1e}", f"{r.units:.1f}"),
                    *(f"{r.control:.1f}", f"{caught:.0e}", r.says),
                ]
            )
        return rows


def worst(verdicts: Any) -> str:
    """The most severe of several verdicts."""
    found = set(verdicts)
    return next((v for v in ORDER if v in found), "OK")


def as_json(fields: dict[str, Any], indent: int | None) -> str:
    """A report's fields as JSON, with NaN and infinities as strings."""
    return json.dumps(_plain(fields), indent=indent, ensure_ascii=False)


def _painted(text: str, verdict: str, colour: bool) -> str:
    return f"\x1b[1;{COLOURS.get(verdict, '31')}m{text}\x1b[0m" if colour else text


def _paint_row(line: str, colour: bool) -> str:
    for verdict in ORDER if colour else ():
        if f"  {verdict}  " in line:
            return line.replace(f"  {verdict}  ", f"  {_painted(verdict, verdict, True)}  ", 1)
    return line


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value
