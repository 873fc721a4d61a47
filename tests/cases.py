"""One table of layers over which every property is tested, and what tests draw and measure with."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import cases_conv
import cases_graph
import cases_ports
import cases_recurrent
import cases_transformer
import cases_trees
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _case import Case

import fbp
from fbp._gradients import at_least_float32, like
from fbp._layer import Array, Key, Params, PyTree
from fbp._tree import named_leaves, path_of

# Layers that only tests have: a key, trees, integers.


@dataclasses.dataclass(frozen=True)
class Noise(fbp.Layer):
    """y = x * (1 + std * u), u uniform in [-1, 1) from the key; without a key y = x."""

    std: float = 0.5
    cheap: bool = True

    def forward(self, params: tuple[()], x: Array, key: Key = None) -> tuple[Array, Key]:
        return x * self._factor(x, key), key

    def backward(self, params: tuple[()], x: Array, res: Key, dy: Array) -> tuple[Any, Array]:
        return (), (dy * self._factor(x, res)).astype(x.dtype)

    def recompute(self, params: tuple[()], x: Array, res: Key) -> Array:
        return x * self._factor(x, res)

    def _factor(self, x: Array, key: Key) -> Array:
        if key is None:
            return jnp.ones(x.shape, x.dtype)
        return 1 + self.std * jax.random.uniform(key, x.shape, x.dtype, -1, 1)


@dataclasses.dataclass(frozen=True)
class Cross(fbp.Layer):
    """A tree in, the same tree out: {"a": a * b, "b": a + w * b}."""

    cheap: bool = False

    def init(self, key: Array) -> Params:
        return {"w": jnp.ones(())}

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, Any]:
        a, b = x["a"], x["b"]
        return {"a": a * b, "b": a + params["w"] * b}, ()

    def backward(self, params: Params, x: PyTree, res: Any, dy: PyTree) -> tuple[Params, PyTree]:
        a, b, w = jax.tree.map(at_least_float32, (x["a"], x["b"], params["w"]))
        dx = {"a": dy["a"] * b + dy["b"], "b": dy["a"] * a + w * dy["b"]}
        return like({"w": (b * dy["b"]).sum()}, params), like(dx, x)


@dataclasses.dataclass(frozen=True)
class Lookup(fbp.Layer):
    """Rows of a table by integers: y = table[x]. An integer has no gradient: dx is None."""

    n: int
    size: int

    def init(self, key: Array) -> Params:
        return {"table": jax.random.normal(key, (self.n, self.size))}

    def forward(self, params: Params, x: Array, key: Key = None) -> tuple[Array, Any]:
        return params["table"][x], ()

    def backward(self, params: Params, x: Array, res: Any, dy: Array) -> tuple[Params, None]:
        rows = dy.reshape(-1, self.size).astype(jnp.promote_types(dy.dtype, jnp.float32))
        table = jnp.zeros((self.n, self.size), rows.dtype).at[x.ravel()].add(rows)
        return like({"table": table}, params), None


@dataclasses.dataclass(frozen=True)
class AddLookup(fbp.Layer):
    """A tree of integers and floats: x = (i, v), y = table[i] + v."""

    n: int
    size: int

    def init(self, key: Array) -> Params:
        return Lookup(self.n, self.size).init(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[Array, Any]:
        i, v = x
        return params["table"][i] + v, ()

    def backward(self, params: Params, x: PyTree, res: Any, dy: Array) -> tuple[Params, PyTree]:
        i, v = x
        dparams, _ = Lookup(self.n, self.size).backward(params, i, (), dy)
        return dparams, (None, dy.astype(v.dtype))


# The table: what follows, and one file for each family of layers.

FAMILIES: tuple[Any, ...] = (
    *(cases_conv, cases_graph, cases_ports, cases_recurrent, cases_transformer, cases_trees),
)

ACTIVATIONS = {
    "relu": fbp.Relu(),
    "leaky_relu": fbp.LeakyRelu(),
    "leaky_relu_steep": fbp.LeakyRelu(slope=0.3),
    "tanh": fbp.Tanh(),
    "sigmoid": fbp.Sigmoid(),
    "softplus": fbp.Softplus(),
    "gelu_tanh": fbp.Gelu(),
    "gelu_erf": fbp.Gelu(tanh=False),
    "silu": fbp.Silu(),
}


def _pair(*shape: int) -> Callable[[np.random.Generator], PyTree]:
    return lambda rng: {"a": rng.normal(size=shape), "b": rng.normal(size=shape)}


def _integers(n: int, *shape: int) -> Callable[[np.random.Generator], PyTree]:
    return lambda rng: rng.integers(n, size=shape, dtype=np.int32)


def _integers_and_floats(n: int, size: int, *shape: int) -> Callable[[np.random.Generator], PyTree]:
    return lambda rng: (_integers(n, *shape)(rng), rng.normal(size=(*shape, size)))


def make_cases() -> list[Case]:
    """Builds the table; two calls build equal layers."""
    relu, tanh, gelu = fbp.Relu(), fbp.Tanh(), fbp.Gelu()
    serial = fbp.Serial(fbp.Dense(3, 5), tanh, fbp.Dense(5, 3))
    cases = [
        # Sizes are prime, so that no two axes can be confused; equal, so that a transposed matrix
        # fits where it should not; and 1, where sums and products are alike.
        Case("dense", fbp.Dense(3, 5), (7, 3)),
        Case("dense/no_batch", fbp.Dense(3, 5), (3,), batch=0),
        Case("dense/two_batch_axes", fbp.Dense(3, 5), (2, 7, 3), batch=2),
        Case("dense/equal", fbp.Dense(5, 5), (5, 5)),
        Case("dense/one", fbp.Dense(1, 1), (1, 1)),
        Case("dense/one_no_batch", fbp.Dense(1, 1), (1,), batch=0),
        Case("dense/to_one", fbp.Dense(3, 1), (7, 3)),
        Case("dense/from_one", fbp.Dense(1, 3), (7, 1)),
        Case("dense/one_example", fbp.Dense(3, 5), (1, 3)),
        Case("dense/no_bias", fbp.Dense(3, 5, bias=False), (7, 3)),
        Case("dense/no_bias_equal", fbp.Dense(5, 5, bias=False), (5, 5, 5), batch=2),
    ]
    for name, kind in (("scale", fbp.Scale), ("bias", fbp.Bias)):
        cases += [
            Case(f"{name}/scalar", kind(), (), batch=0),
            Case(f"{name}/scalar_batch", kind(), (7,)),
            Case(f"{name}/scalar_two_batch_axes", kind(), (5, 5), batch=2),
            Case(f"{name}/vector", kind((5,)), (7, 5)),
            Case(f"{name}/vector_no_batch", kind((5,)), (5,), batch=0),
            Case(f"{name}/vector_two_batch_axes", kind((5,)), (2, 3, 5), batch=2),
            Case(f"{name}/vector_of_one", kind((1,)), (1, 1)),
            Case(f"{name}/matrix", kind((3, 5)), (7, 3, 5)),
        ]
    for name, layer in ACTIVATIONS.items():
        cases += [
            Case(name, layer, (7, 5)),
            Case(f"{name}/scalar", layer, (), batch=0),
        ]
    for name, layer in (("softmax", fbp.Softmax()), ("log_softmax", fbp.LogSoftmax())):
        cases += [
            Case(name, layer, (7, 5)),
            Case(f"{name}/no_batch", layer, (5,), batch=0),
            Case(f"{name}/two_batch_axes", layer, (3, 3, 3), batch=2),
            Case(f"{name}/one_class", layer, (3, 1)),
        ]
    cases += [
        Case("serial", serial, (7, 3)),
        Case("serial/no_batch", serial, (3,), batch=0),
        Case("serial/named", fbp.Serial(norm=fbp.Scale((3,)), dense=fbp.Dense(3, 5)), (7, 3)),
        Case("serial/one", fbp.Serial(fbp.Dense(3, 5)), (7, 3)),
        Case("serial/empty", fbp.Serial(), (7, 3)),
        Case("serial/holds_empty", fbp.Serial(fbp.Serial(), fbp.Dense(3, 5), fbp.Serial()), (7, 3)),
        Case("serial/cheap", fbp.Serial(fbp.Scale((3,)), tanh, fbp.Bias((3,)), gelu), (7, 3)),
        Case(
            "serial/cheap_chains",
            fbp.Serial(
                *(tanh, fbp.Scale((3,)), fbp.Dense(3, 5), fbp.Bias((5,)), relu, fbp.Sigmoid()),
                *(fbp.Dense(5, 3), fbp.Softplus(), fbp.Silu()),
            ),
            (2, 7, 3),
            batch=2,
        ),
        Case(
            "serial/nested",
            fbp.Serial(
                first=fbp.Serial(fbp.Dense(3, 5), tanh),
                second=fbp.Serial(fbp.Scale((5,)), fbp.Serial(gelu, fbp.Bias((5,)))),
                last=fbp.Dense(5, 2),
            ),
            (7, 3),
            notes="the second, all cheap, is cheap itself: recomputed from inside",
        ),
        Case("residual", fbp.Residual(fbp.Dense(5, 5)), (7, 5), widens=True),
        Case("residual/cheap", fbp.Residual(fbp.Tanh()), (5, 5)),
        Case("residual/serial", fbp.Residual(serial), (7, 3), widens=True),
        Case(
            "residual/recomputed",
            fbp.Serial(fbp.Dense(3, 5), fbp.Residual(tanh), fbp.Dense(5, 3)),
            (7, 3),
        ),
        Case("residual/one", fbp.Residual(fbp.Dense(1, 1)), (1, 1), widens=True),
        Case("parallel", fbp.Parallel(fbp.Dense(3, 5), fbp.Dense(3, 2, bias=False)), (7, 3)),
        Case("parallel/named", fbp.Parallel(left=serial, right=fbp.Tanh()), (7, 3)),
        Case("parallel/one", fbp.Parallel(fbp.Dense(3, 3)), (3, 3)),
        Case(
            "parallel/recomputed",
            fbp.Serial(fbp.Scale((3,)), fbp.Parallel(a=tanh, b=fbp.Sigmoid()), Cross()),
            (7, 3),
        ),
        Case("stack", fbp.Stack(fbp.Dense(5, 5), 3), (7, 5), widens=True),
        Case("stack/one", fbp.Stack(fbp.Dense(3, 3), 1), (7, 3), widens=True),
        Case("stack/none", fbp.Stack(fbp.Dense(3, 3), 0), (7, 3), widens=True),
        Case(
            "stack/cheap",
            fbp.Stack(fbp.Serial(fbp.Scale((3,)), tanh), 3),
            (2, 7, 3),
            2,
            widens=True,
        ),
        Case("stack/no_params", fbp.Stack(tanh, 3), (3,), batch=0),
        Case(
            "stack/in_serial",
            fbp.Serial(
                fbp.Dense(3, 5), fbp.Stack(fbp.Residual(fbp.Dense(5, 5)), 3), gelu, fbp.Dense(5, 2)
            ),
            (7, 3),
        ),
        Case("stack/of_stack", fbp.Stack(fbp.Stack(fbp.Dense(3, 3), 2), 3), (5, 3), widens=True),
        Case("remat", fbp.Remat(serial), (7, 3)),
        Case("remat/cheap", fbp.Remat(fbp.Serial(fbp.Scale((5,)), tanh)), (7, 5)),
        Case("remat/of_stack", fbp.Remat(fbp.Stack(fbp.Dense(5, 5), 3)), (7, 5), widens=True),
        Case("stack/keep_inputs", fbp.Stack(serial, 3, "inputs"), (7, 3), widens=True),
        Case("stack/keep_every_second", fbp.Stack(serial, 5, 2), (7, 3), widens=True),
        Case("stack/keep_first", fbp.Stack(fbp.Dense(3, 3), 3, 7), (5, 3), widens=True),
        Case("remat/in_stack", fbp.Stack(fbp.Remat(serial), 3), (7, 3), widens=True),
        Case("remat/in_serial", fbp.Serial(fbp.Remat(serial), relu, fbp.Remat(serial)), (7, 3)),
        Case("neuron", fbp.models.neuron(), (7,)),
        Case("neuron/no_batch", fbp.models.neuron(), (), batch=0),
        Case("mlp/deep", fbp.models.mlp([5, 5, 5, 5, 5]), (5, 5)),
        Case("mlp/linear", fbp.models.mlp([3, 5, 2], None), (7, 3)),
        Case("mlp/narrow", fbp.models.mlp([1, 1, 1], tanh), (1, 1)),
    ]
    for name in ("relu", "tanh", "sigmoid", "gelu_erf", "silu"):
        cases.append(Case(f"mlp/{name}", fbp.models.mlp([3, 7, 2], ACTIVATIONS[name]), (5, 3)))
    noisy = fbp.Serial(fbp.Dense(3, 5), Noise(), tanh, Noise(cheap=False), fbp.Dense(5, 3))
    cases += [
        Case("noise", Noise(), (7, 3), noisy=True),
        Case("noise/serial", noisy, (7, 3), noisy=True),
        Case("noise/cheap_serial", fbp.Serial(Noise(), tanh, Noise(), gelu), (7, 3), noisy=True),
        Case("noise/residual", fbp.Residual(noisy), (7, 3), noisy=True, widens=True),
        Case(
            "noise/residual_recomputed",
            fbp.Serial(fbp.Residual(fbp.Serial(Noise(), tanh)), fbp.Dense(3, 5)),
            (7, 3),
            noisy=True,
        ),
        Case("noise/parallel", fbp.Parallel(a=noisy, b=Noise()), (7, 3), noisy=True),
        Case(
            "noise/parallel_recomputed",
            fbp.Serial(fbp.Parallel(a=Noise(), b=Noise()), Cross(cheap=True), Cross()),
            (7, 3),
            noisy=True,
        ),
        Case("noise/stack", fbp.Stack(noisy, 3), (7, 3), noisy=True, widens=True),
        Case("noise/remat", fbp.Remat(noisy), (7, 3), noisy=True),
        Case("noise/stack_keep", fbp.Stack(noisy, 3, 2), (7, 3), noisy=True, widens=True),
        Case("noise/remat_in_stack", fbp.Stack(fbp.Remat(noisy), 2), (7, 3), 1, True, True),
        Case("noise/remat_of_stack", fbp.Remat(fbp.Stack(noisy, 2)), (7, 3), 1, True, True),
        Case("tree", Cross(), _pair(7, 3)),
        Case("tree/serial", fbp.Serial(Cross(), Cross(cheap=True), Cross()), _pair(5, 5), 2),
        Case("tree/residual", fbp.Residual(Cross()), _pair(), 0, widens=True),
        Case("tree/stack", fbp.Stack(fbp.Residual(Cross()), 2), _pair(7, 3), widens=True),
        Case("tree/parallel", fbp.Parallel(Cross(), fbp.Remat(Cross())), _pair(7, 3)),
        Case("integers", Lookup(5, 3), _integers(5, 7)),
        Case("integers/no_batch", Lookup(5, 3), _integers(5), batch=0),
        Case("integers/serial", fbp.Serial(Lookup(5, 3), fbp.Dense(3, 2)), _integers(5, 2, 7), 2),
        Case("integers/parallel", fbp.Parallel(Lookup(5, 3), Lookup(5, 2)), _integers(5, 7)),
        Case("integers/remat", fbp.Remat(fbp.Serial(Lookup(5, 3), serial)), _integers(5, 7)),
        Case("integers/and_floats", AddLookup(5, 3), _integers_and_floats(5, 3, 7)),
        Case(
            "integers/and_floats_parallel",
            fbp.Parallel(AddLookup(5, 3), AddLookup(5, 3)),
            _integers_and_floats(5, 3, 7),
        ),
    ]
    for family in FAMILIES:
        cases += family.make_cases()
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    return cases


CASES = make_cases()

# One of every kind: what is run everywhere of the tests that compile a lot. The rest are `slow`.
CORE = {
    *("dense", "dense/no_batch", "dense/one", "dense/no_bias", "scale/vector", "scale/scalar"),
    *("bias/vector_two_batch_axes", "bias/scalar_batch", "softmax", "log_softmax"),
    *ACTIVATIONS,
    *("serial/nested", "serial/cheap", "serial/empty", "residual", "residual/recomputed"),
    *("parallel/recomputed", "parallel/named", "stack", "stack/none", "stack/in_serial"),
    *("remat", "remat/in_stack", "neuron", "mlp/tanh", "noise/serial"),
    *("noise/stack", "tree", "tree/residual", "integers", "integers/and_floats_parallel"),
    *(name for family in FAMILIES for name in family.CORE),
}
assert not CORE - {case.name for case in CASES}


# Drawing and measuring.


def is_float(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jnp.floating)


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """The tree as jax arrays, its floats in a dtype.

    Rounded by NumPy, for which nothing is compiled.
    """
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a, dtype if is_float(a) else None)), tree)


def normal_like(seed: int, tree: PyTree) -> PyTree:
    """Random normals with the tree, shapes and dtypes of the floats of `tree`; None for integers.

    Drawn by NumPy, for which nothing is compiled.
    """
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: jnp.asarray(rng.normal(size=a.shape).astype(a.dtype)) if is_float(a) else None,
        tree,
    )


def draw(case: Case, seed: int, dtype: Any, x_dtype: Any = None) -> tuple[Params, PyTree]:
    """Params and x of a case. Every parameter is random, those that start at 0 or 1 too; only a
    variance is positive."""
    shapes = jax.eval_shape(lambda: case.layer.init(jax.random.key(0)))
    rng = np.random.default_rng(seed)

    def drawn(path: Any, a: Any) -> np.ndarray:
        values = 0.5 * rng.normal(size=a.shape)
        return np.abs(values) if path_of(path[-1:]) == "var" else values

    params = jax.tree.map_with_path(drawn, shapes)
    x = case.x(rng) if callable(case.x) else rng.normal(size=case.x)
    return cast(params, dtype), cast(x, x_dtype or dtype)


def floats(x: PyTree) -> PyTree:
    """x with None in the place of integers: what a gradient by x looks like, or by a y."""
    return jax.tree.map(lambda a: a if is_float(a) else None, x)


def with_floats(x: PyTree, values: PyTree) -> PyTree:
    """x with other floats."""
    return jax.tree.map(lambda v, a: a if v is None else v, values, x, is_leaf=lambda v: v is None)


def rule(layer: fbp.Layer, params: Params, x: PyTree, dy: PyTree, key: Key = None) -> PyTree:
    """The hand-written dparams and dx."""
    _, res = layer.forward(params, x, key)
    return layer.backward(params, x, res, dy)


def auto(layer: fbp.Layer, params: Params, x: PyTree, dy: PyTree, key: Key = None) -> PyTree:
    """dparams and dx by `jax.vjp` of the layer's own forward."""

    def forward(params: Params, values: PyTree) -> PyTree:
        return floats(layer.forward(params, with_floats(x, values), key)[0])

    _, vjp = jax.vjp(forward, params, floats(x))
    return vjp(dy)


def output(layer: fbp.Layer, params: Params, x: PyTree, key: Key = None) -> PyTree:
    """Shapes and dtypes of y."""
    return jax.eval_shape(lambda p, x: layer.forward(p, x, key)[0], params, x)


def leaf_errors(got: PyTree, want: PyTree, floor: float = 0.0) -> dict[str, float]:
    """max|got - want| / max|want| of every leaf by its path; inf where one is not finite, and 0
    where max|got - want| is at most `floor`."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    wants = named_leaves(want)
    return {path: _error(leaf, wants[path], floor) for path, leaf in named_leaves(got).items()}


def _error(got: Any, want: Any, floor: float) -> float:
    got, want = (np.asarray(a).astype(np.float64) for a in (got, want))
    assert got.shape == want.shape
    error = np.abs(got - want).max(initial=0.0)
    if error <= floor:
        return 0.0
    scale = np.abs(want).max(initial=0.0)
    return float(error / scale) if np.isfinite(error) and scale > 0 else float("inf")


def assert_close(got: PyTree, want: PyTree, limit: float, floor: float = 0.0) -> None:
    """Every leaf within `limit` of the other, in units of its largest element, or within `floor`;
    names those not."""
    wrong = {path: e for path, e in leaf_errors(got, want, floor).items() if not e <= limit}
    assert not wrong, f"beyond {limit:.1e}: " + ", ".join(
        f"{p} by {e:.1e}" for p, e in wrong.items()
    )


# Some take seconds each to compile, whatever is tested; and of the families there are many.
LARGE = {
    *("stack/of_stack", "remat/of_stack", "noise/remat_in_stack", "noise/remat_of_stack"),
    *("stack/keep_inputs", "stack/keep_every_second", "stack/keep_first", "noise/stack_keep"),
    *(case.name for family in FAMILIES for case in family.make_cases()),
} - CORE


def by_name(cases: list[Case]) -> Any:
    """Runs a test for each case; those in `LARGE` are slow."""
    marked = [
        pytest.param(case, marks=pytest.mark.slow if case.name in LARGE else ()) for case in cases
    ]
    return pytest.mark.parametrize("case", marked, ids=str)


def by_name_core_first(cases: list[Case]) -> Any:
    """Runs a test for each case; those that are not in `CORE` are slow."""
    marked = [
        pytest.param(case, marks=() if case.name in CORE else pytest.mark.slow) for case in cases
    ]
    return pytest.mark.parametrize("case", marked, ids=str)


def by_name_mostly(cases: list[Case]) -> Any:
    """Runs a test for each case, as `by_name`; but of families the rows that are not in `CORE` have
    to be asked for: what is tested is of how a rule is written, not of its numbers."""
    return _mostly(cases, lambda case: [pytest.mark.slow] if case.name in LARGE else [], [])


def by_name_core_mostly(cases: list[Case]) -> Any:
    """Runs a test for each case, as `by_name_core_first`; but every fourth of those that are slow
    there, and of families rows of as many kinds as there are, and the others have to be asked for,
    as in `by_name_mostly`."""
    slow, seldom = [pytest.mark.slow], [pytest.mark.slow, pytest.mark.exhaustive]
    some = {case.name for case in [case for case in cases if case.name not in CORE][::4]}

    def marks(case: Case) -> list[Any]:
        return [] if case.name in CORE else slow if case.name in some else seldom

    return _mostly(cases, marks, slow, KINDS)


# Of a convolution, a fan-out, a lookup, noise, a recurrence, a norm, attention, a port.
KINDS = {
    *("conv/everything", "sum/recomputed", "embedding", "dropout", "lstm/truncated", "rms_norm"),
    *("attention/everything", "tie"),
}
assert not KINDS - CORE


def _mostly(
    cases: list[Case],
    marks_of: Callable[[Case], list[Any]],
    marks_of_run: list[Any],
    run: set[str] = CORE,
) -> Any:
    families = {case.name for family in FAMILIES for case in family.make_cases()}

    def marks(case: Case) -> list[Any]:
        if case.name not in families:
            return marks_of(case)
        return marks_of_run if case.name in run else [pytest.mark.slow, pytest.mark.exhaustive]

    marked = [pytest.param(case, marks=marks(case)) for case in cases]
    return pytest.mark.parametrize("case", marked, ids=str)


def chunks(tree: PyTree, size: int) -> list[PyTree]:
    """A batch cut into parts of at most `size`."""
    n = jax.tree.leaves(tree)[0].shape[0]
    cuts = itertools.pairwise([*range(0, n, size), n])
    return [jax.tree.map(lambda a, i=i, j=j: a[i:j], tree) for i, j in cuts]
