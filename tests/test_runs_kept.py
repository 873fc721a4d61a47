"""Nothing that was computed is lost, and nothing false is said of it: the corners."""

import itertools
import json
import re
import resource
import shutil
import signal
import sys
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbp
from fbp._errors import InputError
from fbp.cli import main
from fbp.interop import FolderError
from fbp.train import Run, _run
from fbp.train._loop import fit as take_steps
from fbp.train._recipe import Recipe
from fbp.train._run import new_run
from fbp.train._trackers import Tracked
from fbp.train.checkpoints import SaveError, Saver, _saver, newest_whole
from fbp.train.checkpoints._logs import append

X = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
Y = np.sin(3 * X)
OBJECTIVE = fbp.Objective(fbp.models.mlp((1, 8, 1)), fbp.MeanSquaredError())
DRAW = fbp.train.batches(X, Y, batch=16, seed=0)


def fit(folder, *, optimizer=None, draw=DRAW, steps=20, **more):
    return fbp.train.fit(
        OBJECTIVE,
        optimizer or optax.adam(1e-2),
        draw,
        steps=steps,
        folder=folder,
        say=lambda line: None,
        **more,
    )


def raised(number=signal.SIGTERM):
    signal.raise_signal(number)
    time.sleep(0.2)


def test_a_signal_before_the_first_evaluation(tmp_path):
    """What is left can be gone on with, and is what training began with."""

    def params():
        raised()
        return OBJECTIVE.init(jax.random.key(0))

    stopped = fit(tmp_path / "it", params=params, resume=True)
    assert stopped.status == 143
    assert (stopped.step, stopped.last_step) == (0, 0)
    jax.tree.map(np.testing.assert_array_equal, stopped.params, OBJECTIVE.init(jax.random.key(0)))
    Run(tmp_path / "it").require_whole()
    assert fit(tmp_path / "it", resume=True).last_step == 20


def test_a_signal_while_the_weights_are_written(tmp_path, monkeypatch):
    """A sweep of several must not go on as if nothing had been."""
    real = Run.save_weights

    def slow(self, *params):
        raised(signal.SIGINT)
        real(self, *params)

    monkeypatch.setattr(Run, "save_weights", slow)
    result = fit(tmp_path / "it")
    assert result.status == 130
    assert newest_whole(tmp_path / "it" / "steps")[0].step == 20


def test_a_signal_in_the_last_evaluation(tmp_path):
    """The checkpoint is of before it: gone on with, the log has that evaluation once."""
    calls = itertools.count()

    def evaluate(params):
        if next(calls) == 2:
            raised()
        return {"loss": 1.0}

    more = {"evaluate": evaluate, "eval_every": 10}
    assert fit(tmp_path / "it", **more).status == 143
    result = fit(tmp_path / "it", resume=True, **more)
    assert (result.status, result.last_step) == (0, 20)
    assert [line["step"] for line in Run(tmp_path / "it").metrics()] == [0, 10, 20]
    Run(tmp_path / "it").require_whole()


def test_a_run_that_has_ended_is_that_run(tmp_path):
    fit(tmp_path / "it", config={"lr": 1})
    with pytest.raises(InputError, match="cannot go on: config is"):
        fit(tmp_path / "it", config={"lr": 2}, resume=True)
    assert fit(tmp_path / "it", config={"lr": 1}, resume=True).last_step == 20
    assert fit(tmp_path / "it", config={"lr": 1}, resume=True, steps=30).last_step == 30


def test_what_is_watched_is_there():
    with pytest.raises(InputError, match=r"^expected to watch one of loss, got val_los$"):
        fit(None, watch="val_los")


def test_a_save_that_failed_is_made_again(tmp_path, monkeypatch):
    saver, state = Saver(tmp_path), {"a": np.zeros(3)}
    real = _saver.write_checkpoint

    def failing(*args):
        raise SaveError("full")

    monkeypatch.setattr(_saver, "write_checkpoint", failing)
    saver.save(7, state, {}, 7)
    with pytest.raises(SaveError, match="full"):
        saver.finish()
    monkeypatch.setattr(_saver, "write_checkpoint", real)
    saver.save(7, state, {}, 7)
    saver.finish()
    assert newest_whole(tmp_path)[0].step == 7


def poisoned(start, stop):
    x, y = (np.array(a) for a in DRAW(start, stop))
    if start <= 15 < stop:
        x[15 - start] = np.nan
    return x, y


@pytest.mark.parametrize("every", [0.0, 1e9, np.inf])
def test_before_trouble_the_state_is_saved_and_on_the_disk(tmp_path, monkeypatch, every):
    real = _saver.write_checkpoint
    monkeypatch.setattr(_saver, "write_checkpoint", lambda *args: (time.sleep(0.3), real(*args)))
    result = fit(tmp_path / "it", draw=poisoned, save_every=every)
    assert "step 16: the loss is nan" in result.trouble
    assert not [t for t in threading.enumerate() if t.name.startswith("save ")]
    assert newest_whole(tmp_path / "it" / "steps")[0].step == 15


def test_a_log_gets_a_line_or_nothing(tmp_path):
    path = tmp_path / "log"
    path.write_text("first\n")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        with pytest.raises(SaveError, match="cannot be written"):
            append(path, "second\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "first\n"
    append(path, "second\n")
    assert path.read_text() == "first\nsecond\n"


def taken(objective, optimizer, draw, steps, scan=True):
    return take_steps(
        objective,
        objective.init(jax.random.key(0)),
        optimizer,
        draw,
        lambda params: {"loss": 0.0},
        steps=steps,
        eval_every=steps,
        log=lambda *_: None,
        scan=scan,
    )


@pytest.mark.parametrize("scan", [True, False])
def test_an_infinite_gradient_that_only_the_optimizer_remembers(scan):
    """Of lion the sign is taken: the parameters stay finite."""
    objective = fbp.objective_from_jax(
        lambda p, b: jnp.sqrt(jnp.maximum(p["w"], 0)).sum() + ((p["v"] - b.mean()) ** 2).sum(),
        lambda key: {"w": jnp.array([0.0, 1.0]), "v": jnp.ones(2)},
    )
    result = taken(objective, optax.lion(1e-2), lambda i, j: np.ones((j - i, 3)), 5, scan)
    assert result.trouble.startswith("step 1: the gradient is not finite")
    assert result.last_step == 0


@pytest.mark.parametrize("scan", [True, False])
def test_an_infinite_gradient_is_no_spike(scan):
    objective = fbp.objective_from_jax(lambda p, b: (p * b.mean()).sum(), lambda key: jnp.ones(2))

    def draw(start, stop):
        steps = np.arange(start, stop)[:, None]
        return np.where(steps == 30, np.inf, 1.0) * np.ones((1, 3))

    result = taken(objective, fbp.SpikesSkipped(optax.sgd(1e-2)), draw, 40, scan)
    assert result.last_step == 30


def test_an_average_of_what_is_trained_alone():
    """As with LoRA: what is masked has no average, and is as it is."""
    mask = {"a": True, "b": False}
    objective = fbp.objective_from_jax(
        lambda p, b: ((p["a"] + p["b"] - b.mean()) ** 2).sum(),
        lambda key: {"a": jnp.zeros(2), "b": jnp.ones(2)},
    )
    optimizer = optax.masked(Recipe(average=0.5).made(0.1, 10), mask)
    result = taken(objective, optimizer, lambda i, j: np.ones((j - i, 3)), 10)
    np.testing.assert_array_equal(result.params["b"], 1)
    assert np.isfinite(result.params["a"]).all()


@pytest.mark.slow
def test_an_average_and_clipping_go_into_the_backward():
    model = fbp.models.gpt2(vocab=16, context=8, layers=2, heads=2, width=8)
    objective = fbp.models.NextToken(model)
    ids = np.random.default_rng(0).integers(0, 16, (2, 9))
    batch = ids[:, :-1], ids[:, 1:]
    optimizer = Recipe(average=0.9, clip=1.0, weight_decay=0.0).made(1e-3, 10)
    states = []
    for in_backward in (True, False):
        state = fbp.state_of(objective.init(jax.random.key(0)), optimizer)
        states += [fbp.step_of(objective, optimizer, in_backward=in_backward)(state, batch)[0]]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        *(s.params for s in states),
    )


def test_two_that_begin_at_one_moment(tmp_path, monkeypatch):
    """The one that comes second takes the next name."""
    with new_run(tmp_path, None, "it") as first:
        real, calls = Run.create, []

        def as_abandoned(runs, name, task):
            calls.append(1)
            return first if len(calls) == 1 else real(runs, name, task)

        monkeypatch.setattr(Run, "create", as_abandoned)
        with new_run(tmp_path, None, "it") as second:
            assert second.folder.name == "it-2"
        calls.clear()
        with pytest.raises(InputError, match="another process"), new_run(tmp_path, "it", "it"):
            pass


@pytest.mark.slow
@pytest.mark.exhaustive
def test_other_held_out_rows_are_another_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("train", "val"):
        (tmp_path / f"{name}.bin").write_bytes(bytes([7, 0, 9, 0] * 200))
    args = ["train", "gpt", "--preset", "tiny", "--data", ".", "--no-check", "--name", "it"]
    assert main([*args, "--steps", "2", "--batch", "2"]) == 0
    (tmp_path / "val.bin").write_bytes(bytes([9, 0, 9, 0] * 200))
    assert main(["train", "--resume", "runs/it", "--steps", "4"]) == 2
    assert "cannot go on: the data is not what the run began with" in capsys.readouterr().err


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.slow
def test_other_data_is_another_run(saved, tmp_path, monkeypatch, capsys):
    """Also where a run was killed before its first checkpoint."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{i % 13},{'ab'[i % 2]},{i % 13 * 2.5}" for i in range(60)]
    data = tmp_path / "t.csv"
    data.write_text("\n".join(["x,k,y", *rows]))
    args = ["train", "--data", "t.csv", "--target", "y", "--no-check", "--steps", "4"]
    assert main([*args, "--name", "it"]) == 0
    run = tmp_path / "runs" / "it"
    if not saved:
        for path in run.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "config.json":
                path.unlink()
    before = (run / "config.json").read_bytes()
    for changed in (rows[:-1], ["1,c,2", *rows], ["1,a,9999", *rows[1:]]):
        data.write_text("\n".join(["x,k,y", *changed]))
        capsys.readouterr()
        assert main(["train", "--resume", "runs/it", "--steps", "6"]) == 2
        said = capsys.readouterr().err
        assert "cannot go on: the data is not what the run began with" in said
        assert (run / "config.json").read_bytes() == before
    data.write_text("\n".join(["x,k,y", *rows]))
    assert main(["train", "--resume", "runs/it", "--steps", "6"]) == 0


def test_more_patience_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = ["train", "curve", "--no-check", "--steps", "300", "--eval-every", "5", "--lr", "0.3"]
    assert main([*args, "--patience", "2"]) == 0
    said = capsys.readouterr().out
    assert "no better loss in 2 evaluations" in said
    reached = int(re.search(r"ended after step (\d+)", said)[1])
    assert main(["train", "--resume", "runs/curve"]) == 0
    assert f"ended after step {reached}" in capsys.readouterr().out
    assert main(["train", "--resume", "runs/curve", "--patience", "1000"]) == 0
    assert "after 300 steps" in capsys.readouterr().out


def test_another_model_is_another_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = (
        "import fbp, numpy as np\n"
        "def make():\n"
        "    x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]\n"
        "    model = fbp.models.mlp((1, 4, 1), fbp.ACTIVATION())\n"
        "    return model, fbp.MeanSquaredError(), (x, x)\n"
    )
    (tmp_path / "of_one.py").write_text(code.replace("ACTIVATION", "Relu"))
    assert main(["train", "of_one.py:make", "--steps", "4", "--no-check", "--name", "it"]) == 0
    (tmp_path / "of_one.py").write_text(code.replace("ACTIVATION", "Tanh"))
    sys.modules.pop("of_one", None)
    assert main(["train", "--resume", "runs/it", "--steps", "8"]) == 2
    assert "cannot go on: model is" in capsys.readouterr().err


def test_a_tuned_model_is_sealed_too(tmp_path):
    run = Run(tmp_path)
    run.save_config({"task": "gpt2"})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    run.seal()
    run.require_whole()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weightz")
    with pytest.raises(InputError, match=r"model/model\.safetensors: damaged"):
        run.require_whole()
    with pytest.raises(InputError, match=r"model/model\.safetensors: damaged"):
        fbp.train.load_language_model(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path):
    from safetensors.numpy import save_file

    from fbp.train import Pretrained

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    save_file({}, tmp_path / "model.safetensors")
    for read in (Pretrained.load, fbp.models.from_pretrained):
        with pytest.raises(FolderError):
            read(tmp_path)


def test_a_tracker_costs_no_run_and_knows_runs_apart(tmp_path, monkeypatch):
    began, said = [], []
    wandb = types.ModuleType("wandb")
    wandb.init = lambda **given: began.append(given)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for place in ("a", "b", "a"):
        folder = tmp_path / place / "it"
        folder.mkdir(parents=True, exist_ok=True)
        Tracked(Run(folder), "wandb", {}, said.append)
    ids = [given["id"] for given in began]
    assert ids[0] == ids[2] != ids[1]

    def fails(**given):
        raise RuntimeError("no network")

    wandb.init = fails
    tracked = Tracked(Run(tmp_path / "a" / "it"), "wandb", {}, said.append)
    assert said == ["no longer tracked: no network"]
    tracked.log(1, {"loss": 1.0})
    tracked.close()


def test_there_is_room_for_all_that_is_kept(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(_saver, "require_space", lambda folder, needed: asked.append(needed))
    state = fbp.state_of(OBJECTIVE.init(jax.random.key(0)), optax.adam(1e-2))
    Saver(tmp_path / "steps", keep=2).require_space(state)
    size = sum(a.nbytes for a in jax.tree.leaves((state, state.params)))
    assert asked[0] >= 3 * size


def test_the_names_of_a_run_are_on_the_disk(tmp_path, monkeypatch):
    synced = []
    for module in (_run, _saver):
        monkeypatch.setattr(module, "sync_folder", lambda folder: synced.append(folder.name))
    with new_run(tmp_path / "runs", None, "it") as run:
        Saver(run.steps).require_space(())
    assert {"runs", "it"} <= set(synced)


@pytest.mark.slow
def test_more_steps_of_a_short_text_run(tmp_path, monkeypatch, capsys):
    """Its warm-up, a tenth of the steps it began with, stays as it was."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("a text. " * 400)
    args = ["train", "gpt", "--preset", "tiny", "--data", "t.txt", "--no-check", "--batch", "2"]
    assert main([*args, "--steps", "10", "--name", "it"]) == 0
    assert main(["train", "--resume", "runs/it", "--steps", "30"]) == 0
    assert "going on from step 10 of 30" in capsys.readouterr().out
    assert Run(tmp_path / "runs" / "it").config()["recipe"]["warmup"] == 1
