"""`fbp check`."""

import dataclasses
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from fbp.verify.registry._registry import Rule
    from fbp.verify.report._card import Report

_SPECS = (
    "Its arguments, one SPEC each: float32[7,5] or 7x5, drawn; 'float32[7]>0', positive; "
    "'int32[7]<11', integers 0 to 10; bool[7]; key; none; true; a number; @file.npy; @file.npz. "
    "A layer takes x, a loss y and target, an objective x and target: their parameters are drawn."
)


@dataclasses.dataclass(frozen=True)
class Check:
    """Check hand-written backward rules against rule-free float64 autodiff.

    Without a name: all of fbp's own. A status of 1 says that a rule is wrong.
    """

    name: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME", help_behavior_hint="")
    ] = None
    """pkg.module:name or file.py:name; without :name, every rule that the module registers."""
    input: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="SPEC ...", help=_SPECS, help_behavior_hint="(default: what was registered)"
        ),
    ] = ()
    reference: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """What to hold it against, pkg.module:name; its own forward, without any rule, by default."""
    domain: Annotated[
        str | None,
        tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: what was registered)"),
    ] = None
    """What its inputs may be, pkg.module:name, as `fbp.check` takes it: a function, or a dict."""
    accuracy: Annotated[
        float | None,
        tyro.conf.arg(metavar="X", help_behavior_hint="(default: what was registered)"),
    ] = None
    """The relative error that it may have, if it approximates."""
    budget: Annotated[
        Literal["fast", "default", "thorough"] | None,
        tyro.conf.arg(
            metavar="{fast,default,thorough}", help_behavior_hint="(default: what was registered)"
        ),
    ] = None
    """How much to try."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Of what is drawn."""
    strict: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Whether another subgradient at a kink than autodiff's counts as wrong, and digits that both
    lose as imprecise."""
    seconds: Annotated[float | None, tyro.conf.arg(metavar="S", help_behavior_hint="")] = None
    """The time limit of each check; what it leaves out is said. None by default."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """The file to write the result to; never one that is there already."""

    def run(self) -> int:
        """Runs the checks, and returns the exit status."""
        from fbp.cli._check_table import Table
        from fbp.cli._reports import asked, is_coloured, made, require_new, write
        from fbp.verify.registry._expected import expected
        from fbp.verify.registry._named import CheckError, load_module, load_object, split_name

        require_new(self.json)
        if self.seed < 0:
            raise CheckError(f"--seed: expected 0 or more, got {self.seed}")
        if self.seconds is not None and not self.seconds > 0:
            raise CheckError(f"--seconds: expected more than 0, got {self.seconds:g}")
        options: dict[str, Any] = {
            "seed": self.seed,
            "strict": self.strict,
            "seconds": self.seconds,
        }
        for option in ("budget", "accuracy"):
            if getattr(self, option) is not None:
                options[option] = getattr(self, option)
        for option in ("reference", "domain"):
            given = getattr(self, option)
            if given is not None:
                where, name = split_name(given)
                if not name:
                    raise CheckError(f"--{option}: expected pkg.module:name, got {where}")
                options[option] = load_object(load_module(where), name)
        exceptions = expected(Path.cwd())
        rules = self._rules()
        table = Table(rules) if len(rules) > 1 else None
        reports: list[Report] = []
        for rule in rules:
            args = made(f"make of {rule.name}", rule.arguments)
            rule = dataclasses.replace(rule, args=args)
            exception = exceptions.get(rule.name)
            if callable(exception) and "reference" not in options:
                rule = dataclasses.replace(rule, options=rule.options | {"reference": exception})
            reference = options.get("reference", rule.options.get("reference"))
            if reference is not None:
                _require_call(reference, args)
            reports.append(asked(rule.check, **options))
            if table:
                table.row(reports[-1])
        colour = is_coloured()
        for report in reports:
            if not table or not report.ok:
                print(report.card(colour), flush=True)
        if table:
            table.end(reports)
        write(self.json, reports)
        reasons = {name: why for name, why in exceptions.items() if isinstance(why, str)}
        for rule, report in zip(rules, reports, strict=True):
            if rule.name in reasons:
                needed = f"is expected to differ: {reasons[rule.name]}"
                unneeded = "is right: pyproject.toml needs no exception for it"
                print(rule.name, unneeded if report.ok else needed, flush=True)
        wrong = [r for rule, r in zip(rules, reports, strict=True) if rule.name not in reasons]
        return 0 if all(report.ok for report in wrong) else 1

    def _rules(self) -> "list[Rule]":
        from fbp.verify.registry._named import CheckError, load_module, load_object, split_name
        from fbp.verify.registry._registry import rules

        if self.name is None:
            if self.input or self.reference or self.domain:
                raise CheckError(
                    "--input, --reference and --domain are of a function: expected its NAME"
                )
            from fbp.verify.registry._own import own_rules

            return own_rules()
        where, name = split_name(self.name)
        module = load_module(where)
        registered = rules(module.__name__)
        if not name:
            if self.input:
                raise CheckError(f"--input is of a function: expected {where}:name")
            if not registered:
                raise CheckError(f"{where} registers no rule: expected {where}:name")
            return registered
        named = [rule for rule in registered if rule.name == name]
        if named and not self.input:
            return named
        f = load_object(module, name)
        if inspect.isclass(f) or inspect.ismodule(f) or not _can_be_checked(f):
            got = f"a {'class' if inspect.isclass(f) else type(f).__name__}"
            raise CheckError(f"{self.name}: expected a function, a layer or a loss, got {got}")
        if self.input:
            return [self._rule(module.__name__, name, f)]
        named = [rule for rule in rules() if rule.f is f]
        if not named:
            raise CheckError(
                f"{self.name}: expected --input SPEC for {_wanted(f)}, or fbp.register"
            )
        return named

    def _rule(self, module: str, name: str, f: Any) -> "Rule":
        from fbp._layer import Layer, Loss
        from fbp._microbatch import Microbatch
        from fbp._objective import Objective
        from fbp.cli._inputs import parse_inputs
        from fbp.verify.registry._named import CheckError
        from fbp.verify.registry._own import drawn
        from fbp.verify.registry._registry import Rule

        args = parse_inputs(self.input, self.seed)
        count = {Layer: (1, 2), Loss: (2,), Objective: (2, 3), Microbatch: (2, 3)}
        for kind, allowed in count.items():
            if isinstance(f, kind):
                if len(args) not in allowed:
                    raise CheckError(
                        f"{self.name}: expected --input for {_wanted(f)}, got {len(args)}"
                    )
                if kind in (Objective, Microbatch):
                    args = (args[:2], *args[2:])
                return Rule(name, module, f, (drawn(f, self.seed), *args), {})
        try:
            inspect.signature(f).bind(*args)
        except TypeError:
            wanted = _wanted(f)
            raise CheckError(
                f"{self.name}: expected --input for {wanted}, got {len(args)}"
            ) from None
        except ValueError:
            pass  # it has no signature
        return Rule(name, module, f, args, {})


def _require_call(reference: Any, args: tuple[Any, ...]) -> None:
    """Raises CheckError unless a reference can be called with the arguments of the rule."""
    import jax

    from fbp.cli._reports import asked, made
    from fbp.verify.rule._subject_of import subject_of

    subject = asked(subject_of, reference, args)
    made(f"reference {subject.name}", lambda: jax.eval_shape(subject.f, subject.values))


def _can_be_checked(f: Any) -> bool:
    return callable(f) or hasattr(f, "backward") or hasattr(f, "value_and_grad")


def _wanted(f: Any) -> str:
    """The arguments that a user has to give for a function, in words."""
    if hasattr(f, "backward"):
        return "x, and perhaps key"
    if hasattr(f, "loss") or hasattr(f, "objective"):
        return "x, target, and perhaps key"
    if hasattr(f, "value_and_grad"):
        return "y, target"
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return "each argument"
    return ", ".join(p.name for p in parameters if p.kind != p.KEYWORD_ONLY) or "no argument"
