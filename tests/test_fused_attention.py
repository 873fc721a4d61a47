"""The kernels of attention, without a GPU, beside the layer that they stand in for on one."""

import contextlib
import functools
import re
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fbp
from fbp._schedules import attention, attention_kernels
from fbp._schedules.attention_kernels import FusedAttention
from fbp._schedules.kernel_blocks import padded
from fbp._schedules.sums import Sums
from fbp.verify.program._program import equations


def heads(
    t: int, s: int, each: int = 1, k: int = 16, m: int = 16, n: int = 2, dtype: Any = jnp.float32
) -> tuple[jax.Array, ...]:
    """q, k, v and dy of some heads."""
    rng = np.random.default_rng(0)
    shapes = (n, t * each, k), (n, s, k), (n, s, m), (n, t * each, m)
    return tuple(jnp.asarray(rng.normal(size=shape).astype(dtype)) for shape in shapes)


def by_products_of(layer: fbp.Attention) -> tuple[Any, Any]:
    """What a layer computes of some heads by its own equations, without kernels."""

    def attend(q: Any, k: Any, v: Any) -> Any:
        return attention.attend(layer, layer._attend, q, k, v, None)

    def gradients(q: Any, k: Any, v: Any, sums: Any, dy: Any) -> Any:
        return attention.gradients(layer, layer._gradients, q, k, v, None, sums, dy)

    return attend, gradients


def both(
    arrays: tuple[jax.Array, ...], each: int = 1, **options: Any
) -> tuple[list[Any], list[Any]]:
    """y, top, part, dq, dk and dv: by the kernels, and by the layer's own products in float64."""
    fused = FusedAttention(arrays[0].shape[-1] ** -0.5, each, **options, interpret=True)
    attend, gradients = by_products_of(fbp.Attention(**options))

    @jax.jit
    def by_kernels(q: Any, k: Any, v: Any, dy: Any) -> list[Any]:
        y, sums = fused.forward(q, k, v)
        return [y, *sums, *fused.backward(q, k, v, sums, dy)]

    @jax.jit
    def by_products(q: Any, k: Any, v: Any, dy: Any) -> list[Any]:
        y, sums = attend(q, k, v)
        return [y, *sums, *gradients(q, k, v, sums, dy)]

    with jax.enable_x64(True):
        want = jax.device_get(by_products(*(np.asarray(a, np.float64) for a in arrays)))
    return by_kernels(*arrays), want


# Sizes in, below and above a block of 64, prime, and one; blocks that a window leaves out at both
# ends; and queries of which several blocks go with one of keys.
SHAPES: dict[str, tuple[dict[str, int], dict[str, Any]]] = {
    "one": ({"t": 1, "s": 1, "k": 1, "m": 1, "n": 1}, {"causal": True}),
    "all": ({"t": 37, "s": 150, "each": 3, "k": 8, "m": 5}, {}),
    "all_of_a_block": ({"t": 64, "s": 64}, {}),
    "causal": ({"t": 131, "s": 131, "k": 20, "m": 12}, {"causal": True}),
    "causal_groups": ({"t": 67, "s": 67, "each": 4, "n": 1}, {"causal": True}),
    "window": ({"t": 300, "s": 300, "n": 1}, {"causal": True, "window": 40}),
    "window_of_one": ({"t": 130, "s": 130, "n": 1}, {"causal": True, "window": 1}),
    "window_of_blocks": ({"t": 260, "s": 260, "n": 1}, {"causal": True, "window": 129}),
    "window_groups": ({"t": 141, "s": 141, "each": 3, "n": 1}, {"causal": True, "window": 66}),
    "wide_window": (
        {"t": 17, "s": 17, "each": 4, "n": 1},
        {"causal": True, "window": 2**31 + 5},
    ),
    "softcap": ({"t": 37, "s": 70, "each": 2}, {"softcap": 1.5}),
    "everything": (
        {"t": 131, "s": 131, "each": 2, "n": 1},
        {"causal": True, "window": 33, "softcap": 2.0},
    ),
}


SELDOM = {"all_of_a_block", "window", "window_of_one", "softcap"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SELDOM)) for n in SHAPES]
)
def test_they_are_the_layer(name: str, x64: None) -> None:
    sizes, options = SHAPES[name]
    got, want = both(heads(**sizes, dtype=float), sizes.get("each", 1), **options)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        # A few roundings of each of up to 300 terms.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13 * max(1.0, np.abs(b).max()))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_they_err_at_most_twice_as_much_in_few_bits(dtype: Any) -> None:
    arrays = heads(131, 131, n=3, k=64, m=64, dtype=dtype)
    got, want = both(arrays, causal=True)

    @jax.jit
    def autodiff(q: Any, k: Any, v: Any, dy: Any) -> list[Any]:
        attend, _ = by_products_of(fbp.Attention(causal=True))
        y, pull = jax.vjp(lambda *x: attend(*x)[0].astype(dtype), q, k, v)
        return [y, *pull(dy)]

    theirs = autodiff(*arrays)
    assert [a.dtype for a in got] == [dtype, jnp.float32, jnp.float32, dtype, dtype, dtype]
    for a, other, b in zip([got[0], *got[3:]], theirs, [want[0], *want[3:]], strict=True):
        off, its = (np.linalg.norm(np.asarray(x, np.float64) - b) for x in (a, other))
        assert off <= 2 * its


def test_scores_below_all_others_are_seen() -> None:
    arrays = (jnp.full((1, 2, 1), a) for a in (1e16, -1e16, 1.0, 1.0))
    q, k, v, dy = arrays
    v = v.at[0, 1].set(100)
    got, want = both((q, k, v, dy), causal=True)
    # The second query sees two equal scores: p = 1/2, ds = -99/4 and 99/4, and dq = 0 from two
    # terms of 99/4 * 1e16, one of which may be rounded before they are added.
    np.testing.assert_array_equal(want[0].ravel(), [1, 50.5])
    np.testing.assert_array_equal(want[3].ravel(), [0, 0])
    for a, b, term in zip(
        [got[0], *got[3:]], [want[0], *want[3:]], (0, 99e16 / 4, 0, 0), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=2**-24 * term)


def test_gradients_of_float16_do_not_overflow_before_they_are_scaled() -> None:
    q, k, v, dy = heads(16, 16, k=64, m=64, n=1, dtype=jnp.float16)
    v = 300 * jnp.where(jnp.arange(16)[:, None] % 2, 1, -1) * jnp.ones_like(v)
    got, want = both((q, k, v.astype(jnp.float16), 10 * jnp.ones_like(dy)))
    assert np.abs(want[3]).max() > 1000
    for a, b in zip(got[3:], want[3:], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2**-9 * np.abs(b).max())


def test_large_scores_do_not_overflow() -> None:
    q, k, v, dy = heads(70, 70)
    got, want = both((300 * q, k, v, dy), causal=True)
    largest = 300 * np.abs(jnp.einsum("ntk,nsk->nts", q, k)).max() / 4
    assert largest > 1000
    for a, b in zip(got, want, strict=True):
        assert np.isfinite(a).all()
        # An exponential errs as its argument does, relatively: here by its rounding 16 times.
        np.testing.assert_allclose(a, b, rtol=0, atol=16 * 2**-24 * largest * np.abs(b).max())


@pytest.mark.slow
def test_fbp_check_finds_nothing() -> None:
    fused = FusedAttention(0.5, causal=True, window=5, interpret=True)
    plain, _ = by_products_of(fbp.Attention(causal=True, window=5, scale=0.5))
    q, k, v, _ = heads(21, 21, k=3, m=2)

    @jax.custom_vjp
    def attend(q: Any, k: Any, v: Any) -> Any:
        return fused.forward(q, k, v)[0]

    def forward(q: Any, k: Any, v: Any) -> Any:
        y, sums = fused.forward(q, k, v)
        return y, (q, k, v, sums)

    attend.defvjp(forward, lambda res, dy: fused.backward(*res, dy))
    report = fbp.check(attend, q, k, v, reference=lambda *x: plain(*x)[0], budget="fast")
    assert report.ok, report
    # No other, such as that it was not done in float64.
    assert report.notes == ("sizes tried: those given; sizes= tries others",)


def lowered(f: Any, platform: str, *args: Any) -> str:
    """The program of a function for a platform that need not be here."""
    context: Any = contextlib.nullcontext()
    if platform == "cuda" and jax.__version_info__ >= (0, 11):
        # Since then the lowering of kernels asks for a GPU.
        gpu = jax.sharding.AbstractDevice("NVIDIA H200", 132, "cuda")
        mesh = jax.sharding.AbstractMesh((), (), abstract_device=gpu)
        context = jax.sharding.use_abstract_mesh(mesh)
    with context:
        return jax.jit(f).trace(*args).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("size", [3, 128])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_they_are_lowered_for_a_gpu(dtype: Any, size: int) -> None:
    t = size + 3
    q, k, v, dy = heads(t, t, 2, k=size, m=size, dtype=dtype)
    fused = FusedAttention(0.25, 2, True, 33, 1.5)
    sums = Sums(jnp.zeros(q.shape[:2]), jnp.ones(q.shape[:2]))
    for f, args in ((fused.forward, (q, k, v)), (fused.backward, (q, k, v, sums, dy))):
        assert "triton" in lowered(f, "cuda", *args)


@pytest.mark.parametrize(
    ("shape", "want"),
    [
        ((2, 5, 3), (2, 16, 16)),
        ((1, 16, 16), (1, 16, 16)),
        ((3, 33, 17), (3, 64, 32)),
        ((1, 65, 80), (1, 128, 128)),
        ((1, 131), (1, 192)),
    ],
)
def test_blocks_are_of_at_least_16(shape: tuple[int, ...], want: tuple[int, ...]) -> None:
    """As the matrix units of a GPU take them."""
    whole = padded(jnp.ones(shape))
    assert whole.shape == want
    assert whole.sum() == whole[tuple(slice(n) for n in shape)].sum() == np.prod(shape)


@pytest.mark.parametrize(
    ("size", "dtype", "blocks"), [(128, jnp.float32, 8), (64, jnp.float32, 4), (128, "float16", 4)]
)
def test_wide_heads_come_in_smaller_blocks(size: int, dtype: Any, blocks: int) -> None:
    q, k, v, dy = heads(256, 256, k=size, m=16, dtype=dtype)
    fused, rows = FusedAttention(1.0), jnp.zeros(q.shape[:2])
    sums = Sums(rows, rows + 1)
    for f, args in ((fused.forward, (q, k, v)), (fused.backward, (q, k, v, sums, dy))):
        text = str(jax.make_jaxpr(f)(*args))
        assert set(re.findall(r"grid=\((\d+), (\d+)\)", text)) == {("2", str(blocks))}


def pretend(monkeypatch: pytest.MonkeyPatch, capability: str = "9.0") -> None:
    """Says that there is a GPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    gpu = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda: [gpu])


def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the layer think that it is on a GPU, whose kernels run here."""
    pretend(monkeypatch)
    interpreted = functools.partial(FusedAttention, interpret=True)
    monkeypatch.setattr(attention_kernels, "FusedAttention", interpreted)
    monkeypatch.setattr(lax, "platform_dependent", lambda *args, cuda, default: cuda(*args))


def has_kernels(layer: fbp.Attention, *x: Any) -> bool:
    return "pallas_call" in str(jax.make_jaxpr(lambda *x: layer.forward((), x))(*x))


@pytest.mark.parametrize(
    "layer",
    [
        fbp.Attention(),
        fbp.Attention(causal=True, window=5, softcap=2.0),
        fbp.Attention(causal=True, scale=0.3),
    ],
    ids=["plain", "window", "scale"],
)
def test_a_gpu_has_them(layer: fbp.Attention, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(2, 3, 21, n, 8) for n in (6, 2, 2, 6)]
    q, k, v, dy = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))

    def run(q: Any, k: Any, v: Any, dy: Any) -> Any:
        y, res = layer.forward((), (q, k, v))
        _, dx = layer.backward((), (q, k, v), res, dy)
        return y, dx

    def autodiff(q: Any, k: Any, v: Any, dy: Any) -> Any:
        y, pull = jax.vjp(lambda *x: layer.forward((), x)[0], q, k, v)
        return y, pull(dy)

    def by_many_dys(q: Any, k: Any, v: Any, dy: Any) -> Any:
        y, res = layer.forward((), (q, k, v))
        _, dx = jax.vmap(lambda dy: layer.backward((), (q, k, v), res, dy))(jnp.stack([dy, 2 * dy]))
        return y, jax.tree.map(lambda a: a[1] - a[0], dx)

    want = jax.jit(run)(q, k, v, dy)
    on_a_gpu(monkeypatch)
    assert has_kernels(layer, q, k, v)
    for f in (jax.vmap(run), autodiff, by_many_dys):
        got = jax.jit(f)(q, k, v, dy)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), got, want)


def test_derivatives_are_those_of_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is kept, and of the backward too."""
    layer = fbp.Attention(causal=True)
    x = tuple(jax.random.normal(jax.random.key(i), (5, 2, 3)) for i in range(3))

    def derivatives(x: Any) -> Any:
        def through_the_backward(x: Any) -> Any:
            y, res = layer.forward((), x)
            return layer.backward((), x, res, y)[1]

        kept = jax.grad(lambda x: sum(a.sum() for a in layer.forward((), x)[1]))(x)
        return kept, jax.jvp(through_the_backward, (x,), (x,))[1]

    want = jax.jit(derivatives)(x)
    on_a_gpu(monkeypatch)
    got = jax.jit(lambda x: derivatives(x))(x)  # traced anew
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), got, want)


@pytest.mark.parametrize("factor", [1, 1.001])
def test_on_a_gpu_the_layer_is_checked_against_autodiff(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel has none: it is of what the kernel stands for."""

    class Scaled(fbp.Attention):
        def backward(self, params: Any, x: Any, res: Any, dy: Any) -> Any:
            return super().backward(params, x, res, factor * dy)

    pretend(monkeypatch)
    x = tuple(jax.random.normal(jax.random.key(i), (5, 2, 4)) for i in range(3))
    report = fbp.check(Scaled(causal=True), (), x, budget="fast")
    assert report.verdict == ("OK" if factor == 1 else "WRONG")
    assert "against float64 autodiff of the function without its rules" in str(report)


def test_a_program_for_another_platform_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = fbp.Attention(), (jnp.ones((9, 2, 8), jnp.bfloat16),) * 3
    want = layer.forward((), x)
    pretend(monkeypatch)

    def both(x: Any) -> Any:
        y, res = layer.forward((), x)
        return y, layer.backward((), x, res, y)

    for platform, kernels in (("cuda", 3), ("cpu", 0), ("rocm", 0)):
        text = lowered(both, platform, x)
        assert text.count("triton") >= kernels
        assert ("triton" in text) == bool(kernels)
    jax.tree.map(np.testing.assert_array_equal, layer.forward((), x), want)


def test_a_dy_of_more_digits_comes_in_those_of_v(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels multiply what is of one dtype."""
    pretend(monkeypatch)
    layer, x = fbp.Attention(causal=True), (jnp.ones((20, 2, 16), jnp.bfloat16),) * 3

    def backward(x: Any, dy: Any) -> Any:
        return layer.backward((), x, layer.forward((), x)[1], dy)

    program = jax.make_jaxpr(backward)(x, jnp.ones((20, 2, 16))).jaxpr
    kernels = [e for e in equations(program) if e.primitive.name == "pallas_call"]
    assert len(kernels) == 3
    heads = [v.aval for kernel in kernels for v in kernel.invars if v.aval.ndim == 3]
    assert {a.dtype for a in heads} == {jnp.dtype(jnp.bfloat16)}


def test_what_does_not_fit_them_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu(monkeypatch)

    def x(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jnp.zeros(shape, dtype)

    layer, few = fbp.Attention(), x(9, 2, 8)
    assert has_kernels(layer, few, few, x(9, 2, 128))
    assert not has_kernels(layer, few, few, x(9, 2, 129))
    assert not has_kernels(layer, x(9, 2, 129), x(9, 2, 129), few)
    other = x(9, 2, 8, dtype=jnp.bfloat16)
    assert not has_kernels(layer, few, few, other)
    assert not has_kernels(layer, few, other, few)
    y, res = layer.forward((), (few, other, few))
    backward = jax.make_jaxpr(lambda *x: layer.backward((), x, res, y))(few, other, few)
    assert "pallas_call" not in str(backward)
    assert not has_kernels(layer, other, few, few)
    assert not has_kernels(layer, x(0, 2, 8), few, few)
    assert not has_kernels(layer, few, few, few, jnp.ones(9, bool))
    packed = few, few, few, jnp.zeros(9, int)
    assert not has_kernels(layer, *packed)
    y, res = layer.forward((), packed)
    backward = jax.make_jaxpr(lambda *x: layer.backward((), x, res, y))(*packed)
    assert "pallas_call" not in str(backward)
    assert not has_kernels(layer, x(0, 2, 8), x(0, 2, 8), x(0, 2, 8))
    assert not has_kernels(fbp.Attention(fused=False), few, few, few)


@pytest.mark.parametrize(
    ("capability", "narrow", "wide"),
    [
        ("7.5", False, False),
        ("8.0", True, True),
        ("8.6", True, False),
        ("12.0", True, False),
        ("gfx942", False, False),  # on ROCm
    ],
)
def test_gpus_without_the_room_go_without(
    capability: str, narrow: bool, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, capability)
    for size, dtype, has in (
        (32, "float32", narrow),
        (33, "float32", wide),
        (64, "float16", narrow),
    ):
        x = jnp.zeros((9, 2, size), dtype)
        assert has_kernels(fbp.Attention(), x, x, x) == has


def test_a_mesh_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = jax.make_mesh((1,), ("i",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    spec = jax.sharding.PartitionSpec("i")
    pretend(monkeypatch)
    alone = jax.shard_map(
        lambda x: fbp.Attention().forward((), (x, x, x))[0],
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
    )
    assert "pallas_call" not in str(jax.make_jaxpr(alone)(jnp.ones((1, 9, 2, 8))))


def test_float64_and_several_devices_go_without(x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu(monkeypatch)
    x = jnp.zeros((9, 2, 8))
    assert not has_kernels(fbp.Attention(), x, x, x)
    x = x.astype(jnp.float32)
    assert has_kernels(fbp.Attention(), x, x, x)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert not has_kernels(fbp.Attention(), x, x, x)
