"""`fbp audit`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Audit:
    """Check every backward rule and kernel inside a whole loss, in place.

    Each is given the inputs and cotangents it meets there. A status of 1 says that one is wrong.
    Exceptions are read from [tool.fbp.expect] in pyproject.toml: RULE = "reason".
    """

    loss: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """The loss: pkg.module:name or file.py:name, a function of (params, *batch)."""
    inputs: Annotated[
        str | None,
        tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: what was registered)"),
    ] = None
    """A function that returns (params, *batch): pkg.module:name, or a name beside the loss."""
    budget: Literal["fast", "default", "thorough"] = "fast"
    """How much to try on each."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Of what is drawn."""
    seconds: Annotated[float | None, tyro.conf.arg(metavar="S", help_behavior_hint="")] = None
    """The time limit; rules that it leaves out are named. None by default."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """The file to write the result to; never one that is there already."""

    def run(self) -> int:
        """Runs the audit, and returns the exit status."""
        from fbp.cli._reports import asked, is_coloured, made, require_new, write
        from fbp.verify.registry._expected import expected
        from fbp.verify.registry._named import CheckError, load_module, load_object, split_name

        require_new(self.json)
        if self.seed < 0:
            raise CheckError(f"--seed: expected 0 or more, got {self.seed}")
        if self.seconds is not None and not self.seconds > 0:
            raise CheckError(f"--seconds: expected more than 0, got {self.seconds:g}")
        where, name = split_name(self.loss)
        if not name:
            raise CheckError(f"expected {where}:name, the name of a loss")
        module = load_module(where)
        loss = load_object(module, name)
        if not callable(loss):
            got = type(loss).__name__
            raise CheckError(f"{self.loss}: expected a function, got a {got}")
        args = self._args(module, loss)

        import jax

        from fbp.verify._audit import audit
        from fbp.verify.rule._subject_of import subject_of

        subject = asked(subject_of, loss, args, (0,))
        made(self.loss, lambda: jax.eval_shape(subject.f, subject.values))
        options = {"seed": self.seed, "budget": self.budget, "seconds": self.seconds}
        report = asked(audit, loss, *args, **options, expect=expected(Path.cwd()))
        print(report.card(is_coloured()), flush=True)
        write(self.json, [report])
        return 0 if report.ok else 1

    def _args(self, module: Any, loss: Any) -> tuple[Any, ...]:
        from fbp.cli._reports import made
        from fbp.verify.registry._named import CheckError, load_module, load_object, split_name
        from fbp.verify.registry._registry import rules

        if self.inputs is None:
            for rule in rules():
                if rule.f is loss:
                    return made(f"make of {rule.name}", rule.arguments)
            raise CheckError(
                f"{self.loss}: expected --inputs NAME, a function that returns (params, *batch)"
            )
        where, name = split_name(self.inputs)
        if not name:
            where, name = "", where
        make = load_object(load_module(where) if where else module, name)
        if not callable(make):
            got = type(make).__name__
            raise CheckError(f"--inputs {self.inputs}: expected a function, got a {got}")
        args = made(self.inputs, make)
        if not isinstance(args, tuple | list):
            got = type(args).__name__
            raise CheckError(f"{self.inputs}: expected to return (params, *batch), got {got}")
        return tuple(args)
