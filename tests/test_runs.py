"""Runs from the command line: stopped, killed, gone on with, damaged; each in real processes."""

import contextlib
import errno
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import fbp
from fbp.cli import main
from fbp.train._steps import Steps
from fbp.train.checkpoints import newest_whole

# Where these tests run in the background, SIGINT is ignored, and those who start there ignore it.
CODE = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from fbp.cli import main; sys.exit(main(sys.argv[1:]))"
)
TEXT = "\n".join(f"the number {i} comes before {i + 1}." for i in range(400))
# Five kinds of runs: each some seconds long, with a checkpoint at every chance.
OFTEN = ("--save-every", "0.05", "--no-check")
KINDS = {
    "table": ["digits", "--steps", "3000", "--eval-every", "100"],
    "convnet": ["convnet", "--steps", "120", "--eval-every", "20"],
    "gpt": ["gpt", "--preset", "tiny", "--steps", "75", "--eval-every", "15", "--data", "t.txt"],
    "packed": [
        *("gpt", "--preset", "tiny", "--steps", "75", "--eval-every", "15"),
        *("--data", "d.jsonl", "--pack"),
    ],
    "lora": [
        *("gpt2", "--weights", "gpt2", "--lora", "2", "--data", "t.txt", "--context", "16"),
        *("--steps", "400", "--batch", "4", "--eval-every", "50"),
    ],
}


def started(folder, *args, stdout=subprocess.PIPE):
    return subprocess.Popen(
        [sys.executable, "-c", CODE, "train", *map(str, args)],
        cwd=folder,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(folder, *args):
    with started(folder, *args) as process:
        said = process.communicate()[0]
    assert process.returncode == 0, said
    return said


def seconds_of(pid):
    """The processor's time a process has had, or none where the system does not say."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def seconds_of_ended():
    """The processor's time of all processes that were started here and have ended."""
    times = os.times()
    return times.children_user + times.children_system


def prepared(folder):
    """A text, and the same in documents."""
    folder.mkdir(exist_ok=True)
    (folder / "t.txt").write_text(TEXT)
    documents = [
        json.dumps({"text": line[: 9 + i % 20]}) for i, line in enumerate(TEXT.split("\n"))
    ]
    (folder / "d.jsonl").write_text("\n".join(documents))
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("made") / "gpt2"
    model = fbp.models.gpt2(vocab=257, context=32, width=16, heads=2, layers=2)
    fbp.models.save_pretrained(folder, model, jax.jit(model.init)(jax.random.key(0)))
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, [])
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def of_kind(kind, folder, request):
    prepared(folder)
    if kind == "lora":
        shutil.copytree(request.getfixturevalue("gpt2"), folder / "gpt2")
    return [*KINDS[kind], *OFTEN, "--name", "it"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, request):
    """Of a kind, the folder of a run that nothing stops, and the seconds that it takes."""

    @functools.cache
    def run(kind):
        folder = tmp_path_factory.mktemp(kind) / "a"
        args = of_kind(kind, folder, request)
        began = time.monotonic()
        finished(folder, *args)
        return folder / "runs" / "it", time.monotonic() - began

    return run


def logged(run):
    """The lines of the log, without what a clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


def assert_same(run, other):
    assert logged(run) == logged(other)
    ours, theirs = newest_whole(run / "steps")[0], newest_whole(other / "steps")[0]
    assert ours.step == theirs.step
    for key in ("watch", "evaluated", "best_metrics"):
        assert ours.content[key] == theirs.content[key]
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name, array in ours.arrays.items():
        assert array.tobytes() == theirs.arrays[name].tobytes(), name


def killed_and_resumed(folder, args, seconds, rng):
    """Kills a run, and what goes on with it, at random moments, at most three times; the last goes
    on to its end. Returns how often a whole checkpoint was gone on from."""
    run, from_checkpoint = folder / "runs" / "it", 0
    for _ in range(rng.randint(1, 3)):
        resume = ["--resume", "runs/it"] if (run / "config.json").exists() else args
        process = started(folder, *resume, *(OFTEN[:2] if resume is not args else ()))
        try:
            process.communicate(timeout=rng.uniform(0.5, seconds))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    found, damaged = newest_whole(run / "steps")
    assert not damaged
    from_checkpoint += found is not None
    if not (run / "config.json").exists():
        finished(folder, *args)
    elif not (run / "manifest.json").exists():
        said = finished(folder, "--resume", "runs/it", *OFTEN[:2])
        assert ("going on from step" in said) == (found is not None)
    return from_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [k if k == "table" else pytest.param(k, marks=pytest.mark.exhaustive) for k in KINDS],
)
def test_a_run_that_is_killed_goes_on_bit_for_bit(kind, whole, tmp_path, request):
    run, seconds = whole(kind)
    args = of_kind(kind, tmp_path, request)
    killed_and_resumed(tmp_path, args, seconds, random.Random(kind))
    assert_same(run, tmp_path / "runs" / "it")


def killed_in_training(folder, args, rng, most):
    """Starts a run, waits until it has a new checkpoint, and kills it at a random moment after."""
    steps = folder / "runs" / "it" / "steps"
    before = {path.name for path in steps.glob("[0-9]*")}
    said = folder / "said.txt"  # a pipe that nobody reads would hold it up
    with said.open("w") as out:
        process = started(folder, *args, stdout=out)
        while {path.name for path in steps.glob("[0-9]*")} <= before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, most))
        process.send_signal(signal.SIGKILL)
        process.wait()
    return said.read_text()


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
def test_many_kills(kind, tmp_path, request):
    """One long run, killed while it trains and saves and gone on with, again and again."""
    args = of_kind(kind, tmp_path, request)
    args[args.index("--steps") + 1] = "1000000"
    args[args.index("--eval-every") + 1] = "50"
    run, rng, reached = tmp_path / "runs" / "it", random.Random(kind), -1
    for trial in range(int(os.environ.get("FBP_KILLS", "50"))):
        said = killed_in_training(tmp_path, args, rng, 0.5)
        if trial:
            assert f"going on from step {reached:,} of 1,000,000" in said
        found, damaged = newest_whole(run / "steps")
        assert not damaged
        assert found.step > reached
        reached = found.step
        args = ["--resume", "runs/it"]
        print(f"{kind} {trial}: killed, step {reached} is whole")
    lines = logged(run)
    assert [line["step"] for line in lines] == list(range(0, 50 * len(lines), 50))


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("trial", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_killed_in_training_and_compared_to_the_end(kind, trial, whole, tmp_path, request):
    uninterrupted, _ = whole(kind)
    args = of_kind(kind, tmp_path, request)
    killed_in_training(tmp_path, args, random.Random(f"{kind}{trial}"), 1.0)
    if not (tmp_path / "runs/it/manifest.json").exists():
        assert "going on from step" in finished(tmp_path, "--resume", "runs/it")
    assert_same(uninterrupted, tmp_path / "runs/it")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "parts"),
    [
        (signal.SIGTERM, (0.4,)),
        pytest.param(signal.SIGINT, (0.8,), marks=pytest.mark.exhaustive),
        *(
            pytest.param(s, tuple(np.linspace(0.1, 0.95, 18)), marks=pytest.mark.exhaustive)
            for s in (signal.SIGTERM, signal.SIGINT)
        ),
    ],
)
def test_a_signal_at_any_moment_ends_it_soon_and_loses_nothing(
    signum, parts, whole, tmp_path, request
):
    uninterrupted, seconds = whole("gpt")
    folder = tmp_path / "b"
    for part in parts:
        shutil.rmtree(folder, ignore_errors=True)
        args = of_kind("gpt", folder, request)
        run = folder / "runs" / "it"
        with started(folder, *args) as process:
            time.sleep(part * seconds)
            spent = seconds_of_ended() + seconds_of(process.pid)
            process.send_signal(signum)
            began = time.monotonic()
            said = process.communicate(timeout=60)[0]
            took = time.monotonic() - began
        # Where other work has the cores, a clock tells of them, and the processor's time of us.
        took = min(took, seconds_of_ended() - spent)
        if process.returncode == 0:
            continue  # it had ended
        if process.returncode == -signum:
            assert not run.exists()  # it was not yet fbp's
            continue
        assert process.returncode == 128 + signum, said
        assert took < 2, (part, said)
        assert said.splitlines()[-1]
        assert "Traceback" not in said
        if run.exists():
            assert newest_whole(run / "steps")[0] is not None
            finished(folder, "--resume", "runs/it")
            assert_same(uninterrupted, run)


# In this process.


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failure(capsys, *args):
    capsys.readouterr()
    assert main([*map(str, args)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fbp: ")
    assert said.count("\n") == 1
    return said


MINE = """
import fbp, numpy as np
X = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
def make():
    return fbp.models.mlp((1, 4, 1)), fbp.MeanSquaredError(), (X, X**2)
"""
CURVE = ("train", "curve", "--no-check", "--save-every", "0.01")


def test_more_steps_and_what_may_not_change(here, capsys):
    assert main([*CURVE, "--steps", "50", "--seed", "4"]) == 0
    assert "has taken all its 50 steps" in failure(capsys, "train", "--resume", "runs/curve")
    for given in (["--lr", 0.1], ["--seed", 5], ["--batch", 2], ["gpt"], ["--name", "x"]):
        said = failure(capsys, "train", *given, "--resume", "runs/curve", "--steps", 60)
        assert "cannot be given where a run goes on" in said
    assert main(["train", "--resume", "runs/curve", "--steps", "70", "--eval-every", "10"]) == 0
    said = capsys.readouterr().out
    assert "going on from step 50 of 70" in said
    assert "steps: 70 now, 50 before" in said
    config = json.loads((here / "runs/curve/config.json").read_text())
    assert (config["steps"], config["seed"]) == (70, 4)
    assert logged(here / "runs/curve")[-1]["step"] == 70


@pytest.mark.parametrize(
    "kind", ["curve", pytest.param("gpt", marks=pytest.mark.slow), "mine_ended.py:make"]
)
def test_a_run_stopped_after_its_last_step_can_go_on(kind, here, capsys, monkeypatch):
    """It has still its last answers to measure, and its scores and its picture to make."""
    (here / "mine_ended.py").write_text(MINE)
    prepared(here)
    args = [kind, "--no-check", "--steps", "8", "--eval-every", "4"]
    args += ["--preset", "tiny", "--data", "t.txt"] if kind == "gpt" else []
    assert main(["train", *args, "--name", "whole"]) == 0
    start = Steps.start

    def stopped(self, state, step, batches):
        if step == 7 or step + len(jax.tree.leaves(batches)[0]) == 8:
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.1)  # until the thread that listens has heard it
        return start(self, state, step, batches)

    monkeypatch.setattr(Steps, "start", stopped)
    assert main(["train", *args, "--name", "it"]) == 130
    assert "stopped by Ctrl-C after step 8" in capsys.readouterr().out
    assert logged(here / "runs/it")[-1]["step"] == 4
    assert main(["train", "--resume", "runs/it"]) == 0
    assert_same(here / "runs/it", here / "runs/whole")
    files = [sorted(p.name for p in (here / "runs" / name).iterdir()) for name in ("it", "whole")]
    assert files[0] == files[1]
    assert "has taken all its 8 steps" in failure(capsys, "train", "--resume", "runs/it")


def test_evaluations_by_the_clock(here, capsys):
    args = ["train", "curve", "--no-check", "--steps", "2000", "--eval-seconds"]
    assert "expected --eval-seconds to be above 0" in failure(capsys, *args, 0)
    assert "got both" in failure(capsys, *args, 1, "--eval-every", 10)
    assert main([*args, "1e-9"]) == 0
    steps = [line["step"] for line in logged(here / "runs/curve")]
    assert len(steps) > 3
    assert steps[-1] == 2000
    # The other one may be given anew, and is then what holds.
    again = ["train", "--resume", "runs/curve", "--steps", "2100", "--eval-every", "50"]
    assert main(again) == 0
    assert [line["step"] for line in logged(here / "runs/curve")][-3:] == [2000, 2050, 2100]


@pytest.mark.parametrize(
    ("key", "value"), [("lr", 0.5), ("batch", 3), ("model", {"kind": "neuron"}), ("data", "0")]
)
def test_a_changed_config_is_refused(key, value, here, capsys):
    assert main([*CURVE, "--steps", "20"]) == 0
    path = here / "runs/curve/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    said = failure(capsys, "train", "--resume", "runs/curve", "--steps", 30)
    assert f"config.json: damaged, or changed: {key} is not what" in said


@pytest.mark.slow
def test_other_data_is_refused(here, capsys):
    rows = "\n".join(f"{i},{i % 7}" for i in range(50))
    (here / "t.csv").write_text(f"a,y\n{rows}\n")
    args = ["train", "--data", "t.csv", "--target", "y", "--steps", "9", "--no-check"]
    assert main(args) == 0
    (here / "t.csv").write_text(f"a,y\n{rows.replace('7', '8')}\n")
    said = failure(capsys, "train", "--resume", "runs/t", "--steps", 12)
    assert "cannot go on: " in said


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(here, capsys):
    assert main([*CURVE, "--steps", "40", "--keep", "3"]) == 0
    steps = here / "runs/curve/steps"
    newest = max(steps.iterdir())
    data = bytearray((newest / "state.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (newest / "state.safetensors").write_bytes(data)
    capsys.readouterr()
    assert main(["train", "--resume", "runs/curve", "--steps", "50"]) == 0
    said = capsys.readouterr().out
    assert f"DAMAGED, not used: runs/curve/steps/{newest.name}/state.safetensors" in said
    assert "GOING ON FROM THE ONE BEFORE: step 0" in said
    for path in steps.glob("*/state.safetensors"):
        path.unlink()
    said = failure(capsys, "train", "--resume", "runs/curve", "--steps", 60)
    assert "expected a checkpoint that is whole, got only damaged ones" in said


@pytest.mark.slow
@pytest.mark.parametrize("many", [20, pytest.param(200, marks=pytest.mark.exhaustive)])
def test_a_flipped_bit_in_any_file_is_named(many, here, capsys):
    """Of a run that has ended: by predict, or by going on with it."""
    (here / "x.csv").write_text("x\n1\n")
    assert main([*CURVE, "--steps", "20"]) == 0
    run = here / "runs/curve"
    newest = max((run / "steps").iterdir())
    files = [
        *(run / name for name in ("config.json", "manifest.json", "metrics.jsonl")),
        *(run / "weights.safetensors", *newest.iterdir()),
    ]
    rng = np.random.default_rng(0)
    for i in range(many):
        path = files[i % len(files)]
        whole = path.read_bytes()
        data = bytearray(whole)
        bit = int(rng.integers(8 * len(data)))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        if path.parent == run:
            said = failure(capsys, "predict", "runs/curve", "--data", "x.csv", "--out", "o.csv")
        else:
            capsys.readouterr()
            shutil.copytree(run, here / "kept", dirs_exist_ok=True)
            assert main(["train", "--resume", "runs/curve", "--steps", "21"]) == 0
            said = capsys.readouterr().out
            shutil.rmtree(run)
            (here / "kept").rename(run)
        assert path.name in said
        assert "damaged" in said.lower()
        path.write_bytes(whole)
    assert main(["predict", "runs/curve", "--data", "x.csv", "--out", "o.csv"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["metrics.jsonl", pytest.param("samples.txt", marks=pytest.mark.exhaustive)]
)
def test_a_damaged_log_is_named_where_a_run_goes_on(name, here, capsys):
    (here / "t.txt").write_text(TEXT)
    args = ["gpt", "--preset", "tiny", "--steps", "4", "--data", "t.txt", "--no-check"]
    assert main(["train", *args]) == 0
    path = here / "runs/gpt" / name
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    said = failure(capsys, "train", "--resume", "runs/gpt", "--steps", 6)
    assert f"{name}: damaged: its SHA-256 is not that of the checkpoint" in said
    path.unlink()
    assert main(["train", "--resume", "runs/gpt", "--steps", "6"]) == 0
    assert f"{name}: expected a file, got none" in capsys.readouterr().out


def test_a_run_killed_before_it_wrote_anything_does_not_take_the_name(here, capsys):
    (here / "runs/curve").mkdir(parents=True)
    (here / "runs/curve/config.json.partial").write_text("{")
    with fbp.train.Run(Path("runs/curve")).locked():  # not killed, but about to begin
        assert main([*CURVE, "--steps", "2"]) == 0
    assert (here / "runs/curve-2/weights.safetensors").exists()
    assert main([*CURVE, "--steps", "2"]) == 0
    assert (here / "runs/curve/weights.safetensors").exists()
    (here / "runs/other").mkdir()
    (here / "runs/other/mine.txt").write_text("kept")
    assert "is there already" in failure(capsys, *CURVE, "--steps", "2", "--name", "other")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["table", pytest.param("lora", marks=pytest.mark.exhaustive)])
def test_a_run_killed_after_its_last_step_still_writes_its_weights(kind, here, capsys, request):
    args = of_kind(kind, here, request)
    args[args.index("--steps") + 1] = "4"
    assert main(["train", *args]) == 0
    run = here / "runs/it"
    there = sorted(p.relative_to(run) for p in run.rglob("*"))
    (run / "manifest.json").unlink()
    (run / "weights.safetensors").unlink(missing_ok=True)
    assert main(["train", "--resume", "runs/it"]) == 0
    assert sorted(p.relative_to(run) for p in run.rglob("*")) == there
    assert "has taken all its 4 steps" in failure(capsys, "train", "--resume", "runs/it")
    assert main(["train", "--resume", "runs/it", "--steps", "6"]) == 0


def test_two_processes_do_not_train_in_one_folder(here, capsys):
    assert main([*CURVE, "--steps", "20"]) == 0
    with fbp.train.Run(Path("runs/curve")).locked():
        said = failure(capsys, "train", "--resume", "runs/curve", "--steps", 30)
    assert "another process is training in it" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("fsync", errno.ENOSPC),
        ("replace", errno.EACCES),
        *(
            pytest.param(name, code, marks=pytest.mark.exhaustive)
            for name in ("write", "fsync", "replace")
            for code in (errno.ENOSPC, errno.EACCES, errno.EIO)
        ),
    ],
)
def test_a_disk_that_fails_is_one_line_and_no_traceback(name, code, here, capsys, monkeypatch):
    """From the n-th call on, for all n: as when the disk is full."""
    real = getattr(os, name)
    calls = left = 0

    def failing(*args):
        nonlocal calls
        calls += 1
        if calls > left:
            raise OSError(code, os.strerror(code))
        return real(*args)

    while True:
        shutil.rmtree("runs", ignore_errors=True)
        capsys.readouterr()
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing)
            status = main([*CURVE, "--steps", "8", "--eval-every", "4"])
        said = capsys.readouterr()
        if calls <= left:
            assert status == 0
            break
        assert status in (1, 2)
        assert said.err.count("\n") <= 1
        assert os.strerror(code) in said.out + said.err
        assert not newest_whole(here / "runs/curve/steps")[1]
        left += 1
    assert left > 3
