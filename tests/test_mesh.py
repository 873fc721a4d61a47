"""Several devices: losses are those of one, and compiled programs do and send what they should."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

import fbp
from fbp._errors import InputError
from fbp.cli import main
from fbp.mesh import Layout, default_rules, make_mesh, work_of
from fbp.mesh._planned import Chip, Planned, meshes_of
from fbp.mesh._program import Sent, Work
from fbp.mesh._tensor import _pair, with_columns_by_device

TESTS = Path(__file__).parent
SOME = ("data=8", "data=2,fsdp=4", "data=2,fsdp=2,tensor=2")
OTHERS = ("fsdp=8", "data=4,fsdp=2", "tensor=8", "fsdp=4,tensor=2")
MESHES = [SOME, pytest.param(OTHERS, marks=pytest.mark.exhaustive)]


def run(*args: str) -> list[dict[str, Any]]:
    """What a program of `mesh_programs` prints, on 8 devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    path = f"{TESTS.parent / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, str(TESTS / "mesh_programs.py"), *args],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def require_as_on_one(found: dict[str, Any]) -> None:
    assert found["off"] < 1e-5, found
    assert found["fell"] > 0.01, found
    assert found["programs"] == 1, found
    assert found["in place"], found
    assert found["shard"] == 0, found  # what lies on a device is what the table says


def test_a_network_on_eight_devices() -> None:
    for found in run("mlp", "data=2,fsdp=4"):
        require_as_on_one(found)
        assert found["flops"] <= 1.01


@pytest.mark.slow
@pytest.mark.parametrize("meshes", MESHES, ids=["some", "others"])
@pytest.mark.parametrize("name", ["mlp", "convnet", "lstm", "mixture"])
def test_networks_on_every_mesh(name: str, meshes: tuple[str, ...]) -> None:
    for found in run(name, *meshes):
        require_as_on_one(found)
        if "tensor" not in found["axes"]:
            assert found["flops"] <= 1.01, found


@pytest.mark.slow
@pytest.mark.parametrize("meshes", MESHES, ids=["some", "others"])
@pytest.mark.parametrize(
    ("name", "in_backward"),
    [
        ("gpt2", False),
        ("llama", True),
        pytest.param("gpt2", True, marks=pytest.mark.exhaustive),
        pytest.param("llama", False, marks=pytest.mark.exhaustive),
    ],
)
def test_transformers_on_every_mesh(name: str, in_backward: bool, meshes: tuple[str, ...]) -> None:
    options = ["in_backward"] * in_backward
    layers, weights = 3, 4  # of these each block has four that are cut
    for found in run(name, *options, *meshes):
        require_as_on_one(found)
        assert found["flops"] <= 1.01, found
        sent = [Sent(*one) for one in found["sent"]]
        block = 64 * 64 * 4 * (4 + 8 if name == "gpt2" else 4 + 6)  # its weights' bytes
        # One copy's weights are gathered, never a whole Stack's.
        gathers = [one for one in sent if one.kind == "all-gather" and one.times == layers]
        assert all(one.bytes < block for one in gathers)
        turned = [one for one in sent if one.kind in ("collective-permute", "all-to-all")]
        moved = sum(one.bytes * one.times for one in sent)
        assert sum(one.bytes * one.times for one in turned) < 0.01 * moved, found["axes"]
        if "tensor" in found["axes"]:
            continue
        assert len(gathers) == (2 * weights if "fsdp" in found["axes"] else 0), found["axes"]
        # Their gradients are added once a block: over one axis, or over one after the other.
        sums = [one for one in sent if "reduce" in one.kind and one.times == layers]
        assert 1 <= len(sums) <= found["axes"].count("=") + 1
        assert not [one for one in sent if one.times not in (1, layers)]


@pytest.mark.slow
def test_a_device_holds_its_part() -> None:
    for found in run("llama", "fsdp=8", "fsdp=4,tensor=2"):
        assert 1 <= found["bytes"] < 1.05  # the gains of norms are whole everywhere


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "sums"),
    [(("data=8",), {1}), (("data=2,fsdp=4", "once"), {1}), (("data=2,fsdp=4",), None)],
)
def test_gradients_of_parts_are_added_once(args: tuple[str, ...], sums: Any) -> None:
    found = run("parts", *args)
    for one in found:
        assert one["off"] < 1e-5, one
    if sums is not None:
        # A single part, of all examples, is the plain step.
        assert {one["reduced"] for one in found if one["size"] < 16} == sums


@pytest.mark.slow
@pytest.mark.parametrize("axes", ["data=8", "fsdp=8", "data=2,fsdp=4"])
def test_the_head_s_chunks_are_of_every_device(axes: str) -> None:
    (found,) = run("head", axes)
    assert found["off"] < 1e-5
    assert found["flops"] <= 1.01
    assert found["reduced"] <= 6  # and not once a chunk


@pytest.mark.slow
def test_rules_of_ones_own_on_explicit_axes() -> None:
    (found,) = run("explicit")
    assert found["off"] < 1e-5
    assert "'y'" in found["spec"]


@pytest.mark.slow
def test_noise_is_that_of_one_device() -> None:
    (found,) = run("noise", "data=2,fsdp=4")
    assert found["off"] < 1e-6


@pytest.mark.slow
def test_what_people_bring() -> None:
    found = run("odd")
    assert len(found) == 12
    for one in found:
        if "said" in one:
            assert "a batch whose size data = 8 divides, got 12 examples" in one["said"]
            continue
        assert one["off"] < 1e-5, one
        assert one.get("programs", 1) == 1, one
        if one["case"] == "two views":
            assert all(times == 1 for _, times in one["sums"])


@pytest.mark.slow
def test_runs_go_on_with_any_other_mesh(tmp_path: Path) -> None:
    found = run("commands", str(tmp_path))
    assert len(found) == 3
    for one in found:
        assert one["off"] < 1e-5, one


# Without devices.

MESH = AbstractMesh((2, 4, 2), ("data", "fsdp", "tensor"))


def mlp() -> fbp.Objective:
    return fbp.Objective(fbp.models.mlp((8, 64, 3)), fbp.MeanSquaredError())


def test_what_lies_where() -> None:
    model = fbp.models.llama(vocab=96, width=64, heads=4, layers=3, hidden=128)
    layout = Layout(fbp.models.NextToken(model), MESH)
    specs = layout.specs
    assert specs["embed.w"] == P("tensor", "fsdp")
    assert specs["blocks.attention.qkv.w"] == P(None, "fsdp", "tensor")
    assert specs["blocks.attention.out.w"] == P(None, "tensor", "fsdp")
    assert specs["blocks.feed_forward.norm.w"] == P()
    text = str(layout)
    assert "16 devices, data=2, fsdp=4, tensor=2; examples over data, fsdp" in text
    assert "1: fsdp, 2: tensor" in text
    params = layout.bytes_a_device(jax.eval_shape(layout.objective.init, jax.random.key(0)))
    assert f"{params / 1024:.1f} KiB a device" in text


def test_an_axis_that_nothing_lies_over_is_said() -> None:
    assert Layout(mlp(), MESH).said == ["nothing lies over tensor: its 2 devices do the same work"]
    assert Layout(mlp(), AbstractMesh((2, 4), ("data", "fsdp"))).said == []


def test_an_optimizer_s_state_lies_with_its_parameters() -> None:
    import optax

    layout = Layout(mlp(), MESH)
    for optimizer in (
        optax.adamw(1e-3),
        fbp.Clipped(optax.adam(1e-3), 1.0),
        fbp.Averaged(optax.sgd(0.1, momentum=0.9), 0.9),
    ):
        state = jax.eval_shape(
            lambda optimizer=optimizer: fbp.state_of(
                layout.objective.init(jax.random.key(0)), optimizer
            )
        )
        for keys, sharding in jax.tree_util.tree_leaves_with_path(layout.shardings(state)):
            path = jax.tree_util.keystr(keys, simple=True, separator=".")
            wanted = [spec for name, spec in layout.specs.items() if path.endswith(name)]
            assert sharding.spec == (wanted[0] if wanted else P()), path


def test_an_axis_that_does_not_divide_is_not_cut() -> None:
    rules = default_rules(MESH)
    assert rules("dense.w", (6, 8)) == P(None, "fsdp")
    assert rules("dense.w", (8, 64)) == P(None, "fsdp")
    assert rules("dense.w", (5, 7)) == P(None, None)
    assert rules("a.qkv.w", (8, 9)) == P("fsdp", None)
    assert rules("dense.b", (64,)) == P(None)
    assert rules("conv.w", (3, 3, 4, 16)) == P(None, None, None, "fsdp")


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ("data=4", "expected a mesh for 8 devices, got 'data=4', which is for 4"),
        ("data=3,fsdp=-1", "expected a mesh for 8 devices, got 'data=3,fsdp=-1', which is for 6"),
        ("data=-1,fsdp=-1", "at most one axis of -1"),
        ("data=8,data=1", "each axis of a mesh once, got data twice"),
        ("model=8", "among data, fsdp, tensor, got 'model'"),
        ("8", "expected a mesh as data=4,fsdp=2, got '8'"),
        ("data=0", "expected a mesh as data=4,fsdp=2"),
        ("data=-2", "expected a mesh as data=4,fsdp=2"),
        ("data=x", "expected a mesh as data=4,fsdp=2"),
        ("", "expected a mesh as data=4,fsdp=2"),
    ],
)
def test_meshes_that_cannot_be(axes: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        make_mesh(axes, devices=range(8))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (P("fsdp"), r"dense_2.w: expected an axis that fsdp = 4 divides, got 9"),
        (P(("data", "fsdp")), r"dense_2.w: expected an axis that data x fsdp = 8 divides, got 9"),
        (P("rows"), r"dense_2.w: expected axes of the mesh, data, fsdp, tensor, got 'rows'"),
        (P(None, None, "fsdp"), r"dense_2.w: expected a rule for 2 axes, got "),
    ],
)
def test_rules_that_do_not_fit(spec: P, words: str) -> None:
    objective = fbp.Objective(fbp.models.mlp((8, 9, 3)), fbp.MeanSquaredError())

    def rules(path: str, shape: tuple[int, ...]) -> P:
        return spec if path.endswith("dense_2.w") else P()

    with pytest.raises(InputError, match=words):
        Layout(objective, MESH, rules)
    with pytest.raises(InputError, match="the batch: expected axes of the mesh"):
        Layout(objective, MESH, batch=("examples",))
    with pytest.raises(InputError, match="each axis of the mesh once, got data twice"):
        Layout(objective, MESH, batch=("data", "data"))
    with pytest.raises(InputError, match="each axis of the mesh once, got fsdp twice"):
        Layout(objective, MESH, lambda path, shape: P("fsdp", "fsdp") if len(shape) == 2 else P())
    with pytest.raises(InputError, match=r"got 'dp': say which .* batch=\('dp',\)\)"):
        Layout(objective, AbstractMesh((8,), ("dp",)))
    assert Layout(objective, AbstractMesh((8,), ("dp",)), batch="dp").shards == 8


def test_a_batch_that_does_not_divide() -> None:
    layout = Layout(mlp(), MESH)
    with pytest.raises(InputError, match="data x fsdp = 8 divides, got 12 examples"):
        layout.put((np.ones((12, 8)), np.ones((12, 3))))


# Columns by device.


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (fbp.Dense(5, 12 * 3), fbp.SplitHeads(4)),
        (fbp.Dense(5, (6 + 2 * 2) * 3, bias=False), fbp.SplitHeads(6, 2)),
        (fbp.Dense(5, 2 * 6), fbp.SwiGLU()),
    ],
)
def test_columns_by_device_are_the_same_numbers(first: Any, then: Any, x64: None) -> None:
    mesh = jax.make_mesh((1,), ("tensor",), axis_types=(AxisType.Auto,))
    columns, groups = _pair(first, then, 2, mesh, "tensor")
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: rng.normal(size=a.shape), first.init(jax.random.key(0)))
    x = rng.normal(size=(2, 3, 5))
    models = fbp.Serial(a=first, b=then), fbp.Serial(a=columns, b=groups)
    y, res = models[0].forward({"a": params, "b": ()}, x)
    dy = jax.tree.map(lambda a: rng.normal(size=a.shape), y)
    wanted = y, models[0].backward({"a": params, "b": ()}, x, res, dy)
    y, res = models[1].forward({"a": params, "b": ()}, x)
    got = y, models[1].backward({"a": params, "b": ()}, x, res, dy)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), got, wanted)


def test_what_does_not_divide_keeps_its_columns() -> None:
    mesh = jax.make_mesh((1,), ("tensor",), axis_types=(AxisType.Auto,))
    for first, then in (
        (fbp.Dense(5, 12 * 3), fbp.SplitHeads(4)),
        (fbp.Dense(5, (6 + 2 * 2) * 3), fbp.SplitHeads(6, 2)),
        (fbp.Dense(5, 8), fbp.SwiGLU()),
        (fbp.Dense(5, 12), fbp.SplitHeads(3, packed=False)),
        (fbp.Embedding(5, 12), fbp.SplitHeads(3)),
    ):
        assert _pair(first, then, 3, mesh, "tensor") is None
    model = fbp.models.llama(vocab=8, width=16, heads=4, layers=2, hidden=32)
    assert with_columns_by_device(model, mesh, "tensor") is model


# Plans.


def command(*args: str) -> subprocess.CompletedProcess[str]:
    path = f"{TESTS.parent / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run(
        [sys.executable, "-m", "fbp", "plan", *args],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.mark.slow
def test_a_model_that_fits_nowhere_here_is_planned() -> None:
    done = command("llama-7b", "--mesh", "fsdp=16", "--chip", "v5e")
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("fsdp=16"))
    found = re.match(r"fsdp=16 +([\d.]+) GiB +([\d.]+) GiB +fits +([\d.]+) ", row)
    assert found is not None, row
    state, temporaries, flops = map(float, found.groups())
    # 6.74 billion parameters and two moments of 4 bytes. A product takes 6 FLOPs a parameter and
    # token, and most are computed again, which makes 8; attention's own come on top.
    assert state == pytest.approx(3 * 4 * 6.738e9 / 16 / 2**30, rel=0.02)
    assert 7 * 6.5e9 * 2048 / 1e12 < flops < 9 * 6.74e9 * 2048 / 1e12
    assert temporaries < 8
    assert "the fastest that fits: --mesh fsdp=16" in done.stdout
    small = command("llama-7b", "--mesh", "data=2", "--chip", "h100", "--context", "128")
    assert small.returncode == 1
    assert "needs" in small.stdout
    assert "none fits 74.5 GiB" in small.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("llama-7b",), "expected --mesh or --devices, got none"),
        (("llama-7b", "--mesh", "data=1", "--devices", "8"), "got both"),
        (("llama-8b", "--devices", "8"), "llama-8b: expected one of gpt2-124m"),
        (("llama-7b", "--devices", "8", "--chip", "h300"), "--chip h300: expected one of v5e"),
        (("llama-7b", "--devices", "0"), "expected --devices to be 1 or more"),
        (("llama-7b", "--devices", "4096"), "at most 1,024 devices to be simulated"),
    ],
)
def test_plans_that_cannot_be(args: tuple[str, ...], words: str, capsys: Any) -> None:
    assert main(["plan", *args]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_every_mesh_of_some_devices() -> None:
    assert list(meshes_of(1)) == ["data=1"]
    assert sorted(meshes_of(2)) == ["data=2", "fsdp=2", "tensor=2"]
    found = list(meshes_of(8))
    assert len(found) == len(set(found)) == 10
    for axes in found:
        assert make_mesh(axes, devices=8 * jax.devices()).size == 8


def test_the_time_of_a_plan() -> None:
    work = Work(int(2e12), (Sent("all-gather", 10**9, 3),))
    plan = Planned(Layout(mlp(), MESH), 1, 10, 20, work)
    chip = Chip(flops=1e12, memory=1.0, sends=1e9)
    assert plan.memory == 30
    assert plan.seconds(chip) == (2.0, 3.0)
    assert plan.share(chip) == 2 / 3


# What a program does, read from its text.


def test_loops_count_by_their_trips() -> None:
    def f(x: Any, w: Any) -> Any:
        return jax.lax.scan(lambda x, _: (x @ w, None), x, length=7)[0]

    import jax.numpy as jnp

    x, w = jnp.ones((3, 5)), jnp.ones((5, 5))
    work = work_of(jax.jit(f).lower(x, w).compile())
    assert work.flops == 7 * 2 * 3 * 5 * 5
    assert work.sent == ()
    assert work.moved() == 0


def test_a_convolution_counts() -> None:
    import jax.numpy as jnp

    layer = fbp.Conv2D(3, 4, 3)
    params = layer.init(jax.random.key(0))
    x = jnp.ones((2, 8, 8, 3))
    compiled = jax.jit(lambda p, x: layer.forward(p, x)[0]).lower(params, x).compile()
    assert work_of(compiled).flops in (2 * (2 * 8 * 8 * 4) * 27, 0)  # or a kernel of the platform
