"""An interpreter of jaxprs whose subclasses change how an equation is evaluated."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from fbp.verify.program._program import opened, scan_splits, trace

# Primitives that only call a program, and the parameter that holds it. They are evaluated inline.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "eval_jaxpr": "call_jaxpr",  # the name of closed_call in jax 0.12
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
}


class Interpreter:
    """Evaluates a program equation by equation, through calls, loops and branches.

    The evaluation may itself be traced, so a subclass that changes how equations are evaluated
    makes a new program. Subclasses override the methods after `run`.
    """

    def run(self, program: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Returns the outputs of the program."""
        values: dict[Any, Any] = {}

        def read(atom: Any) -> Any:
            return self.literal(atom) if isinstance(atom, Literal) else values[atom]

        values.update(zip(all_inputs(program), [*map(self.constant, consts), *args], strict=True))
        for eqn in program.eqns:
            outs = self.equation(eqn, [read(atom) for atom in eqn.invars])
            values.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in program.outvars]

    def literal(self, atom: Literal) -> Any:
        return atom.val

    def constant(self, value: Any) -> Any:
        return value

    def equation(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        """Returns the outputs of one equation."""
        name = eqn.primitive.name
        if name in CALLS and CALLS[name] in eqn.params:
            return self.run(*opened(eqn.params[CALLS[name]]), ins)
        if name == "scan":
            return self.scan(eqn, ins)
        if name == "cond":
            return self.cond(eqn, ins)
        if name == "while":
            return self.loop(eqn, ins)
        return self.primitive(eqn, ins)

    def primitive(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        """Evaluates an equation other than the calls, loops and branches that are opened here."""
        return bind(eqn, ins)

    def scan(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        return scanned(eqn, ins, self.run)

    def cond(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        index, *operands = ins
        branches = [
            lambda *args, branch=branch: self.run(*opened(branch), args)
            for branch in eqn.params["branches"]
        ]
        return list(lax.switch(index, branches, *operands))

    def loop(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        return looped(eqn, ins, self.run)


def looped(
    eqn: JaxprEqn, ins: list[Any], run: Callable[..., list[Any]], least: Sequence[Any] = ()
) -> list[Any]:
    """A `while` whose condition and body are evaluated by `run`.

    If `run` appends outputs to those of the body, the minimum of each over all iterations, starting
    from `least`, is appended to the loop's outputs. Those appended to the condition's are dropped.
    """
    p = eqn.params
    n, m = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    test, body = opened(p["cond_jaxpr"]), opened(p["body_jaxpr"])
    count = len(ins) - m

    def goes_on(carry: list[Any]) -> Any:
        return run(*test, [*ins[:n], *carry[:count]])[0]

    def once(carry: list[Any]) -> list[Any]:
        # Under vmap a loop runs until all examples have stopped; stopped ones keep their values.
        on = goes_on(carry)
        new = run(*body, [*ins[n:m], *carry[:count]])
        mins = [jnp.minimum(a, b) for a, b in zip(new[count:], carry[count:], strict=True)]
        if jnp.ndim(on):
            new = [
                jnp.where(on.reshape(on.shape + (1,) * (jnp.ndim(a) - on.ndim)), a, b)
                for a, b in zip(new[:count], carry[:count], strict=True)
            ]
        return [*new[:count], *mins]

    return lax.while_loop(lambda carry: jnp.any(goes_on(carry)), once, [*ins[m:], *least])


def scanned(eqn: JaxprEqn, ins: list[Any], run: Callable[..., list[Any]]) -> list[Any]:
    """A scan whose body is evaluated by `run`; outputs that `run` appends come out stacked."""
    p = eqn.params
    n, m = scan_splits(p)
    body, body_consts = opened(p["jaxpr"])

    def one(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        outs = run(body, body_consts, [*ins[:n], *carry, *xs])
        return outs[: m - n], outs[m - n :]

    carry, ys = lax.scan(one, ins[n:m], ins[m:], length=p["length"], reverse=p["reverse"])
    return [*carry, *ys]


def bind(eqn: JaxprEqn, ins: Sequence[Any]) -> list[Any]:
    """Evaluates one equation as it is."""
    outs = eqn.primitive.bind(*ins, **eqn.primitive.get_bind_params(eqn.params))
    return list(outs) if eqn.primitive.multiple_results else [outs]


def inlined(program: ClosedJaxpr) -> ClosedJaxpr:
    """The same program with every call replaced by the equations of its callee."""
    run = functools.partial(Interpreter().run, program.jaxpr, program.consts)
    return trace(lambda *args: run(args), *program.in_avals)


def all_inputs(program: Any) -> list[Any]:
    """The variables of a program's constants and inputs."""
    # From jax 0.12 on, `all_invars` lists the constants before the inputs.
    if hasattr(program, "all_invars"):
        return list(program.all_invars)
    return [*program.constvars, *program.invars]
