"""Programs for several devices, which `test_mesh.py` starts: each prints what it found as JSON."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import fbp

NUMBERS = np.random.default_rng(0)
BATCH, STEPS = 16, 20


def text(model: fbp.Layer, vocab: int, length: int) -> tuple[Any, Any]:
    ids = NUMBERS.integers(0, vocab, (BATCH, length + 1)).astype(np.int32)
    return fbp.models.NextToken(model), (ids[:, :-1], ids[:, 1:])


def mixture() -> fbp.Layer:
    from test_mixture import mixture as of

    return fbp.Serial(first=fbp.Dense(8, 16), mixed=of(16, 8, 2), last=fbp.Dense(16, 4))


def made(name: str) -> tuple[Any, Any]:
    """An objective, and a batch for it."""
    if name == "gpt2":
        model = fbp.models.gpt2(vocab=96, context=16, width=64, heads=8, layers=3)
        return text(model, 96, 16)
    if name == "llama":
        model = fbp.models.llama(vocab=96, width=64, heads=8, layers=3, hidden=128)
        return text(model, 96, 16)
    if name == "lstm":
        return text(fbp.models.char_lstm(vocab=32, width=16, layers=2), 32, 9)
    labels = NUMBERS.integers(0, 4, BATCH)
    if name == "convnet":
        model = fbp.models.convnet(3, 4, (8, 16), 1)
        x = NUMBERS.normal(size=(BATCH, 8, 8, 3)).astype(np.float32)
    elif name == "mixture":
        model, x = mixture(), NUMBERS.normal(size=(BATCH, 8)).astype(np.float32)
    else:
        model = fbp.models.mlp((8, 64, 32, 4))
        x = NUMBERS.normal(size=(BATCH, 8)).astype(np.float32)
    return fbp.Objective(model, fbp.SoftmaxCrossEntropy()), (x, labels)


def losses(step: Any, state: Any, batch: Any) -> tuple[list[float], Any]:
    found = []
    for _ in range(STEPS):
        state, value = step(state, batch)
        found.append(value)
    return [float(value) for value in found], state


def on_meshes(name: str, meshes: Sequence[str], in_backward: str = "") -> None:
    """For each mesh: losses beside those of one device, and what the compiled program does."""
    objective, batch = made(name)
    options = {"in_backward": bool(in_backward)}
    optimizer = optax.adamw(1e-3)
    alone = fbp.step_of(objective, optimizer, **options)
    first = fbp.state_of(jax.jit(objective.init)(jax.random.key(0)), optimizer)
    flops = fbp.mesh.work_of(alone.lower(first, batch).compile()).flops
    wanted, _ = losses(alone, first, batch)
    for axes in meshes:
        layout = fbp.mesh.Layout(objective, fbp.mesh.make_mesh(axes))
        step = fbp.step_of(objective, optimizer, mesh=layout, **options)
        state, placed = layout.state(optimizer, jax.random.key(0)), layout.put(batch)
        compiled = step.lower(state, placed).compile()
        work = fbp.mesh.work_of(compiled)
        got, state = losses(step, state, placed)
        where = jax.tree.map(lambda a, s: a.sharding == s, state, layout.shardings(state))
        whole = sum(a.nbytes for a in jax.tree.leaves(state))
        sent = [(one.kind, one.bytes, one.times) for one in work.sent]
        found = {
            "axes": axes,
            "off": float(np.max(np.abs(np.subtract(got, wanted)))),
            "fell": wanted[0] - wanted[-1],
            "flops": work.flops * layout.mesh.size / flops,
            "programs": step._cache_size(),
            "in place": all(jax.tree.leaves(where)),
            "bytes": layout.bytes_a_device(state) * layout.mesh.size / whole,
            "shard": sum(a.addressable_shards[0].data.nbytes for a in jax.tree.leaves(state))
            - layout.bytes_a_device(state),
            "sent": sent,
        }
        print(json.dumps(found))


def parts(axes: str, reduce_once: str = "") -> None:
    """What is sent for each number of parts of a `Microbatch`, and whether losses are the same."""
    objective, batch = made("mlp")
    optimizer = optax.adamw(1e-3)
    first = fbp.state_of(jax.jit(objective.init)(jax.random.key(0)), optimizer)
    wanted, _ = losses(fbp.step_of(objective, optimizer), first, batch)
    for size in (16, 8, 5):
        inside = fbp.Microbatch(objective, size)
        mesh = fbp.mesh.make_mesh(axes)
        layout = fbp.mesh.Layout(inside, mesh, reduce_once=bool(reduce_once))
        step = fbp.step_of(inside, optimizer, mesh=layout)
        state, placed = layout.state(optimizer, jax.random.key(0)), layout.put(batch)
        work = fbp.mesh.work_of(step.lower(state, placed).compile())
        got, _ = losses(step, state, placed)
        off = float(np.max(np.abs(np.subtract(got, wanted))))
        reduced = sum(one.times for one in work.sent if "reduce" in one.kind)
        print(json.dumps({"size": size, "off": off, "reduced": reduced}))


def head(axes: str) -> None:
    """The head alone, in 16 chunks: its work, and what it sends."""
    loss = fbp.UnembedCrossEntropy(32, 96, chunk=2)
    model = fbp.Serial(dense=fbp.Dense(32, 32))
    objective = fbp.Objective(model, loss)
    batch = (
        NUMBERS.normal(size=(BATCH, 16, 32)).astype(np.float32),
        NUMBERS.integers(0, 96, (BATCH, 16)),
    )
    optimizer = optax.sgd(0.1)
    first = fbp.state_of(objective.init(jax.random.key(0)), optimizer)
    alone = fbp.step_of(objective, optimizer)
    flops = fbp.mesh.work_of(alone.lower(first, batch).compile()).flops
    wanted, _ = losses(alone, first, batch)
    layout = fbp.mesh.Layout(objective, fbp.mesh.make_mesh(axes))
    step = fbp.step_of(objective, optimizer, mesh=layout)
    state, placed = layout.state(optimizer, jax.random.key(0)), layout.put(batch)
    work = fbp.mesh.work_of(step.lower(state, placed).compile())
    got, _ = losses(step, state, placed)
    found = {
        "off": float(np.max(np.abs(np.subtract(got, wanted)))),
        "flops": work.flops * layout.mesh.size / flops,
        "reduced": sum(one.times for one in work.sent if "reduce" in one.kind),
    }
    print(json.dumps(found))


def explicit() -> None:
    """A mesh of Explicit axes, and a user's own rules."""
    objective, batch = made("mlp")
    optimizer = optax.sgd(0.1)
    first = fbp.state_of(jax.jit(objective.init)(jax.random.key(0)), optimizer)
    wanted, _ = losses(fbp.step_of(objective, optimizer), first, batch)
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)

    def rules(path: str, shape: tuple[int, ...]) -> P:
        return P(None, "y") if len(shape) == 2 else P()

    layout = fbp.mesh.Layout(objective, mesh, rules=rules, batch=("x",))
    step = fbp.step_of(objective, optimizer, mesh=layout)
    got, state = losses(step, layout.state(optimizer, jax.random.key(0)), layout.put(batch))
    mine = jax.device_put(batch, NamedSharding(mesh, P("x")))
    first = fbp.state_of(jax.jit(objective.init)(jax.random.key(0)), optimizer)
    again, _ = losses(step, layout.move(first), mine)
    spec = state.params.model["dense_1"]["w"].sharding.spec
    print(
        json.dumps(
            {"off": float(np.max(np.abs(np.subtract([got, again], wanted)))), "spec": str(spec)}
        )
    )


class Doubled(fbp.Serial):
    """A chain with a forward of its own."""

    def forward(self, params: Any, x: Any, key: Any = None) -> Any:
        y, res = super().forward(params, x, key)
        return 2 * y, res

    def backward(self, params: Any, x: Any, res: Any, dy: Any) -> Any:
        return super().backward(params, x, res, 2 * dy)


def cases() -> dict[str, tuple[Any, Any, Any]]:
    """Objectives, the mesh or the layout, and a batch where it is not the usual one."""
    objective, (x, labels) = made("mlp")
    loss, model = fbp.SoftmaxCrossEntropy(), objective.model
    coupled = fbp.Serial(a=fbp.Dense(8, 16), b=fbp.BatchNorm(16), c=fbp.Dense(16, 4))
    coupled = fbp.Objective(coupled, loss)
    doubled = Doubled(a=fbp.Dense(8, 2 * 12), b=fbp.SwiGLU(), c=fbp.Dense(12, 4))
    # A layer in another field than that of the chain.
    object.__setattr__(doubled, "extra", fbp.Dense(1, 1))
    again = fbp.Repeat(fbp.Serial(fbp.Dense(16, 16), fbp.Tanh()), 5)

    def two_views(batch: Any, key: Any) -> Any:
        x, y = batch
        return jnp.concatenate([x, -x]), jnp.concatenate([y, y])

    def weighed(batch: Any, key: Any) -> Any:
        return batch["x"], fbp.Weighted(batch["y"], batch["c"][batch["y"]])

    def plain(params: Any, batch: Any) -> Any:
        return ((batch[0] @ params["w"]) ** 2).mean()

    table = {"x": x, "y": labels, "c": np.arange(4, dtype=np.float32)}
    ignoring = fbp.Objective(model, fbp.SoftmaxCrossEntropy(ignore=0))
    ones = fbp.objective_from_jax(plain, lambda key: {"w": jnp.ones((8, 3))})
    layout = fbp.mesh.Layout(objective, "data=2,fsdp=4")
    return {
        "another objective than the layout's": (ignoring, layout, None),
        "parts of the layout's objective": (fbp.Microbatch(objective, 8), layout, None),
        "statistics of a batch": (coupled, "data=2,fsdp=4", None),
        "statistics of parts": (fbp.Microbatch(coupled, 8), "data=8", None),
        "statistics of one part": (fbp.Microbatch(coupled, 16), "data=2,fsdp=4", None),
        "a chain of one's own": (fbp.Objective(doubled, loss), "fsdp=4,tensor=2", None),
        "two views": (fbp.Objective(model, loss, prepare=two_views), "fsdp=8", None),
        "a table": (fbp.Objective(model, loss, prepare=weighed), "data=2,fsdp=4", table),
        "repeated": (fbp.Objective(fbp.Serial(fbp.Dense(8, 16), again), loss), "fsdp=8", None),
        "of plain JAX": (ones, "data=2,fsdp=4", None),
    }


def odd() -> None:
    """Each case on its mesh beside one device."""
    _, usual = made("mlp")
    optimizer = optax.sgd(0.1)
    for name, (objective, mesh, given) in cases().items():
        batch = usual if given is None else given
        first = fbp.state_of(jax.jit(objective.init)(jax.random.key(0)), optimizer)
        wanted, _ = losses(fbp.step_of(objective, optimizer), first, batch)
        layout = mesh if isinstance(mesh, fbp.mesh.Layout) else fbp.mesh.Layout(objective, mesh)
        step = fbp.step_of(objective, optimizer, mesh=layout)
        state, placed = layout.state(optimizer, jax.random.key(0)), layout.put(batch)
        work = fbp.mesh.work_of(step.lower(state, placed).compile())
        got, _ = losses(step, state, placed)
        off = float(np.max(np.abs(np.subtract(got, wanted))))
        sums = [(one.kind, one.times) for one in work.sent if "reduce" in one.kind]
        print(json.dumps({"case": name, "off": off, "programs": step._cache_size(), "sums": sums}))
    objective, _ = made("mlp")
    layout = fbp.mesh.Layout(objective, "data=8")
    state = layout.state(optimizer, jax.random.key(0))
    try:
        few = jax.tree.map(lambda a: a[:12], usual)
        fbp.step_of(objective, optimizer, mesh=layout)(state, few)
    except ValueError as error:
        print(json.dumps({"case": "12 examples", "said": str(error)}))
    wanted = objective.value(jax.jit(objective.init)(jax.random.key(0)), usual)
    many = layout.put(jax.tree.map(lambda a: np.stack([a, a]), usual), steps=True)
    _, values = fbp.steps_of(objective, optimizer, mesh=layout)(state, many)
    print(json.dumps({"case": "steps", "off": float(abs(values[0] - wanted))}))


def noise(axes: str) -> None:
    """Dropout on a mesh is drawn as on one device, and other examples draw other noise."""
    model = fbp.Serial(drop=fbp.Dropout(0.5), dense=fbp.Dense(8, 4))
    objective = fbp.Objective(model, fbp.SoftmaxCrossEntropy())
    batch = (np.ones((BATCH, 8), np.float32), NUMBERS.integers(0, 4, BATCH))
    optimizer, key = optax.sgd(0.1), jax.random.key(3)
    first = fbp.state_of(objective.init(jax.random.key(0)), optimizer)
    _, wanted = fbp.step_of(objective, optimizer)(first, batch, key)
    layout = fbp.mesh.Layout(objective, fbp.mesh.make_mesh(axes))
    step = fbp.step_of(objective, optimizer, mesh=layout)
    _, got = step(layout.state(optimizer, jax.random.key(0)), layout.put(batch), key)
    print(json.dumps({"off": abs(float(got) - float(wanted))}))


def commands(folder: str) -> None:
    """Runs from the command line: on a mesh, on another, on one device; and by a script."""
    import contextlib
    import io
    import os

    from fbp.cli import main
    from fbp.train import Run

    os.chdir(folder)
    with open("t.txt", "w") as file:
        file.write("\n".join(f"the number {i} comes before {i + 1}." for i in range(300)))
    text = ["gpt", "--preset", "tiny", "--data", "t.txt", "--eval-every", "4", "--batch", "16"]
    tasks = {"gpt": text}
    said, offs = io.StringIO(), []
    with contextlib.redirect_stdout(said):
        for name, task in tasks.items():
            new = ["train", *task, "--no-check", "--steps", "12", "--name"]
            assert main([*new, f"{name}-one"]) == 0
            assert main([*new, f"{name}-mesh", "--mesh", "data=2,fsdp=4"]) == 0
            # Stopped half way, and gone on with elsewhere: with the schedule of all steps.
            few = [*new, f"{name}-moved", "--mesh", "fsdp=8", "--max-time", "1e-6"]
            assert main(few) == 0
            again = ["train", "--resume", f"runs/{name}-moved", "--max-time"]
            assert main([*again, "1e-6", "--mesh", "data=2,fsdp=4"]) == 0
            assert main([*again, "1e6", "--mesh", "data=1"]) == 0
            for other in ("mesh", "moved"):
                runs = [Run(Path(f"runs/{name}-{end}")) for end in ("one", other)]
                one, two = (run.metrics() for run in runs)
                off = max(abs(a["loss"] - b["loss"]) for a, b in zip(one, two, strict=True))
                offs.append({"task": name, "other": other, "off": off})
    objective, batch = made("mlp")
    draw = fbp.train.batches(*batch, 8, seed=0)
    ends = []
    for mesh in (None, fbp.mesh.make_mesh("data=4,fsdp=2")):
        result = fbp.train.fit(
            objective, optax.adam(1e-2), draw, steps=20, mesh=mesh, say=lambda line: None
        )
        ends.append(result.metrics["loss"])
    offs.append({"task": "fit", "other": "mesh", "off": abs(ends[0] - ends[1])})
    for off in offs:
        print(json.dumps(off))


if __name__ == "__main__":
    known: dict[str, Any] = {
        "commands": commands,
        "odd": odd,
        "parts": parts,
        "head": head,
        "explicit": explicit,
        "noise": noise,
    }
    what, *rest = sys.argv[1:]
    if what in known:
        known[what](*rest)
    else:
        given = rest[0] if rest[0] == "in_backward" else ""
        on_meshes(what, rest[bool(given) :], given)
    assert jax.device_count() == 8
