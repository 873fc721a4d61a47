"""Graphs: what is written by hand, at the same cost; and what is refused."""

import collections
import dataclasses
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from cases import assert_close, auto, normal_like

import fbp
from fbp._layer import Array, PyTree

KEY = jax.random.key(0)
TANH = fbp.Tanh()


class Diamonds:
    """y = c(t) + t with t = tanh(a(x)), three times: twelve nodes, by hand and as a graph."""

    @staticmethod
    def graph(n: int) -> fbp.Graph:
        nodes: dict[str, Any] = {}
        x = "x"
        for i in range(3):
            nodes[f"a{i}"] = (fbp.Dense(n, n), x)
            nodes[f"t{i}"] = (TANH, f"a{i}")
            nodes[f"c{i}"] = (fbp.Dense(n, n), f"t{i}")
            nodes[f"s{i}"] = (fbp.Add(), (f"c{i}", f"t{i}"))
            x = f"s{i}"
        return fbp.Graph("x", **nodes, output=x)

    @staticmethod
    def by_hand(n: int) -> fbp.Serial:
        block = {"t": TANH, "s": fbp.Residual(fbp.Dense(n, n))}
        return fbp.Serial(*(fbp.Serial(a=fbp.Dense(n, n), **block) for _ in range(3)))

    @staticmethod
    def params(by_hand: Any) -> dict[str, Any]:
        """Those of the graph from those by hand."""
        params: dict[str, Any] = {}
        for i, p in enumerate(by_hand):
            params |= {f"a{i}": p["a"], f"t{i}": (), f"c{i}": p["s"], f"s{i}": ()}
        return params


def gradient(layer: fbp.Layer) -> Any:
    objective = fbp.Objective(layer, fbp.MeanSquaredError())

    def f(params: Any, x: Array) -> Any:
        return objective.value_and_grad(fbp.ObjectiveParams(params, ()), (x, x))

    return jax.jit(f)


def test_twelve_nodes_cost_what_they_do_by_hand() -> None:
    n = 16
    graph, by_hand = Diamonds.graph(n), Diamonds.by_hand(n)
    assert len(graph.nodes) == 12
    params, x = by_hand.init(KEY), jax.random.normal(KEY, (8, n))
    ours, theirs = Diamonds.params(params), params
    assert jax.tree.structure(ours) == jax.tree.structure(graph.init(KEY))
    value, g = gradient(graph)(ours, x)
    want, h = gradient(by_hand)(theirs, x)
    assert_close((value, g.model), (want, Diamonds.params(h.model)), 1e-6)
    compiled = [
        gradient(layer).lower(p, x).compile() for layer, p in ((graph, ours), (by_hand, theirs))
    ]
    assert compiled[0].cost_analysis()["flops"] == compiled[1].cost_analysis()["flops"]
    temporaries = [c.memory_analysis().temp_size_in_bytes for c in compiled]
    assert temporaries[0] <= temporaries[1]


@pytest.mark.parametrize("tied", [False, True])
def test_a_layer_that_two_nodes_share_is_a_tied_one(tied: bool) -> None:
    """Siamese towers: one layer on two inputs."""
    tower = fbp.Serial(fbp.Dense(3, 5), TANH)
    if tied:
        both = fbp.Tie(fbp.Each(a=tower, b=tower), "a", "b")
    else:
        both = fbp.Graph(("a", "b"), a_=(tower, "a"), b_=("a_", "b"), output={"a": "a_", "b": "b_"})
    params = both.init(KEY)
    inner = params["a"] if tied else params["a_"]
    assert sum(a.size for a in jax.tree.leaves(params)) == 20
    x = {"a": jax.random.normal(KEY, (7, 3)), "b": jax.random.normal(jax.random.key(1), (7, 3))}
    y, res = both.forward(params, x)
    dy = normal_like(2, y)
    dparams, dx = both.backward(params, x, res, dy)

    def once(p: Any, x: Array, dy: Array) -> PyTree:
        return auto(tower, p, x, dy)

    (pa, xa), (pb, xb) = (once(inner, x[k], dy[k]) for k in ("a", "b"))
    got = dparams["a"] if tied else dparams["a_"]
    assert_close(got, jax.tree.map(jnp.add, pa, pb), 1e-6)
    assert_close(dx, {"a": xa, "b": xb}, 1e-6)


REFUSED = [
    ({"a": (TANH, "y"), "output": "a"}, ValueError, "a reads 'y', which is none of x"),
    ({"a": (TANH, "x"), "output": "q"}, ValueError, "output reads 'q', which is none of x, a"),
    (
        {"a": (TANH, "b"), "b": (TANH, "x"), "output": "a"},
        ValueError,
        "expected a to read what comes before it, got 'b', which comes after it: write a after b",
    ),
    (
        {"a": (TANH, "c"), "b": (TANH, "a"), "c": (TANH, ("b", "x")), "output": "c"},
        ValueError,
        "expected no cycle, got a <- c <- b <- a",
    ),
    ({"a": (TANH, "a"), "output": "a"}, ValueError, "expected no cycle, got a <- a"),
    ({"x": (TANH, "x"), "output": "x"}, ValueError, "expected different names, got 'x' twice"),
    ({"output": "x"}, ValueError, "expected at least one node, got none"),
    (
        {"a": TANH, "output": "a"},
        TypeError,
        'expected a=(layer, reads), got Tanh(): as in a=(fbp.Tanh(), "x")',
    ),
    (
        {"a": (jnp.tanh, "x"), "output": "a"},
        TypeError,
        "expected a Layer, got the function tanh: make a layer of it by fbp.from_jax",
    ),
    (
        {"a": (fbp.Tanh, "x"), "output": "a"},
        TypeError,
        "expected a Layer, got the class Tanh: make one, Tanh(...)",
    ),
    (
        {"a": ("b", "x"), "b": (TANH, "x"), "output": "a"},
        ValueError,
        "expected a to share the layer of a node before it, got 'b', and before it are none",
    ),
    (
        {"a": (TANH, 3), "output": "a"},
        TypeError,
        "expected what a reads to be a name, or a tuple or a dict of names, got 3",
    ),
    (
        {"a": (TANH, ()), "output": "a"},
        TypeError,
        "expected what a reads to be a name, or a tuple or a dict of names, got ()",
    ),
]


@pytest.mark.parametrize(("nodes", "error", "words"), REFUSED, ids=[row[2][:60] for row in REFUSED])
def test_what_is_no_graph_is_refused_in_one_line(
    nodes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as raised:
        fbp.Graph("x", **nodes)
    assert str(raised.value) == f"Graph: {words}"


def test_what_nothing_reads_is_said_and_not_refused() -> None:
    with pytest.warns(UserWarning, match=r"^Graph: nothing reads b: computed in vain$"):
        graph = fbp.Graph("x", a=(TANH, "x"), b=(fbp.Dense(3, 2), "x"), output="a")
    params, x = graph.init(KEY), jnp.ones((7, 3))
    _, res = graph.forward(params, x)
    dparams, dx = graph.backward(params, x, res, jnp.ones((7, 3)))
    assert not any(leaf.any() for leaf in jax.tree.leaves(dparams))
    assert_close(dx, 1 - jnp.tanh(x) ** 2, 1e-6)


def test_what_is_not_the_graph_s_input_is_refused() -> None:
    graph = fbp.Graph(("a", "b"), c=(fbp.Concat(), ("a", "b")), output="c")
    one = jnp.ones(2)
    want = r"^Graph: expected x to be a dict of a, b, or a tuple of these, got "
    wrong = (({"a": one}, "a dict of a$"), ((one,), "tuple "), ((one,) * 3, "tuple "))
    for x, got in (*wrong, (one, "an array float32")):
        with pytest.raises(ValueError, match=want + got):
            graph.forward({"c": ()}, x)
    with pytest.raises(ValueError, match=r"^Graph: expected params to be a dict of \['c'\]"):
        graph.forward((), {"a": one, "b": one})


def test_no_warning_for_a_whole_graph() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Diamonds.graph(4)


def test_stepping_through_a_graph_is_its_forward() -> None:
    """A causal layer in a branch, and a value that is read twice."""
    attend = fbp.Serial(
        qkv=fbp.Dense(8, 24), split=fbp.SplitHeads(2), a=fbp.Attention(causal=True),
        m=fbp.MergeHeads(),
    )  # fmt: skip
    graph = fbp.Graph(
        "ids",
        e=(fbp.Embedding(5, 8), "ids"),
        a=(attend, "e"),
        both=(fbp.Concat(), ("a", "e")),
        y=(fbp.Dense(16, 3), "both"),
        output="y",
    )
    params, ids = graph.init(KEY), jnp.array([1, 4, 0, 0, 2])
    whole, _ = graph.forward(params, ids)
    state = graph.start(params, ids[0], 5)
    for t in range(5):
        y, state = graph.step(params, ids[t], state)
        assert_close(y, whole[t], 1e-5)


def test_the_optimizer_runs_inside_the_backward_of_a_graph() -> None:
    block = fbp.Residual(fbp.Serial(d=fbp.Dense(4, 4), t=TANH))
    graph = fbp.Graph(
        ("x", "z"),
        a=(fbp.Stack(block, 3), "x"),
        b=(fbp.Dense(2, 4), "z"),
        s=(fbp.Add(), ("a", "b")),
        c=(fbp.Stack(block, 2), "s"),
        output="c",
    )
    objective = fbp.Objective(graph, fbp.MeanSquaredError())
    optimizer = optax.adam(1e-2)
    batch = (
        {"x": jax.random.normal(KEY, (7, 4)), "z": jax.random.normal(KEY, (7, 2))},
        jnp.ones((7, 4)),
    )
    got, want = (
        fbp.step_of(objective, optimizer, in_backward=inside)(
            fbp.state_of(objective.init(KEY), optimizer), batch
        )
        for inside in (True, False)
    )
    assert_close(got, want, 1e-5)


def test_a_stack_that_two_nodes_share_is_updated_after_the_backward() -> None:
    stack = fbp.Stack(fbp.Residual(fbp.Dense(4, 4)), 2)
    shared = fbp.Graph("x", a=(stack, "x"), b=("a", "a"), output="b")
    objective = fbp.Objective(shared, fbp.MeanSquaredError())
    step = fbp.step_of(objective, optax.sgd(0.1), in_backward=True)
    state = fbp.state_of(objective.init(KEY), optax.sgd(0.1))
    with pytest.raises(ValueError, match="expected a model with a Stack"):
        step(state, (jnp.ones((7, 4)), jnp.ones((7, 4))))


def test_the_summary_of_a_graph_says_what_is_kept() -> None:
    graph = fbp.Graph(
        ("image", "time"),
        embed=(fbp.Dense(2, 5), "time"),
        down=(fbp.Dense(3, 5), "image"),
        act=(TANH, "down"),
        up=(fbp.Concat(), ("act", "embed")),
        output="up",
    )
    x = {"image": jnp.ones((7, 3)), "time": jnp.ones((7, 2))}
    table = fbp.summary(graph, x)
    rows = {row.path: (row.input, row.kept) for row in table.rows}
    kept = 7 * 5 * 4
    assert rows == {
        "": ("given", 0),
        "embed": ("given", kept),
        "down": ("given", kept),
        "act": ("kept", 0),
        "up": ("recomputed", 0),
    }
    assert table.kept_bytes == 2 * kept


def test_a_graph_in_mixed_precision_casts_each_layer() -> None:
    graph = fbp.Graph(
        ("a", "b"),
        x=(fbp.Dense(3, 4), "a"),
        s=(fbp.Stack(fbp.Residual(fbp.Dense(4, 4)), 2), "x"),
        y=(fbp.Concat(), ("s", "b")),
        output="y",
    )
    mixed = fbp.mixed_precision(graph)
    assert isinstance(mixed, fbp.Graph)
    x = {"a": jnp.ones((5, 3)), "b": jnp.ones((5, 2))}
    params = graph.init(KEY)
    y, res = mixed.forward(params, x)
    assert y.dtype == jnp.bfloat16
    gradients = mixed.backward(params, x, res, jnp.ones_like(y))
    assert {a.dtype for a in jax.tree.leaves(gradients)} == {jnp.dtype(jnp.float32)}
    _, res = graph.forward(params, x)
    # Sums of rounded numbers, 2^-9 each.
    assert_close(gradients, graph.backward(params, x, res, jnp.ones(y.shape)), 2.0**-6)


class Pair(NamedTuple):
    image: Any
    time: Any


FORMS = {
    "tuple": lambda a, b: (a, b),
    "named": Pair,
    "dict": lambda a, b: {"time": b, "image": a},
    "ordered": lambda a, b: collections.OrderedDict(time=b, image=a),
}


@pytest.mark.parametrize("form", FORMS)
def test_x_may_be_any_container_of_the_inputs(form: str) -> None:
    graph = fbp.Graph(
        ("image", "time"),
        a=(fbp.Dense(3, 2), "image"),
        b=(fbp.Dense(5, 2), "time"),
        y=(fbp.Add(), ("a", "b")),
        output="y",
    )
    params, image, time = graph.init(KEY), jnp.ones((4, 3)), jnp.ones((4, 5))
    x = FORMS[form](image, time)
    y, res = graph.forward(params, x)
    dy = jax.random.normal(KEY, y.shape)
    _, dx = graph.backward(params, x, res, dy)
    assert jax.tree.structure(dx) == jax.tree.structure(x)
    dimage, dtime = dy @ params["a"]["w"].T, dy @ params["b"]["w"].T
    assert_close(dx, FORMS[form](dimage, dtime), 1e-6)


@pytest.mark.parametrize("inputs", [3, None, ("x", 3), {"x": "y"}])
def test_inputs_are_names(inputs: Any) -> None:
    with pytest.raises(TypeError, match=r"^Graph: expected inputs to be a name or a tuple of n"):
        fbp.Graph(inputs, a=(TANH, "x"), output="a")


def test_the_search_for_a_cycle_takes_each_node_once() -> None:
    """Every node reads the two after it twice over: there are 2^40 paths, and no cycle."""
    names = [f"n{i}" for i in range(42)]
    nodes = {name: (fbp.Add(), (names[i + 1], names[i + 2])) for i, name in enumerate(names[:-2])}
    with pytest.raises(ValueError, match=r"^Graph: expected n0 to read what comes before it"):
        fbp.Graph("x", **nodes, n40=(TANH, "x"), n41=(TANH, "x"), output="n0")


def test_the_parts_of_a_dict_are_added_in_one_order() -> None:
    """Under jit a dict has lost the order in which it was written; the integers are one part's."""
    x = {"b": (jnp.ones(2), jnp.arange(2)), "a": (2 * jnp.ones(2), 10 + jnp.arange(2))}
    (y, ids), _ = fbp.Add().forward((), x)
    (jitted, jitted_ids), _ = jax.jit(fbp.Add().forward)((), x)
    assert_close((y, ids), (3 * jnp.ones(2), 10 + jnp.arange(2)), 1e-6)
    assert_close((jitted, jitted_ids), (y, ids), 1e-6)
    for wrong in (jnp.ones(2), (), {}):
        with pytest.raises(ValueError, match=r"^Add: expected a tuple or a dict of parts, got "):
            fbp.Add().forward((), wrong)


@dataclasses.dataclass(frozen=True)
class Counted(fbp.Layer):
    """x * w, with a counter among its params that has no gradient."""

    def init(self, key: Any) -> Any:
        return {"w": jnp.float32(2), "count": jnp.int32(3)}

    def forward(self, params: Any, x: Any, key: Any = None) -> Any:
        return x * params["w"], ()

    def backward(self, params: Any, x: Any, res: Any, dy: Any) -> Any:
        return {"w": (dy * x).sum(), "count": None}, dy * params["w"]


HOLDS_INTEGERS = {
    "repeat": fbp.Repeat(Counted(), 3),
    "stack": fbp.Stack(Counted(), 3),
    "freeze": fbp.Freeze(Counted()),
    "freeze one": fbp.Freeze(Counted(), ("w",)),
    "serial": fbp.Serial(a=Counted(), b=Counted()),
    "shared": fbp.Graph("x", a=(Counted(), "x"), b=("a", "a"), output="b"),
    "unused": fbp.Graph(
        "x", a=(Counted(), "x"), b=(Counted(), "x"), y=(fbp.Pick(0), ("a", "b")), output="y"
    ),
    "tie": fbp.Tie(fbp.Serial(a=Counted(), b=Counted()), "a", "b"),
    "tie in tie": fbp.Tie(
        fbp.Serial(
            a=fbp.Tie(fbp.Serial(a=Counted(), b=Counted()), "a", "b"),
            b=fbp.Tie(fbp.Serial(a=Counted(), b=Counted()), "a", "b"),
        ),
        "a",
        "b",
    ),
}


@pytest.mark.parametrize("name", HOLDS_INTEGERS)
def test_integers_among_params_have_no_gradient(name: str) -> None:
    layer = HOLDS_INTEGERS[name]
    params, x = layer.init(KEY), jnp.linspace(-1, 1, 5)
    y, res = layer.forward(params, x)
    dparams, dx = layer.backward(params, x, res, jnp.cos(y))
    f = jax.grad(lambda p, x: jnp.sin(layer.forward(p, x)[0]).sum(), (0, 1), allow_int=True)
    wanted, dwanted = f(params, x)
    assert all(d.dtype == jnp.float32 for d in jax.tree.leaves(dparams))
    floats = [d for d in jax.tree.leaves(wanted) if d.dtype == jnp.float32]
    assert_close((jax.tree.leaves(dparams), dx), (floats, dwanted), 1e-5)


NOISY = fbp.Serial(fbp.Scale(), fbp.Dropout(0.5))
X = {"a": jnp.linspace(-1, 1, 6).reshape(2, 3), "b": jnp.linspace(2, 3, 6).reshape(2, 3)}
CHEAP = {
    "graph": (fbp.Graph(("a", "b"), c=(NOISY, "a"), d=(fbp.Add(), ("c", "b")), output="d"), X),
    "each": (fbp.Each(a=NOISY, b=fbp.Bias((3,))), X),
    "on": (fbp.On("a", NOISY), X),
    "add": (fbp.Add(), X),
    "concat": (fbp.Concat(), X),
    "pick": (fbp.Pick("b"), X),
}


@pytest.mark.parametrize("name", CHEAP)
def test_what_is_cheap_is_computed_again_as_it_was(name: str) -> None:
    """With its params and its noise; and the gradients are those of autodiff."""
    layer, x = CHEAP[name]
    assert layer.cheap
    params = jax.tree.map(lambda p: p + 0.5, layer.init(KEY))
    y, res = layer.forward(params, x, KEY)
    assert_close(layer.recompute(params, x, res), y, 0)
    dy = jax.tree.map(jnp.cos, y)
    _, pull = jax.vjp(lambda params, x: layer.forward(params, x, KEY)[0], params, x)
    assert_close(layer.backward(params, x, res, dy), pull(dy), 1e-6)


def test_parts_of_several_dtypes_have_gradients_of_their_own() -> None:
    x = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 1), jnp.bfloat16)}
    y, res = fbp.Concat().forward((), x)
    _, dx = fbp.Concat().backward((), x, res, jnp.cos(y))
    assert y.dtype == jnp.float32
    assert jax.tree.map(jnp.shape, dx) == jax.tree.map(jnp.shape, x)
    assert {name: d.dtype for name, d in dx.items()} == {name: a.dtype for name, a in x.items()}
