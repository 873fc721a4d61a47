"""What tests of a loss measure with: autodiff, uneven parts, 16 bits, planted bugs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import assert_close, cast

import fbp
from fbp._tree import named_leaves

# A mean of some hundred terms, each a few roundings of eps = 2.2e-16; a wrong factor is of order 1.
ROUNDING = 1e-12


def agrees(loss: fbp.Loss, params: Any, y: Any, target: Any) -> Any:
    """Value, dparams and dy, the gradients compared with autodiff of the value, in float64."""
    value, dparams, dy = jax.jit(loss.value_and_grad)(params, y, target)
    want = jax.jit(jax.grad(loss.value, argnums=(0, 1)))(params, y, target)
    assert jax.tree.structure((dparams, dy)) == jax.tree.structure((params, y))
    assert_close({"dparams": dparams, "dy": dy}, {"dparams": want[0], "dy": want[1]}, ROUNDING)
    assert value == jax.jit(loss.value)(params, y, target)
    return value, dparams, dy


def adds_up(loss: fbp.Loss, params: Any, y: Any, target: Any, cuts: list[int]) -> None:
    """The whole is the sum of uneven parts, each by its share: what `Microbatch` relies on."""
    run = jax.jit(loss.value_and_grad)
    whole, dparams, dy = run(params, y, target)
    n = jax.tree.leaves(y)[0].shape[0]
    value, dvalues, dys = 0.0, [], []
    for first, end in zip([0, *cuts], [*cuts, n], strict=True):
        part_y, part = jax.tree.map(lambda a, f=first, e=end: a[f:e], (y, target))
        share = loss.weight(part) / loss.weight(target)
        part_value, part_dparams, part_dy = run(params, part_y, part)
        value += share * part_value
        dvalues.append(jax.tree.map(lambda a, s=share: s * a, part_dparams))
        dys.append(jax.tree.map(lambda a, s=share: s * a, part_dy))
    np.testing.assert_allclose(value, whole, rtol=1e-13)
    assert_close(jax.tree.map(lambda *a: jnp.concatenate(a), *dys), dy, ROUNDING)
    assert_close(jax.tree.map(lambda *a: sum(a), *dvalues), dparams, ROUNDING)


def rounds_once(loss: fbp.Loss, params: Any, y: Any, target: Any, lost: float) -> None:
    """With y in bfloat16 all but dy is at least float32; dy is rounded once.

    lost: what float32 loses of the largest element, in eps.
    """
    y = cast(y, jnp.bfloat16)
    run = jax.jit(loss.value_and_grad)
    value, _, dy = run(cast(params, jnp.float32), y, target)
    want, _, dwant = run(cast(params, jnp.float64), cast(y, jnp.float64), target)
    assert value.dtype == jnp.float32
    eps = float(jnp.finfo(jnp.float32).eps)
    np.testing.assert_allclose(value, want, rtol=lost * eps)
    wants = named_leaves(dwant)
    for name, d in named_leaves(dy).items():
        assert d.dtype == jnp.bfloat16, name
        exact = np.asarray(wants[name])
        # Half an ulp of bfloat16, 2^-8 of an element, and what float32 loses.
        limit = {"rtol": 2**-8 + lost * eps, "atol": lost * eps * abs(exact).max()}
        np.testing.assert_allclose(np.asarray(d, np.float64), exact, **limit, err_msg=name)


@dataclasses.dataclass(frozen=True)
class Planted(fbp.Loss):
    """A loss with a bug in its gradient: bug(params, y, target, dparams, dy) -> (dparams, dy)."""

    loss: fbp.Loss
    bug: Callable[..., tuple[Any, Any]]

    def init(self, key: Any) -> Any:
        return self.loss.init(key)

    def value_and_grad(self, params: Any, y: Any, target: Any) -> Any:
        value, dparams, dy = self.loss.value_and_grad(params, y, target)
        return value, *self.bug(params, y, target, dparams, dy)


def is_caught(loss: fbp.Loss, bug: Callable[..., Any], *args: Any, seed: int) -> None:
    report = fbp.check(Planted(loss, bug), *args, budget="fast", seed=seed)
    assert report.verdict == "WRONG", report


def passes(loss: fbp.Loss, *args: Any, **options: Any) -> None:
    report = fbp.check(loss, *args, **options)
    assert report.verdict == "OK", report
