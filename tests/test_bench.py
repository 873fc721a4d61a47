"""`fbp bench`: the same training in every row, and products counted on paper."""

import dataclasses
import itertools
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp.bench import CONTENDERS, WORKLOADS, Contender, GPTSizes, measure
from fbp.bench._contenders import Built
from fbp.bench._plain import POLICIES, PlainGPT, unstacked
from fbp.bench._products import products_of
from fbp.bench._report import remarks, table
from fbp.cli._main import main


def test_products_on_paper() -> None:
    sizes = GPTSizes(layers=2, width=8, heads=2, context=4, batch=3, vocab=5)
    weights = 2 * (8 * 24 + 8 * 8 + 2 * 8 * 32) + 5 * 8
    assert sizes.dense_flops == 6 * 12 * weights
    # Pairs of a query and a key that it sees, 10 of 16; width 4 a head, 6 heads, 7 products.
    assert sizes.attention_flops == 2 * 7 * (2 * 10 * 4 * 6)
    # In one block, all 16 pairs.
    assert _flops(sizes) == sizes.dense_flops + 2 * 7 * (2 * 16 * 4 * 6)
    # In four blocks of 32 queries, of 128 by 128 pairs five eighths.
    sizes = dataclasses.replace(sizes, context=128)
    assert _flops(sizes) == sizes.dense_flops + 2 * 7 * (2 * 128 * 80 * 4 * 6)


def _flops(sizes: GPTSizes) -> int:
    return sum(2 * b * m * k * n * count for (b, m, k, n), count in products_of(sizes).items())


OPTIONS = [{"unrolled": True}, {"chunk": 4}, *({"keeps": p} for p in POLICIES)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, *OPTIONS[:2], *(pytest.param(o, marks=pytest.mark.exhaustive) for o in OPTIONS[2:])],
)
def test_plain_jax_trains_the_same_model(options: Any) -> None:
    sizes = GPTSizes(layers=2, width=6, heads=2, context=5, batch=2, vocab=7)
    params = sizes.params()
    batch = tuple(a[0] for a in sizes.batches(1))
    value, dparams = fbp.models.NextToken(sizes.model()).value_and_grad(params, batch)
    if options.get("unrolled"):
        params, dparams = unstacked(params), unstacked(dparams)
    plain = PlainGPT(sizes, **options).value_and_grad(params, batch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain, (value, dparams)
    )


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: Any) -> None:
    file, picture = tmp_path / "figures.json", tmp_path / "figures.png"
    command = ["bench", "tiny", "--only", "^(jax.grad|fbp)$", "--rounds", "2", "--products"]
    assert main([*command, "--peak", "--json", str(file), "--picture", str(picture)]) == 0
    printed = capsys.readouterr().out
    rates = {}
    for name in ("jax.grad", "fbp", "matrix products alone"):
        row = re.search(rf"^{name} +[\d.]+ +[\d.]+ +[\d.]+ .* ([\d.]+)$", printed, re.MULTILINE)
        assert row
        rates[name] = float(row[1])
    assert rates.pop("matrix products alone") == 1 > max(rates.values()) > 0
    found = json.loads(file.read_text())
    *trained, products = found["figures"]
    assert [row["name"] for row in trained] == ["jax.grad", "fbp"]
    assert len(products["seconds"]) == 2
    # More than Python with jax, and less than this machine has.
    assert all(2**26 < row["peak"] < 2**34 for row in trained)
    losses = [row["first_losses"] for row in trained]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert len(losses[0]) == 10
    assert picture.stat().st_size > 1000
    assert main([*command, "--json", str(file)]) == 2
    assert "expected a new file" in capsys.readouterr().err


def test_work_of_the_operating_system_is_told(monkeypatch: Any) -> None:
    def build(sizes: GPTSizes, params: Any, dtype: Any, steps: int) -> Built:
        return Built(lambda batches: np.ones(steps))

    def clock() -> Any:
        """By which each turn takes 3 s, 1 of them in the system."""
        now = next(times)
        return 2.0 * now, 1.0 * now

    sizes = WORKLOADS["tiny"]
    busy = [Contender("busy", "numpy", build)]
    (short,), _ = measure(busy, sizes, rounds=1, chunk=10)
    assert short.system is None
    times = iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr("fbp.bench._measure.os.times", clock)
        (long,), _ = measure(busy, sizes, rounds=2, chunk=10)
    assert long.system == 1 / 3
    quiet = dataclasses.replace(long, name="quiet", system=0.09)
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    assert not any("operating system" in line for line in remarks([quiet, short], sizes))
    assert "for busy 33 % of the processors' work" in remarks([quiet, long], sizes)[-1]
    assert " 0.33 " in table([quiet, long], sizes)
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert not any("operating system" in line for line in remarks([quiet, long], sizes))


@pytest.mark.parametrize("stops", [0, 1, 6, 9])
def test_what_is_stopped_keeps_the_rounds_that_were_whole(stops: int) -> None:
    """Each of the two is run five times first, to compare losses, and then once a round."""
    calls = itertools.count()

    def build(sizes: GPTSizes, params: Any, dtype: Any, steps: int) -> Built:
        def run(batches: Any) -> Any:
            if next(calls) == 10 + stops:
                raise KeyboardInterrupt
            return np.ones(steps)

        return Built(run)

    two = [Contender(name, "numpy", build) for name in ("one", "two")]
    seen: list[int] = []
    figures, notes = measure(
        two,
        WORKLOADS["tiny"],
        rounds=7,
        chunk=2,
        so_far=lambda figures, notes: seen.append(len(figures[0].seconds)),
    )
    whole = stops // 2
    assert notes == [f"stopped in round {whole + 1} of 7: {whole} rounds are measured"]
    assert [len(one.seconds) for one in figures] == [whole] * (2 if whole else 0)
    assert seen == list(range(1, whole + 1))


def test_what_is_stopped_while_it_compiles() -> None:
    def build(sizes: GPTSizes, params: Any, dtype: Any, steps: int) -> Built:
        raise KeyboardInterrupt

    assert measure([Contender("one", "numpy", build)], WORKLOADS["tiny"]) == (
        [],
        ["stopped while one was compiled: 0 rounds are measured"],
    )


@pytest.mark.slow
def test_the_command_is_stopped(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from fbp.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = ["bench", "tiny", "--only", "^(jax.grad|fbp)$", "--rounds", "1000000"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *command, "--json", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not file.exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "rounds are measured" in said
    assert "jax.grad" in said
    assert "compiling fbp" in told
    assert json.loads(file.read_text())["figures"][0]["seconds"]


@pytest.mark.slow
def test_the_peak_of_a_process_is_its_own() -> None:
    held = bytearray(b"1") * 2**30
    code = "from fbp.bench._peak import _resident; print(_resident())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert 2**25 < int(said) < len(held)


@pytest.mark.torch
def test_everyone_trains_the_same_model() -> None:
    names = ["jax.grad", "jax.grad, unrolled", "flax nnx", "equinox", "PyTorch eager", "fbp"]
    names += ["fbp, unrolled", "fbp, in backward, keep=inputs"]
    sizes = GPTSizes(layers=2, width=8, heads=2, context=6, batch=2, vocab=11)
    figures, _ = measure([c for c in CONTENDERS if c.name in names], sizes, rounds=1)
    ours = {f.name: f for f in figures}["fbp"]
    assert {"jax.grad", "PyTorch eager"} <= {f.name for f in figures}
    for f in figures:
        assert f.agrees(ours) < 1e-5, f.name
        assert f.temporaries is None or f.temporaries > 0


@pytest.mark.slow
def test_in_bfloat16_too() -> None:
    chosen = [c for c in CONTENDERS if c.name in ("jax.grad", "fbp")]
    sizes = GPTSizes(layers=1, width=6, heads=2, context=5, batch=2, vocab=7)
    plain, ours = measure(chosen, sizes, dtype=jnp.bfloat16, rounds=1)[0]
    assert ours.agrees(plain) < 2**-8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "0"], "expected --rounds to be 1 or more"),
        (["--steps", "-1"], "expected --steps to be 1 or more"),
        (["--only", "("], "expected --only to be a regular expression"),
        (["--only", "nobody"], "expected --only to match one of: jax.grad"),
    ],
)
def test_bad_input_gets_one_line(arguments: list[str], said: str, capsys: Any) -> None:
    assert main(["bench", "tiny", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
