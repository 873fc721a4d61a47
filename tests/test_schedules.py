"""What a program is given is told by what it is for, and holds under every transformation."""

import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from cases import assert_close

import fbp
from fbp._platform import has_several_cpus
from fbp._schedules import attention, unembed

PROGRAMS = """
import json
import jax
import jax.numpy as jnp
import fbp

layer = fbp.Attention(causal=True)
loss = fbp.UnembedCrossEntropy(16, 1000)
model = fbp.models.NextToken(
    fbp.models.gpt2(vocab=1000, context=256, width=16, heads=4, layers=2)
)
array = jax.ShapeDtypeStruct
heads = (array((8, 256, 4, 4), jnp.float32),) * 3
ids = array((8, 256), jnp.int32)

def attend(x, dy):
    y, res = layer.forward((), x)
    return y, layer.backward((), x, res, dy)

programs = {
    "attention": (attend, heads, heads[0]),
    "head": (
        loss.value_and_grad, {"w": array((1000, 16), jnp.float32)},
        array((8, 256, 16), jnp.float32), ids,
    ),
    "value": (
        loss.value, {"w": array((1000, 16), jnp.float32)},
        array((8, 256, 16), jnp.float32), ids,
    ),
    "gpt": (model.value_and_grad, jax.eval_shape(model.init, jax.random.key(0)), (ids, ids)),
}
texts = {}
for name in NAMES:
    f, *args = programs[name]
    traced = jax.jit(f).trace(*args)
    for platform in PLATFORMS:
        lowered = traced.lower(lowering_platforms=(platform,))
        texts[f"{name} for {platform}"] = lowered.as_text()
print(json.dumps(texts))
"""


def programs(devices: int, names: list[str], platforms: list[str]) -> dict[str, str]:
    """Programs lowered by a process that has so many CPUs."""
    code = f"NAMES, PLATFORMS = {names}, {platforms}\n{PROGRAMS}"
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_programs_for_others_do_not_depend_on_the_cpus_that_are_here() -> None:
    names, platforms = ["attention", "head", "value", "gpt"], ["tpu", "cuda"]
    one, two = (programs(n, names, platforms) for n in (1, 2))
    assert [name for name in one if one[name] != two[name]] == []
    # No heads a few at a time; and the head, whose chunks are a loop, aligned on a GPU alone.
    for platform, rows in (("tpu", 1000), ("cuda", 1024)):
        assert "stablehlo.while" not in one[f"attention for {platform}"]
        for name in ("head", "value", "gpt"):
            assert f"tensor<1024x{rows}xf32>" in one[f"{name} for {platform}"]


@pytest.mark.parametrize(("devices", "loops"), [(1, 2), (2, 0)])
def test_heads_are_taken_a_few_at_a_time_by_one_cpu(devices: int, loops: int) -> None:
    texts = programs(devices, ["attention"], ["cpu", "tpu"])
    assert texts["attention for cpu"].count("stablehlo.while") == loops
    assert texts["attention for tpu"].count("stablehlo.while") == 0


@pytest.mark.parametrize(("cpus", "several"), [(0, False), (1, False), (2, True)])
def test_how_many_cpus(cpus: int, several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def count(backend: str) -> int:
        if backend != "cpu" or not cpus:
            raise RuntimeError(f"Unknown backend {backend}")
        return cpus

    monkeypatch.setattr(jax, "device_count", count)
    assert has_several_cpus() == several


def _attention() -> tuple[Any, Any]:
    layer = fbp.Attention(causal=True, softcap=2.0)

    def run(x: Any) -> Any:
        mask = jnp.broadcast_to(jnp.arange(x.shape[-3]) % 5 > 0, x.shape[:-2])
        y, res = layer.forward((), (x, x, x, mask))
        return y, layer.backward((), (x, x, x, mask), res, jnp.cos(y))[1][:3]

    return run, jax.random.normal(jax.random.key(0), (2, 9, 2, 3))


def _head() -> tuple[Any, Any]:
    loss = fbp.UnembedCrossEntropy(3, 7, chunk=5, z_loss=0.1, softcap=3.0)
    params = loss.init(jax.random.key(1))
    params = {"w": 30 * params["w"]}

    def run(x: Any) -> Any:
        x, labels = x.reshape(-1, 3), jnp.arange(x.size // 3) % 7
        return loss.value(params, x, labels), loss.value_and_grad(params, x, labels)

    return run, jax.random.normal(jax.random.key(0), (2, 9, 3))


def _export(f: Any) -> Any:
    def run(x: Any) -> Any:
        exported = jax.export.export(jax.jit(f), platforms=("cpu", "cuda", "tpu"))(x)
        return exported.call(x)

    return run


def _sharded(f: Any) -> Any:
    mesh = jax.make_mesh((1,), ("i",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    part = jax.sharding.PartitionSpec("i")

    def run(x: Any) -> Any:
        def inside(x: Any) -> Any:
            return jax.tree.map(lambda a: a[None], f(x[0]))

        # The carry of the head's loop is not marked as varying over the mesh.
        check = f.__qualname__.startswith("_attention")
        both = jax.shard_map(inside, mesh=mesh, in_specs=part, out_specs=part, check_vma=check)(
            x[None]
        )
        return jax.tree.map(lambda a: a[0], both)

    return run


TRANSFORMS: dict[str, Any] = {
    "jit": jax.jit,
    "vmap": lambda f: lambda x: jax.tree.map(lambda a: a[1], jax.vmap(f)(jnp.stack([0 * x, x]))),
    "scan": lambda f: (
        lambda x: jax.tree.map(
            lambda a: a[0], jax.lax.scan(lambda c, x: (c, f(x)), None, x[None])[1]
        )
    ),
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (jnp.sin(x),)),
    "grad": lambda f: jax.grad(lambda x: sum(jnp.sin(a).sum() for a in jax.tree.leaves(f(x)))),
    "shard_map": lambda f: jax.jit(_sharded(f)),
    "export": _export,
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in ("jvp", "grad"))) for n in TRANSFORMS],
)
@pytest.mark.parametrize("make", [_attention, _head], ids=["attention", "head"])
def test_every_schedule_holds_under_transformations(
    make: Any, name: str, monkeypatch: pytest.MonkeyPatch, x64: None
) -> None:
    run, x = make()
    x = x.astype(float)
    f = TRANSFORMS[name](run)
    want = jax.jit(f if name in ("jvp", "grad") else run)(x)
    monkeypatch.setattr(attention, "_FEWEST_SCORES", 1)
    monkeypatch.setattr(attention, "_MOST_SCORES", 81)
    monkeypatch.setattr(unembed, "_FEWEST_LOGITS", 0)
    jax.clear_caches()
    assert "platform_index" in str(jax.make_jaxpr(run)(x))
    assert_close(jax.jit(f)(x) if name != "export" else f(x), want, 1e-12)


@pytest.mark.slow
def test_fbp_check_finds_nothing_in_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_FEWEST_SCORES", 1)
    monkeypatch.setattr(attention, "_MOST_SCORES", 1)
    monkeypatch.setattr(unembed, "_FEWEST_LOGITS", 0)
    x = tuple(jax.random.normal(jax.random.key(i), (2, 5, 2, 4)) for i in range(3))
    layer = fbp.Attention(causal=True)
    program = jax.make_jaxpr(lambda *x: layer.forward((), x))(*x)
    assert "platform_index" in str(program)
    assert fbp.check(layer, (), x, budget="fast").ok
    loss = fbp.UnembedCrossEntropy(3, 7, chunk=5)
    params, y = loss.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (6, 3))
    assert fbp.check(loss, params, y, jnp.arange(6), budget="fast").ok


@pytest.mark.slow
def test_the_branch_for_others_computes_the_same(
    monkeypatch: pytest.MonkeyPatch, x64: None
) -> None:
    """Each is run here: that for GPUs of the head, and that for all but a CPU of attention."""
    for make in (_attention, _head):
        run, x = make()
        x = x.astype(float)
        want = jax.jit(run)(x)
        with monkeypatch.context() as patch:
            patch.setattr(attention, "_FEWEST_SCORES", 1)
            patch.setattr(attention, "_MOST_SCORES", 81)
            patch.setattr(unembed, "_FEWEST_LOGITS", 0)
            for branch in ("cpu", "cuda", "rocm", "default"):
                chosen: list[str] = []

                def choose(
                    *args: Any, default: Any, branch: str = branch, chosen: Any = chosen, **per: Any
                ) -> Any:
                    chosen.append(branch)
                    return per.get(branch, default)(*args)

                patch.setattr(jax.lax, "platform_dependent", choose)
                assert_close(jax.jit(lambda x, run=run: run(x))(x), want, 1e-12)
                assert len(chosen) == 2
