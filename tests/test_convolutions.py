"""Conv1D, ConvTranspose2D and Upsample2D: what is particular to each."""

import functools
import importlib.util
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_close, cast, draw, rule
from cases_conv import make_cases

import fbp

CASES = {case.name: case for case in make_cases()}
# Against loops in another order of summation: at most 100 terms, each to some ulp of 2.2e-16.
ULPS = 1e-13
ones = jnp.ones


def sides_of(layer: Any, spans: list[int], sizes: list[int], strides: list[int]) -> Any:
    """The padding of each axis, as documented."""
    if layer.padding == "CAUSAL":
        return [(span - 1, 0) for span in spans]
    if layer.padding == "SAME":
        missing = [
            max(0, (-(-n // s) - 1) * s + span - n)
            for span, n, s in zip(spans, sizes, strides, strict=True)
        ]
        return [(m // 2, m - m // 2) for m in missing]
    if layer.padding == "VALID":
        return [(0, 0)] * len(spans)
    if isinstance(layer.padding, int):
        return [(layer.padding, layer.padding)] * len(spans)
    return [layer.padding] if len(spans) == 1 else layer.padding


def each(value: Any, axes: int) -> list[int]:
    return list(value) if isinstance(value, tuple) else [value] * axes


def dense(w: np.ndarray, groups: int) -> np.ndarray:
    """Weights (..., n_in, n_out) with zeros between the groups."""
    *k, a, n_out = w.shape
    b = n_out // groups
    full = np.zeros((*k, a * groups, n_out))
    for g in range(groups):
        full[..., g * a : (g + 1) * a, g * b : (g + 1) * b] = w[..., g * b : (g + 1) * b]
    return full


def triples(layer: Any, axes: int, small: tuple[int, ...], large: tuple[int, ...]) -> Any:
    """All (i, o, k) with i = s o + d k - p inside the large image."""
    kernel, stride, dilation = (each(v, axes) for v in (layer.kernel, layer.stride, layer.dilation))
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    sides = sides_of(layer, spans, list(large), stride)
    for o in itertools.product(*map(range, small)):
        for k in itertools.product(*map(range, kernel)):
            i = tuple(
                s * o_ + d * k_ - lo
                for s, o_, d, k_, (lo, _) in zip(stride, o, dilation, k, sides, strict=True)
            )
            if all(0 <= i_ < n for i_, n in zip(i, large, strict=True)):
                yield i, o, k


def by_loops(layer: Any, axes: int, params: Any, x: Any, dy: Any, up: bool) -> Any:
    """y, dparams and dx by the sums over the triples."""
    x, dy = (np.asarray(a).reshape(-1, *a.shape[-axes - 1 :]) for a in (x, dy))
    full = dense(np.asarray(params["w"]), layer.groups)
    y, dx, dw = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(full.shape)
    small, large = (x, dy) if up else (dy, x)
    for i, o, k in triples(layer, axes, small.shape[1:-1], large.shape[1:-1]):
        at_x, at_y = (o, i) if up else (i, o)
        for n in range(len(x)):
            y[(n, *at_y)] += x[(n, *at_x)] @ full[k]
            dx[(n, *at_x)] += full[k] @ dy[(n, *at_y)]
            dw[k] += np.outer(x[(n, *at_x)], dy[(n, *at_y)])
    dparams = {"w": dw}
    if layer.bias:
        y = y + np.asarray(params["b"])
        dparams["b"] = dy.reshape(-1, dy.shape[-1]).sum(0)
    # What lies between the groups is no parameter.
    groups = layer.groups
    a, b = full.shape[-2] // groups, full.shape[-1] // groups
    blocks = [dw[..., g * a : (g + 1) * a, g * b : (g + 1) * b] for g in range(groups)]
    dparams["w"] = np.concatenate(blocks, -1)
    return y, dparams, dx


CONVS = [
    name
    for name, case in CASES.items()
    if isinstance(case.layer, fbp.Conv1D | fbp.ConvTranspose2D | fbp.Conv2D)
]


@pytest.mark.parametrize("name", CONVS)
def test_convolutions_are_the_documented_sums(name: str, x64: None) -> None:
    layer: Any = CASES[name].layer
    params, x = draw(CASES[name], 0, jnp.float64)
    y, _ = jax.jit(layer.forward)(params, x)
    dy = jnp.asarray(np.random.default_rng(1).normal(size=y.shape))
    axes, up = len(layer.axes), isinstance(layer, fbp.ConvTranspose2D)
    want, dparams, dx = by_loops(layer, axes, params, x, dy, up)
    assert_close(y.reshape(want.shape), want, ULPS)
    got = jax.jit(functools.partial(rule, layer))(params, x, dy)
    assert_close(got[0], dparams, ULPS)
    assert_close(got[1].reshape(dx.shape), dx, ULPS)


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (fbp.ConvTranspose2D(3, 2, 3, 2), (10, 14)),
        (fbp.ConvTranspose2D(3, 2, 2, 3), (15, 21)),
        (fbp.ConvTranspose2D(3, 2, 3, 2, "VALID"), (11, 15)),
        (fbp.ConvTranspose2D(3, 2, 4, 2, 1), (10, 14)),
        (fbp.ConvTranspose2D(3, 2, 3, 2, ((1, 0), (1, 0))), (10, 14)),
        (fbp.ConvTranspose2D(3, 2, (3, 2), (2, 1), 1, (2, 3)), (11, 8)),
    ],
    ids=lambda a: type(a).__name__ if isinstance(a, fbp.Layer) else str(a),
)
def test_the_transposed_convolution_is_the_gradient_of_one(
    layer: fbp.ConvTranspose2D, size: tuple[int, int], x64: None
) -> None:
    """Of a Conv2D that makes an image of the size of x from one of the size of y."""
    rng = np.random.default_rng(2)
    w = jnp.asarray(rng.normal(size=layer.shapes()["w"]))
    x = jnp.asarray(rng.normal(size=(2, 5, 7, 3)))
    y, _ = layer.forward({"w": w, "b": jnp.zeros(2)}, x)
    assert y.shape == (2, *size, 2)
    conv = fbp.Conv2D(2, 3, layer.kernel, layer.stride, layer.padding, layer.dilation, bias=False)
    image = jnp.asarray(rng.normal(size=y.shape))
    its = {"w": w.swapaxes(-1, -2)}
    made, _ = conv.forward(its, image)
    assert made.shape == x.shape
    dconv, dimage = conv.backward(its, image, (), x)
    assert_close(y, dimage, ULPS)
    dparams, dx = rule(layer, {"w": w, "b": jnp.zeros(2)}, x, image)
    assert_close(dx, made, ULPS)
    assert_close(dparams["w"], dconv["w"].swapaxes(-1, -2), ULPS)


@pytest.mark.parametrize(
    ("layer", "x", "y"),
    [
        (fbp.ConvTranspose2D(2, 3, (2, 3), (3, 2)), (5, 7), (15, 14)),
        (fbp.ConvTranspose2D(2, 3, 1, (3, 2)), (5, 7), (15, 14)),
        (fbp.ConvTranspose2D(2, 3, (2, 3), (3, 2), "VALID"), (5, 7), (14, 15)),
        (fbp.ConvTranspose2D(2, 3, (2, 3), (3, 2), ((1, 0), (0, 2))), (5, 7), (13, 13)),
        (fbp.ConvTranspose2D(2, 3, 3, 1, 0, (2, 1)), (5, 7), (9, 9)),
        # Where little is left.
        (fbp.ConvTranspose2D(2, 3, 1, 1, 2), (5, 6), (1, 2)),
        (fbp.ConvTranspose2D(2, 3, 1, (1, 2), 2), (6, 3), (2, 1)),
        (fbp.ConvTranspose2D(2, 3, 1, 2, 2), (3, 5), (1, 5)),
        (fbp.ConvTranspose2D(2, 3, 1, 1, 2), (5, 4), None),
        (fbp.ConvTranspose2D(2, 3, 1, 1, 2), (4, 5), None),
        (fbp.ConvTranspose2D(2, 3, 5, 1), (5, 0), None),
        (fbp.ConvTranspose2D(2, 3, 5, 1, "VALID"), (0, 5), None),
    ],
    ids=lambda a: type(a).__name__ if isinstance(a, fbp.Layer) else str(a),
)
def test_the_sizes_of_a_transposed_convolution(
    layer: fbp.ConvTranspose2D, x: tuple[int, int], y: tuple[int, int] | None
) -> None:
    params = layer.init(jax.random.key(0))
    for batch in ((1,), (2, 9)):
        if y is None:
            with pytest.raises(ValueError, match=r"^ConvTranspose2D: expected x and padding "):
                layer.forward(params, ones((*batch, *x, 2)))
        else:
            got = jax.eval_shape(layer.forward, params, ones((*batch, *x, 2)))[0]
            assert got.shape == (*batch, *y, 3)


def test_upsampling_repeats_pixels_and_adds_up_their_gradients(x64: None) -> None:
    rng = np.random.default_rng(0)
    x, layer = rng.normal(size=(2, 3, 5, 2)), fbp.Upsample2D((2, 3))
    y, _ = layer.forward((), jnp.asarray(x))
    np.testing.assert_array_equal(y, x.repeat(2, 1).repeat(3, 2))
    dy = rng.normal(size=y.shape)
    _, dx = layer.backward((), jnp.asarray(x), (), jnp.asarray(dy))
    want = sum(dy[:, i::2, j::3] for i in range(2) for j in range(3))
    assert_close(dx, want, ULPS)


def test_upsampling_adds_up_in_float32() -> None:
    """In bfloat16 256 + 1 is 256."""
    dy = jnp.asarray([[256, 1], [1, 2]], jnp.bfloat16)[..., None]
    _, dx = fbp.Upsample2D().backward((), jnp.zeros((1, 1, 1), dy.dtype), (), dy)
    assert dx[0, 0, 0] == 260


# A causal stack, one place at a time.


def wavenet(padding: Any = "CAUSAL") -> fbp.Layer:
    conv = functools.partial(fbp.Conv1D, padding=padding)
    return fbp.Serial(
        conv(3, 4, 2),
        *(
            fbp.Residual(fbp.Serial(conv(4, 4, 2, dilation=d, groups=2), fbp.Tanh()))
            for d in (1, 2, 4)
        ),
        fbp.Conv1D(4, 3, 1, bias=False),
    )


@pytest.mark.parametrize("cuts", [[9], [4, 1, 4], [1] * 9, [2, 7]], ids=str)
def test_a_causal_stack_in_parts_is_the_forward_pass(cuts: list[int], x64: None) -> None:
    model = wavenet()
    params = cast(model.init(jax.random.key(0)), jnp.float64)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(9, 2, 3)))
    want, _ = model.forward(params, jnp.moveaxis(x, 0, 1))
    state, ys, at = model.start(params, jax.ShapeDtypeStruct((2, 3), x.dtype), 9), [], 0
    for part in cuts:
        if part == 1:
            y, state = model.step(params, x[at], state)
            ys.append(y[None])
        else:
            y, state = model.steps(params, x[at : at + part], state)
            ys.append(y)
        at += part
    assert_close(jnp.concatenate(ys), jnp.moveaxis(want, 1, 0), ULPS)


def test_no_place_of_a_causal_stack_sees_a_later_one() -> None:
    model = wavenet()
    params = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (9, 3))
    y, _ = model.forward(params, x)
    for t in range(9):
        later, _ = model.forward(params, x.at[t].set(7.0))
        np.testing.assert_array_equal(later[:t], y[:t])
        assert not np.array_equal(later[t], y[t])


@pytest.mark.parametrize(
    ("layer", "got"),
    [
        (fbp.Conv1D(3, 5), "padding='SAME' and stride=1"),
        (fbp.Conv1D(3, 5, padding="VALID"), "padding='VALID' and stride=1"),
        (fbp.Conv1D(3, 5, padding=(1, 1)), "padding=(1, 1) and stride=1"),
        (fbp.Conv1D(3, 5, stride=2, padding="CAUSAL"), "padding='CAUSAL' and stride=2"),
    ],
    ids=lambda a: type(a).__name__ if isinstance(a, fbp.Layer) else str(a),
)
def test_what_is_not_causal_is_not_taken_in_parts(layer: fbp.Conv1D, got: str) -> None:
    params = layer.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r'^Conv1D: expected padding="CAUSAL" and stride=1 ') as e:
        layer.start(params, ones((2, 3)), 9)
    assert str(e.value).endswith(f"to go one place at a time, got {got}")


def test_padding_that_is_causal_by_its_numbers_is_causal() -> None:
    layer = fbp.Conv1D(3, 5, 3, padding=(4, 0), dilation=2)
    assert layer.start({}, ones((2, 3)), 9).shape == (2, 4, 3)


# What is refused, and what is said.


@pytest.mark.parametrize(
    ("make", "x", "message"),
    [
        (
            lambda: fbp.Conv1D(3, 5),
            ones((2, 8, 4)),
            "Conv1D: expected last axis of x to be 3, got shape (2, 8, 4)",
        ),
        (
            lambda: fbp.Conv1D(3, 5),
            ones((3,)),
            "Conv1D: expected x to have axes (..., T, C), got shape (3,)",
        ),
        (
            lambda: fbp.Conv1D(3, 5, 4, padding="VALID", dilation=2),
            ones((2, 5, 3)),
            "Conv1D: expected a window of 7 to fit into x and its padding, got shape (2, 5, 3)",
        ),
        (
            lambda: fbp.Conv1D(3, 5, padding="causal"),
            None,
            "Conv1D: expected padding to be SAME, VALID, CAUSAL, 0 or more, or two such numbers, "
            "got 'causal'",
        ),
        (
            lambda: fbp.Conv1D(3, 5, padding=((1, 1), (2, 2))),  # type: ignore[arg-type]
            None,
            "Conv1D: expected padding to be SAME, VALID, CAUSAL, 0 or more, or two such numbers, "
            "got ((1, 1), (2, 2))",
        ),
        (
            lambda: fbp.Conv1D(3, 5, (3, 3)),  # type: ignore[arg-type]
            None,
            "Conv1D: expected size to be 1 or more, got (3, 3)",
        ),
        (
            lambda: fbp.Conv2D(3, 5, padding="CAUSAL"),
            None,
            "Conv2D: expected padding to be SAME, VALID, 0 or more, or two pairs of such numbers, "
            "got 'CAUSAL'",
        ),
        (
            lambda: fbp.Conv1D(3, 5, groups=2),
            None,
            "Conv1D: expected groups to divide n_in 3 and n_out 5, got 2",
        ),
        (
            lambda: fbp.ConvTranspose2D(3, 5),
            ones((8, 3)),
            "ConvTranspose2D: expected x to have axes (..., H, W, C), got shape (8, 3)",
        ),
        (
            lambda: fbp.ConvTranspose2D(3, 5),
            ones((0, 4, 3)),
            "ConvTranspose2D: expected x and padding SAME to leave pixels of y, "
            "got shape (0, 4, 3)",
        ),
        (
            lambda: fbp.ConvTranspose2D(3, 5, padding=3),
            ones((4, 4, 3)),
            "ConvTranspose2D: expected x and padding 3 to leave pixels of y, got shape (4, 4, 3)",
        ),
        (
            lambda: fbp.ConvTranspose2D(3, 5),
            ones((4, 4, 2)),
            "ConvTranspose2D: expected last axis of x to be 3, got shape (4, 4, 2)",
        ),
        (
            lambda: fbp.Upsample2D(),
            ones((4, 3)),
            "Upsample2D: expected x to have axes (..., H, W, C), got shape (4, 3)",
        ),
        (
            lambda: fbp.Upsample2D(0),
            None,
            "Upsample2D: expected factor to be 1 or more, or two such numbers, got 0",
        ),
        (
            lambda: fbp.Upsample2D(1.5),  # type: ignore[arg-type]
            None,
            "Upsample2D: expected factor to be 1 or more, or two such numbers, got 1.5",
        ),
    ],
)
def test_what_is_wrong_is_refused(make: Any, x: Any, message: str) -> None:
    def forward() -> None:
        layer = make()
        layer.forward(layer.init(jax.random.key(0)), x)

    with pytest.raises(ValueError, match="expected") as caught:
        forward()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "layer",
    [fbp.Conv1D(3, 5), fbp.ConvTranspose2D(3, 5), fbp.Upsample2D()],
    ids=lambda layer: type(layer).__name__,
)
def test_integers_are_refused(layer: fbp.Layer) -> None:
    name = type(layer).__name__
    with pytest.raises(TypeError, match=rf"^{name}: expected x to be a float array, got int32$"):
        layer.forward(layer.init(jax.random.key(0)), ones((4, 4, 3), jnp.int32))


# Beside PyTorch, in float64.

needs_torch = [
    pytest.mark.torch,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
]
BESIDE: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
    "conv1d": (
        fbp.Conv1D(4, 6, 3, 2, 2, 2, groups=2),
        lambda nn: nn.Conv1d(4, 6, 3, 2, 2, 2, groups=2),
        (2, 9, 4),
    ),
    "conv_transpose": (
        fbp.ConvTranspose2D(4, 6, (3, 2), (2, 3), 1, 2, groups=2),
        lambda nn: nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), 1, 0, groups=2, dilation=2),
        (2, 5, 4, 4),
    ),
    "conv_transpose/output_padding": (
        fbp.ConvTranspose2D(3, 2, 3, 2, ((1, 0), (1, 0))),
        lambda nn: nn.ConvTranspose2d(3, 2, 3, 2, 1, 1),
        (2, 3, 5, 3),
    ),
    "upsample": (fbp.Upsample2D(2), lambda nn: nn.Upsample(scale_factor=2), (2, 3, 5, 3)),
}


def theirs_of(w: np.ndarray, groups: int, up: bool) -> np.ndarray:
    """As in PyTorch: (n_out, n_in / groups, *k); transposed (n_in, n_out / groups, *k)."""
    if up:
        *k, a, n_out = w.shape
        w = w.reshape(*k, a, groups, n_out // groups).swapaxes(-2, -3)
        return np.moveaxis(w.reshape(*k, groups * a, n_out // groups), (-2, -1), (0, 1)).copy()
    return np.moveaxis(w, (-1, -2), (0, 1)).copy()


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_torch) for name in BESIDE])
def test_beside_torch(name: str, x64: None) -> None:
    import torch

    layer, make, shape = BESIDE[name]
    rng, module = np.random.default_rng(0), make(torch.nn).double()
    params: Any = jax.tree.map(lambda a: rng.normal(size=a.shape), layer.init(jax.random.key(0)))
    up = isinstance(layer, fbp.ConvTranspose2D)
    if params:
        weight = theirs_of(params["w"], layer.groups, up)
        module.weight.data, module.bias.data = torch.tensor(weight), torch.tensor(params["b"])
    x = rng.normal(size=shape)
    x_t = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
    y_t = module(x_t)
    y, _ = layer.forward(params, jnp.asarray(x))
    assert_close(y, np.moveaxis(y_t.detach().numpy(), 1, -1), ULPS)
    dy = rng.normal(size=y.shape)
    y_t.backward(torch.tensor(np.moveaxis(dy, -1, 1).copy()))
    dparams, dx = rule(layer, params, jnp.asarray(x), jnp.asarray(dy))
    assert_close(dx, np.moveaxis(x_t.grad.numpy(), 1, -1), ULPS)
    if params:
        assert_close(
            theirs_of(np.asarray(dparams["w"]), layer.groups, up), module.weight.grad.numpy(), ULPS
        )
        assert_close(dparams["b"], module.bias.grad.numpy(), ULPS)
