"""What the layers of sequences compute, beside other ways to compute it; and what they refuse."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_close, auto, normal_like, rule

import fbp
from fbp._schedules import attention

RNG = np.random.default_rng(0)
# Float64, sums of at most 100 terms: see ROUNDING in test_contract.py.
CLOSE = 1e-12


def qkv(t: int, heads: int, groups: int, size: int) -> tuple[np.ndarray, ...]:
    shapes = [(2, t, n, size) for n in (heads, groups, groups)]
    return tuple(RNG.normal(size=shape) for shape in shapes)


OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "attention": ({}, {}),
    "attention_causal": ({"causal": True}, {"is_causal": True}),
    "attention_scale": ({"scale": 0.3}, {"scale": 0.3}),
    "attention_window": (
        {"causal": True, "window": 3},
        {"is_causal": True, "local_window_size": (2, 0)},
    ),
}


@pytest.mark.parametrize("t", [7, 67], ids=["whole", "in_blocks"])
@pytest.mark.parametrize("name", OPTIONS)
def test_it_is_the_attention_of_jax(name: str, t: int, x64: None) -> None:
    options, theirs = OPTIONS[name]
    q, k, v = qkv(t, 6, 2, 4)
    y, _ = jax.jit(fbp.Attention(**options).forward)((), (q, k, v))
    attention = functools.partial(jax.nn.dot_product_attention, implementation="xla", **theirs)
    want = jax.jit(attention)(q, k, v)
    # jax.nn takes its softmax in float32, whatever it is given.
    np.testing.assert_allclose(y, want, atol=1e-5)


def test_how_many_blocks() -> None:
    for t, n in zip((63, 64, 128, 512, 640, 1024, 2048), (1, 2, 4, 4, 5, 8, 8), strict=True):
        cut = attention.causal_blocks(t, None, 2)
        assert len(cut) == n
        assert [rows.stop for rows, _ in cut] == [2 * keys.stop for _, keys in cut]
        q, k = jnp.zeros((1, 2 * t, 3)), jnp.zeros((1, t, 3))
        assert attention.blocks_of(fbp.Attention(causal=True), q, k) == cut
        assert len(attention.blocks_of(fbp.Attention(), q, k)) == 1


@pytest.mark.parametrize(
    ("scores", "parts"), [(48, None), (47, 1), (24, 2), (23, 3), (15, 6), (1, 6)]
)
@pytest.mark.parametrize("options", [{"causal": True, "softcap": 2.0}, {}], ids=["causal", "all"])
def test_a_few_heads_at_a_time_are_all_heads(
    options: dict[str, Any], scores: int, parts: int | None, monkeypatch: Any, x64: None
) -> None:
    """Of 2 texts with 3 heads of keys each, and 8 scores to a head of keys."""
    layer, x = fbp.Attention(**options), tuple(map(jnp.asarray, qkv(2, 6, 3, 4)))
    x = (*x, jnp.asarray([[True, False], [True, True]]))
    dy = normal_like(1, x[0])
    want = layer.forward((), x), rule(layer, (), x, dy)
    monkeypatch.setattr(attention, "_MOST_SCORES", scores)
    assert not _loops(lambda *x: layer.forward((), x), *x)  # so few are taken at once
    monkeypatch.setattr(attention, "_FEWEST_SCORES", 8)
    loops = _loops(lambda *x: layer.forward((), x), *x)
    assert loops == ({"cpu": [parts], None: []} if parts else {})
    assert_close((layer.forward((), x), rule(layer, (), x, dy)), want, CLOSE)


@pytest.mark.parametrize("causal", [True, False])
def test_a_few_heads_of_no_places(causal: bool) -> None:
    x = (jnp.ones((2, 0, 3, 4)),) * 3
    y, res = fbp.Attention(causal=causal).forward((), x)
    assert y.shape == x[0].shape
    _, dx = fbp.Attention(causal=causal).backward((), x, res, y)
    assert [d.shape for d in dx] == [x[0].shape] * 3


def test_a_few_heads_are_counted_by_the_largest_block(monkeypatch: Any) -> None:
    """64 places in two blocks, of 32 with two queries each: with 32 keys, and with the last 48."""
    x = tuple(map(jnp.asarray, qkv(64, 12, 6, 3)))
    monkeypatch.setattr(attention, "_FEWEST_SCORES", 8)
    monkeypatch.setattr(attention, "_MOST_SCORES", 2 * 2 * 32 * 48)
    layer = fbp.Attention(causal=True, window=17)
    y, res = layer.forward((), x)
    for run in (lambda x: layer.forward((), x), lambda x: layer.backward((), x, res, y)):
        assert _loops(run, x) == {"cpu": [12 // 2], None: []}


@pytest.mark.parametrize(("heads", "groups", "size"), [(0, 1, 2), (1, 1, 0)])
def test_attention_without_heads_or_size_is_refused(heads: int, groups: int, size: int) -> None:
    with pytest.raises(ValueError, match=r"^Attention: expected .*, got q \(2, 3, "):
        fbp.Attention().forward((), tuple(map(jnp.asarray, qkv(3, heads, groups, size))))


def test_attention_is_exported_for_batches_of_any_size() -> None:
    layer = fbp.Attention(causal=True)
    sizes = jax.export.symbolic_shape("b, 64, 2, 4")
    x = (jax.ShapeDtypeStruct(sizes, jnp.float32),) * 3
    exported = jax.export.export(jax.jit(lambda *x: layer.forward((), x)[0]))(*x)
    q, k, v = (jnp.asarray(a, jnp.float32) for a in qkv(64, 2, 2, 4))
    assert_close(exported.call(q, k, v), jax.jit(layer.forward)((), (q, k, v))[0], 1e-5)


def test_blocks_of_attention_need_no_batch(x64: None) -> None:
    layer, x = fbp.Attention(causal=True), tuple(map(jnp.asarray, qkv(67, 4, 2, 3)))
    dy = normal_like(1, x[0])

    @jax.jit
    def both(x: Any, dy: Any) -> Any:
        y, res = layer.forward((), x)
        return y, layer.backward((), x, res, dy)

    one = both(tuple(a[1] for a in x), dy[1])
    assert_close(one, jax.tree.map(lambda a: a[1], both(x, dy)), CLOSE)


def test_attention_s_gradients_of_blocks_are_sums(x64: None) -> None:
    """A key has a part of its gradient from every block that sees it."""
    layer, x = fbp.Attention(causal=True, window=40), tuple(map(jnp.asarray, qkv(64, 2, 1, 2)))
    dy = normal_like(1, x[0])
    want = jax.jit(functools.partial(auto, layer))((), x, dy)
    assert_close(jax.jit(functools.partial(rule, layer))((), x, dy), want, CLOSE)


def _of_program(primitive: str, f: Any, *args: Any) -> list[Any]:
    """The operations of a kind of a program."""
    program = jax.make_jaxpr(f)(*args)
    return [eqn for eqn in program.eqns if eqn.primitive.name == primitive]


def _loops(f: Any, *args: Any) -> dict[str | None, list[int]]:
    """The lengths of the loops on each platform, None for others; nothing where all are alike."""
    found: dict[str | None, list[int]] = {}
    for eqn in _of_program("cond", f, *args):
        for names, branch in zip(
            eqn.params["branches_platforms"], eqn.params["branches"], strict=True
        ):
            scans = [e for e in branch.jaxpr.eqns if e.primitive.name == "scan"]
            for name in names or (None,):
                found.setdefault(name, []).extend(scan.params["length"] for scan in scans)
    return found


NARROW = [jnp.bfloat16] * 3
MIXED = [[jnp.float64, jnp.float32, jnp.float32], [jnp.float32, jnp.float64, jnp.float32]]


@pytest.mark.parametrize("dtypes", [NARROW, *MIXED], ids=["bfloat16", "wide_q", "wide_k"])
def test_attention_adds_blocks_in_at_least_float32(dtypes: list[Any], x64: None) -> None:
    layer = fbp.Attention(causal=True)
    x = tuple(jax.ShapeDtypeStruct((2, 1, 1), dtype) for dtype in dtypes)
    y, res = jax.eval_shape(layer.forward, (), x)
    sums = _of_program("scatter-add", functools.partial(layer.backward, ()), x, res, y)
    wide = [jnp.promote_types(dtype, jnp.float32) for dtype in dtypes[1:]]  # dk, dv
    assert [eqn.outvars[0].aval.dtype for eqn in sums] == wide
    _, dx = jax.eval_shape(layer.backward, (), x, res, y)
    assert [leaf.dtype for leaf in dx] == dtypes


def test_products_of_attention_are_of_the_dtype_of_x_and_added_in_float32() -> None:
    """Of bfloat16, in which a GPU is fast; their sums are not."""
    x = (jax.ShapeDtypeStruct((3, 1, 1), jnp.bfloat16),) * 3
    layer = fbp.Attention(softcap=2.0)
    y, res = jax.eval_shape(layer.forward, (), x)
    products = _of_program("dot_general", functools.partial(layer.backward, ()), x, res, y)
    assert len(products) == 5
    assert {a.aval.dtype for e in products for a in e.invars} == {jnp.dtype("bfloat16")}
    assert {e.outvars[0].aval.dtype for e in products} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("t", "s", "options", "want"),
    [
        (0, 0, {}, [(0, 0)]),
        (0, 0, {"causal": True}, [(0, 0)]),
        (256, 256, {}, [(256, 256)]),
        (5, 7, {}, [(5, 7)]),
        (7, 5, {}, [(7, 5)]),
        (63, 63, {"causal": True}, [(63, 63)]),
        (65, 65, {"causal": True}, [(33, 33), (32, 65)]),
        (128, 128, {"causal": True}, [(32, 32), (32, 64), (32, 96), (32, 128)]),
        (256, 256, {"causal": True}, [(64, 64), (64, 128), (64, 192), (64, 256)]),
        (128, 128, {"causal": True, "window": 40}, [(32, 32), (32, 64), (32, 71), (32, 71)]),
    ],
    ids=str,
)
def test_a_block_of_attention_has_no_more_keys_than_it_may_see(
    t: int, s: int, options: Any, want: list[tuple[int, int]]
) -> None:
    q, k = (jax.ShapeDtypeStruct((n, 1, 1), jnp.float32) for n in (t, s))
    forward = functools.partial(fbp.Attention(**options).forward, ())
    products = _of_program("dot_general", forward, (q, k, k))
    # Of each block's two, q k^T comes first.
    sizes = [sorted(a.aval.size for a in eqn.invars) for eqn in products[::2]]
    assert sizes == [sorted(block) for block in want]


def test_attention_with_a_softcap_and_padding(x64: None) -> None:
    q, k, v = qkv(5, 2, 2, 3)
    seen = np.array([[True, False, True, True, False], [False] * 5])
    y, _ = jax.jit(fbp.Attention(softcap=1.5).forward)((), (q, k, v, jnp.asarray(seen)))
    s = 1.5 * np.tanh(np.einsum("bthk,bshk->bhts", q, k) / np.sqrt(3) / 1.5)
    e = np.exp(s) * seen[:, None, None, :]
    p = e / np.maximum(e.sum(-1, keepdims=True), 1e-300)
    np.testing.assert_allclose(y, np.einsum("bhts,bshk->bthk", p, v), atol=CLOSE)
    np.testing.assert_array_equal(y[1], 0)


def of_documents(q: Any, k: Any, v: Any, numbers: Any, options: dict[str, Any]) -> Any:
    """Attention by dense scores (T, T) of each head, with an explicit mask."""
    places = np.arange(q.shape[1])
    behind = places[:, None] - places
    seen = numbers[:, :, None] == numbers[:, None, :]
    if options.get("causal"):
        seen = seen & (behind >= 0) & (behind < options.get("window", len(places)))
    each = q.shape[2] // k.shape[2]
    k, v = (jnp.repeat(a, each, 2) for a in (k, v))
    s = jnp.einsum("bthk,bshk->bhts", q, k) * options.get("scale", q.shape[-1] ** -0.5)
    if cap := options.get("softcap"):
        s = cap * jnp.tanh(s / cap)
    p = jax.nn.softmax(jnp.where(seen[:, None], s, -jnp.inf), -1)
    return jnp.einsum("bhts,bshk->bthk", p, v)


NUMBERS = {
    "prime": (7, [3, 2, 1, 1]),
    "equal": (9, [3, 3, 3]),
    "one": (7, [7]),
    "of_one_place": (5, [1] * 5),
    "in_blocks": (131, [31, 1, 66, 33]),
}


@pytest.mark.parametrize("sizes", NUMBERS)
@pytest.mark.parametrize(
    "options",
    [{}, {"causal": True}, {"causal": True, "window": 3, "softcap": 1.5, "scale": 0.8}],
    ids=["both_ways", "causal", "window_softcap"],
)
def test_attention_to_one_s_own_document(options: dict[str, Any], sizes: str, x64: None) -> None:
    t, lengths = NUMBERS[sizes]
    x = tuple(map(jnp.asarray, qkv(t, 6, 2, 4)))
    numbers = np.repeat(np.arange(len(lengths)), lengths)
    numbers = jnp.asarray(np.stack([numbers, numbers[::-1] + 5]))  # another row, other boundaries
    dy = normal_like(1, x[0])
    want, pull = jax.vjp(lambda *x: of_documents(*x, numbers, options), *x)
    layer = fbp.Attention(**options)
    y, res = jax.jit(layer.forward)((), (*x, numbers))
    _, (*dx, none) = jax.jit(layer.backward)((), (*x, numbers), res, dy)
    assert none is None
    assert_close(y, want, CLOSE)
    assert_close(tuple(dx), pull(dy), CLOSE, floor=CLOSE)


@pytest.mark.slow
def test_documents_side_by_side_are_documents_alone(x64: None) -> None:
    """And what one document holds, however large, changes no other's y or gradient."""
    x = tuple(map(jnp.asarray, qkv(131, 4, 2, 3)))
    dy = normal_like(1, x[0])
    layer, numbers = fbp.Attention(causal=True), jnp.asarray([0] * 61 + [1] + [2] * 69)
    numbers = jnp.broadcast_to(numbers, (2, 131))

    def both(x: Any, dy: Any) -> Any:
        y, res = layer.forward((), x)
        return y, layer.backward((), x, res, dy)[1][:3]

    got = jax.jit(both)((*x, numbers), dy)
    for start, stop in ((0, 61), (61, 62), (62, 131)):
        here = jax.tree.map(lambda a: a[:, start:stop], (x, dy, got))  # noqa: B023
        assert_close(here[2], both(*here[:2]), CLOSE, floor=CLOSE)
    huge = tuple(a.at[:, 61].set(1e50) for a in x)
    other = jax.jit(both)((*huge, numbers), dy)
    apart = jax.tree.map(lambda a: jnp.delete(a, 61, 1), (got, other))
    jax.tree.map(np.testing.assert_array_equal, *apart)


def test_a_backward_across_documents_is_found() -> None:
    class Leaks(fbp.Attention):
        def backward(self, params: Any, x: Any, res: Any, dy: Any) -> Any:
            _, dx = super().backward(params, x[:3], res, dy)
            return (), (*dx, None)

    x = (*(jnp.asarray(a[0], jnp.float32) for a in qkv(5, 2, 1, 3)), jnp.asarray([0, 0, 1, 2, 2]))
    for kind, verdict in ((fbp.Attention, "OK"), (Leaks, "WRONG")):
        assert fbp.check(kind(causal=True), (), x, budget="fast").verdict == verdict


def test_attention_of_documents_a_few_heads_at_a_time(monkeypatch: Any, x64: None) -> None:
    layer, x = fbp.Attention(causal=True), tuple(map(jnp.asarray, qkv(5, 6, 3, 4)))
    x = (*x, jnp.asarray([[0, 0, 1, 2, 2], [7, 1, 1, 1, 7]]))
    dy = normal_like(1, x[0])
    want = layer.forward((), x), rule(layer, (), x, dy)
    monkeypatch.setattr(attention, "_MOST_SCORES", 50)
    monkeypatch.setattr(attention, "_FEWEST_SCORES", 8)
    assert _loops(lambda *x: layer.forward((), x), *x) == {"cpu": [6], None: []}
    assert_close((layer.forward((), x), rule(layer, (), x, dy)), want, CLOSE)


def test_attention_of_documents_is_exported_for_batches_of_any_size() -> None:
    layer = fbp.Attention(causal=True)
    (b,) = jax.export.symbolic_shape("b")
    a = jax.ShapeDtypeStruct((b, 64, 2, 4), jnp.float32)
    x = a, a, a, jax.ShapeDtypeStruct((b, 64), jnp.int32)
    exported = jax.export.export(jax.jit(lambda *x: layer.forward((), x)[0]))(*x)
    q, k, v = (jnp.asarray(a, jnp.float32) for a in qkv(64, 2, 2, 4))
    x = q, k, v, jnp.asarray(np.stack([np.arange(64) // 9, np.arange(64) // 20]), jnp.int32)
    assert_close(exported.call(*x), jax.jit(layer.forward)((), x)[0], 1e-5)


def test_a_query_that_sees_nothing_has_no_gradient() -> None:
    x = (*map(jnp.asarray, qkv(3, 1, 1, 2)), jnp.zeros((2, 3), bool))
    attention = fbp.Attention(causal=True)
    y, res = jax.jit(attention.forward)((), x)
    _, dx = jax.jit(attention.backward)((), x, res, np.ones_like(y))
    for leaf in (y, *dx[:3]):
        np.testing.assert_array_equal(leaf, 0)


def test_scores_beyond_what_exp_can_hold() -> None:
    q = jnp.full((2, 1, 1), 1e4)
    x = (q, jnp.asarray([[[1e4]], [[-1e4]]]), jnp.asarray([[[3.0]], [[5.0]]]))
    y, res = jax.jit(fbp.Attention().forward)((), x)
    np.testing.assert_array_equal(np.asarray(y)[:, 0, 0], 3.0)
    _, dx = jax.jit(fbp.Attention().backward)((), x, res, np.ones_like(y))
    assert all(np.isfinite(leaf).all() for leaf in dx)


def test_rope_turns_pairs_of_numbers(x64: None) -> None:
    q, k, v = qkv(7, 2, 1, 6)
    (turned_q, turned_k, same), _ = fbp.Rope(base=50.0).forward((), (q, k, v))
    angle = np.arange(7)[:, None] * 50.0 ** (-np.arange(3) / 3)
    for got, a in ((turned_q, q), (turned_k, k)):
        complex_ = (a[..., :3] + 1j * a[..., 3:]) * np.exp(1j * angle)[:, None, :]
        np.testing.assert_allclose(got[..., :3] + 1j * got[..., 3:], complex_, atol=CLOSE)
    np.testing.assert_array_equal(same, v)


def test_rope_of_few_digits_is_computed_in_float32(x64: None) -> None:
    x = (jax.ShapeDtypeStruct((5, 1, 2), jnp.bfloat16),) * 3
    y, _ = jax.eval_shape(fbp.Rope().forward, (), x)
    program = jax.make_jaxpr(fbp.Rope().backward)((), x, (), y)
    made = {var.aval.dtype for eqn in program.eqns for var in eqn.outvars}
    assert jnp.dtype("float64") not in made


def test_rope_of_llama_3_slows_what_is_slow() -> None:
    scaling = fbp.Llama3Scaling(factor=8.0, low=1.0, high=4.0, context=64)
    waves = np.array([64 / 4 - 1, 64 / 1 + 1, 64 / 2.5])
    frequencies = 2 * np.pi / waves
    kept, slowed, between = scaling(frequencies) / frequencies
    assert (kept, slowed) == (1.0, 1 / 8)
    assert between == pytest.approx(0.5 / 8 + 0.5)


def test_norms_and_gates(x64: None) -> None:
    x, w, b = RNG.normal(size=(2, 7, 6)), RNG.normal(size=6), RNG.normal(size=6)
    centred = x - x.mean(-1, keepdims=True)
    want = w * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) + b
    y, _ = fbp.LayerNorm(6).forward({"w": w, "b": b}, x)
    np.testing.assert_allclose(y, want, atol=CLOSE)
    y, _ = fbp.RMSNorm(6).forward({"w": w}, x)
    np.testing.assert_allclose(
        y, w * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6), atol=CLOSE
    )
    y, _ = fbp.SwiGLU().forward((), x)
    a, b = x[..., :3], x[..., 3:]
    np.testing.assert_allclose(y, a / (1 + np.exp(-a)) * b, atol=CLOSE)


def test_split_heads_puts_gradients_side_by_side() -> None:
    layer, x = fbp.SplitHeads(2, 1), jnp.arange(8.0)
    (q, k, v), _ = layer.forward((), x)
    assert (q.shape, k.shape, v.shape) == ((2, 2), (1, 2), (1, 2))
    np.testing.assert_array_equal(layer.backward((), x, (), (q, k, v))[1], x)


def test_split_heads_of_one_of_three(x64: None) -> None:
    layer, x = fbp.SplitHeads(2, packed=False), jnp.arange(12.0).reshape(2, 6)
    y, res = layer.forward((), x)
    np.testing.assert_array_equal(y, x.reshape(2, 2, 3))
    np.testing.assert_array_equal(layer.backward((), x, res, 2 * y)[1], 2 * x)


@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_is_the_textbooks(masked: bool, x64: None) -> None:
    """Beside loops over heads."""
    model = fbp.models.cross_attention(
        6, 4, memory=5, kv_heads=2, head_size=3, bias=True, masked=masked
    )
    params: Any = jax.tree.map(
        lambda a: jnp.asarray(RNG.normal(size=a.shape)), model.init(jax.random.key(0))
    )
    assert {name for name, leaf in params.items() if leaf} == {"q", "k", "v", "out"}
    x, memory = RNG.normal(size=(2, 3, 6)), RNG.normal(size=(2, 7, 5))
    seen = np.ones((2, 7), bool)
    if masked:
        seen[0, 4:] = seen[1, :2] = False
    parts = (x, memory, jnp.asarray(seen)) if masked else (x, memory)
    got, _ = jax.jit(model.forward)(params, parts)

    def dense(name: str, a: np.ndarray) -> np.ndarray:
        return a @ np.asarray(params[name]["w"]) + np.asarray(params[name].get("b", 0))

    q, k, v = dense("q", x), dense("k", memory), dense("v", memory)
    heads = []
    for h in range(4):
        one, its = slice(3 * h, 3 * h + 3), slice(3 * (h // 2), 3 * (h // 2) + 3)
        e = np.exp(q[..., one] @ k[..., its].swapaxes(1, 2) / np.sqrt(3)) * seen[:, None]
        heads.append(e / e.sum(-1, keepdims=True) @ v[..., its])
    want = dense("out", np.concatenate(heads, -1))
    np.testing.assert_allclose(got, want, rtol=0, atol=50 * CLOSE)


@pytest.mark.slow
def test_padding_of_a_memory_has_no_gradient() -> None:
    model = fbp.models.cross_attention(4, 2, masked=True)
    params = model.init(jax.random.key(0))
    x = {"x": jnp.ones((3, 4)), "memory": jnp.eye(5, 4), "mask": jnp.arange(5) < 3}
    y, res = model.forward(params, x)
    _, dx = model.backward(params, x, res, jnp.ones_like(y) * jnp.arange(4.0))
    assert dx["mask"] is None
    np.testing.assert_array_equal(dx["memory"][3:], 0)
    assert (dx["memory"][:3] != 0).any()


def test_positions_embedding_and_unembedding(x64: None) -> None:
    w = RNG.normal(size=(7, 3))
    ids = jnp.asarray([[0, 6, 2], [2, 2, 1]])
    y, _ = fbp.Embedding(7, 3).forward({"w": w}, ids)
    np.testing.assert_array_equal(y, w[np.asarray(ids)])
    y, _ = fbp.Positions(7, 3).forward({"w": w}, y)
    np.testing.assert_allclose(y, w[np.asarray(ids)] + w[:3], atol=CLOSE)
    logits, _ = fbp.Unembed(3, 7).forward({"w": w}, y)
    np.testing.assert_allclose(logits, np.asarray(y) @ w.T, atol=CLOSE)


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16"])
def test_ids_of_few_bits(kind: str) -> None:
    most = min(255, int(jnp.iinfo(kind).max))
    layer, loss = fbp.Embedding(256, 3), fbp.UnembedCrossEntropy(3, 256, ignore=-1)
    params, wide = layer.init(jax.random.key(0)), jnp.asarray([0, 5, most, 5])
    ids = wide.astype(kind)
    for x in (ids, np.asarray(ids)):
        y, res = layer.forward(params, x)
        np.testing.assert_array_equal(y, params["w"][wide])
        np.testing.assert_array_equal(jax.jit(layer.forward)(params, x)[0], y)
        dparams, _ = layer.backward(params, x, res, jnp.ones((4, 3)))
        want = np.bincount(wide, minlength=256)
        np.testing.assert_array_equal(dparams["w"], want[:, None] * np.ones(3))
        got, want = (loss.value_and_grad(params, y, target)[0] for target in (x, wide))
        assert got == want


def test_an_embedding_adds_up_in_float32() -> None:
    layer, ids = fbp.Embedding(2, 1, dtype=jnp.bfloat16), jnp.zeros(4, jnp.int32)
    dy = jnp.asarray([256, 1, 1, 2], jnp.bfloat16)[:, None]
    dparams, _ = layer.backward({"w": jnp.zeros((2, 1), dy.dtype)}, ids, (), dy)
    # In bfloat16 256 + 1 is 256.
    np.testing.assert_array_equal(dparams["w"], [[260], [0]])


def test_an_embedding_has_no_gradient_of_ids_that_are_outside() -> None:
    layer, ids = fbp.Embedding(3, 1), jnp.asarray([-1, 3, 1])
    dparams, _ = layer.backward({"w": jnp.zeros((3, 1))}, ids, (), jnp.ones((3, 1)))
    np.testing.assert_array_equal(dparams["w"], [[0], [1], [0]])


Q, KV = jnp.zeros((2, 4, 3)), jnp.zeros((2, 2, 3))


@pytest.mark.parametrize(
    ("layer", "x", "message"),
    [
        (fbp.Embedding(5, 3), jnp.asarray([0, 5]), r"Embedding: expected ids in 0\.\.4, got 5"),
        (fbp.Embedding(5, 3), jnp.asarray([0, -1]), r"Embedding: expected ids in 0\.\.4, got -1"),
        (fbp.Positions(3, 2), jnp.zeros((4, 2)), r"Positions: expected x \(\.\.\., T, 2\) with T"),
        (fbp.SwiGLU(), jnp.zeros((4, 3)), "SwiGLU: expected last axis of x to be even, got"),
        (fbp.SplitHeads(4, 2), jnp.zeros(12), "SplitHeads: expected last axis of x to be a multi"),
        (
            fbp.SplitHeads(4, packed=False),
            jnp.zeros(6),
            "SplitHeads: expected last axis of x to be a multiple of 4 heads, got shape",
        ),
        (fbp.MergeHeads(), jnp.zeros(3), r"MergeHeads: expected x \(\.\.\., H, K\), got shape"),
        (fbp.Rope(), (Q, Q, Q), r"Rope: expected q \(\.\.\., T, H, K\) with an even K, got"),
        (
            fbp.Attention(),
            (Q, KV),
            r"Attention: expected x = \(q, k, v\) or \(q, k, v, mask\), ",
        ),
        (fbp.Attention(), (Q, KV, Q), r"Attention: expected q \(\.\.\., T, H, K\), k"),
        (fbp.Attention(), (KV, Q, Q), "Attention: expected heads of k to divide those of q, got"),
        (
            fbp.Attention(causal=True),
            (Q, KV[:1], KV[:1]),
            "Attention: expected as many keys as causal queries, got",
        ),
        (
            fbp.Attention(),
            (Q, KV, KV, jnp.zeros(3, bool)),
            r"Attention: expected a mask of shape \(2,\), got \(3,\)",
        ),
        (
            fbp.Attention(),
            (Q[:1], KV, KV, jnp.zeros(2, int)),
            "Attention: expected as many keys as queries with a mask of integers, the documents of",
        ),
        (fbp.LayerNorm(3), jnp.zeros((2, 4)), "LayerNorm: expected last axis of x to be 3, got"),
    ],
)
def test_bad_input_gets_one_clear_line(layer: fbp.Layer, x: Any, message: str) -> None:
    params = layer.init(jax.random.key(0))
    with pytest.raises(ValueError, match=f"^{message}"):
        layer.forward(params, x)


def test_bad_settings_get_one_clear_line() -> None:
    with pytest.raises(ValueError, match=r"^Attention: expected a window of 1 or more with causal"):
        fbp.Attention(window=3)
    with pytest.raises(ValueError, match=r"^Attention: expected softcap above 0, got -1$"):
        fbp.Attention(softcap=-1)
    with pytest.raises(ValueError, match=r"^SplitHeads: expected kv_heads to divide heads, got 2"):
        fbp.SplitHeads(3, 2)
    with pytest.raises(ValueError, match=r"^SplitHeads: expected no kv_heads with packed=False, g"):
        fbp.SplitHeads(4, 2, packed=False)
    for wrong in ({"width": 5, "heads": 2}, {"width": 4, "heads": 4, "kv_heads": 3}):
        with pytest.raises(ValueError, match=r"^cross_attention: expected heads that divide the"):
            fbp.models.cross_attention(**wrong)
    with pytest.raises(ValueError, match=r"^gpt2: expected heads to divide the width, got 3 of 8$"):
        fbp.models.gpt2(vocab=5, context=5, width=8, heads=3, layers=1)
    with pytest.raises(TypeError, match=r"^Attention: expected a mask of bools or integers, got f"):
        fbp.Attention().forward((), (Q, KV, KV, jnp.zeros(2)))
    with pytest.raises(TypeError, match=r"^Embedding: expected x to be an integer array, got"):
        fbp.Embedding(5, 3).forward({"w": jnp.zeros((5, 3))}, jnp.zeros(3))
