"""The page of a step: what it holds is what was computed, also as a browser shows it."""

import base64
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, draw, is_float, normal_like, output

import fbp
from fbp.cli import main
from fbp.explainer import _page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NUMBERS = np.random.default_rng(0)
HOSTILE = (
    *("</script><script>document.title='no'</script>", "<!--<script>", '"', "'", "\\", "&lt;"),
    *("\u2028", "\u2029", "\u202eabc", "\U0001f600", "\n", " ", ""),
)


class Total(fbp.Loss):
    """The sum of y times the target: dy is the target."""

    def value_and_grad(self, params: Any, y: Any, target: Any) -> Any:
        floats = jax.tree.map(lambda a: a if is_float(a) else None, y)
        products = jax.tree.map(lambda a, t: (a * t).sum(), floats, target)
        return sum(jax.tree.leaves(products)), (), target


def in_browser(test: Any) -> Any:
    missing = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
    return pytest.mark.browser(pytest.mark.slow(missing(test)))


def neuron(target: float = 4.0) -> fbp.Explanation:
    objective = fbp.Objective(fbp.models.neuron(), fbp.MeanSquaredError())
    params = objective.init(jax.random.key(0))
    return fbp.explain(objective, params, (jnp.float32(2.1), jnp.float32(target)))


def mlp() -> fbp.Explanation:
    objective = fbp.Objective(fbp.models.mlp((4, 16, 3)), fbp.SoftmaxCrossEntropy())
    batch = NUMBERS.normal(size=(8, 4)).astype(np.float32), NUMBERS.integers(0, 3, 8)
    return fbp.explain(objective, objective.init(jax.random.key(1)), batch, prove=False)


def gpt(width: int = 32, layers: int = 2) -> fbp.Explanation:
    model = fbp.models.gpt2(vocab=65, context=32, layers=layers, heads=2, width=width)
    objective = fbp.models.NextToken(model)
    ids = NUMBERS.integers(0, 65, (1, len(HOSTILE)))
    params = objective.init(jax.random.key(2))
    return fbp.explain(objective, params, (ids[:, :-1], ids[:, 1:]), prove=False)


def data_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)


def whole(data: dict[str, Any], ref: list[Any]) -> np.ndarray:
    """An array of the page in its own shape."""
    stored = data["arrays"][ref[2]]
    assert (stored["r"], stored["c"]) == (stored["R"], stored["C"])
    return np.frombuffer(base64.b64decode(stored["d"]), "<f4").reshape(ref[3])


@pytest.mark.parametrize("made", [neuron, mlp])
def test_the_numbers_inside_are_those_of_the_explanation(made: Callable[[], Any]) -> None:
    found = made()
    data = data_of(found.page("a step"))
    assert data["title"] == "a step"
    assert float(data["value"]) == pytest.approx(found.value, rel=1e-5)
    assert [kind for kind, _ in data["events"]] == [event.kind for event in found.events]
    for row in data["rows"][:-1]:
        one = found.layers[row["number"]].passes[row["copy"]]
        for side in ("x", "params", "y", "dy", "dparams", "dx"):
            refs = [ref for ref in row["arrays"] if ref[1] == side]
            leaves = jax.tree.leaves(getattr(one, side))
            if "params" in side and not row["leaf"]:
                leaves = []  # of the layers inside
            assert len(refs) == len(leaves)
            order = sorted(range(len(leaves)), key=lambda i: -np.ndim(leaves[i]))  # w before b
            for ref, i in zip(refs, order if "params" in side else range(len(leaves)), strict=True):
                np.testing.assert_array_equal(whole(data, ref), leaves[i])


def page_of_cases(*names: str) -> tuple[fbp.Explanation, str]:
    """A step of several layers of the table, side by side, as case_0, case_1, ..."""
    cases = {f"case_{i}": next(c for c in CASES if c.name == n) for i, n in enumerate(names)}
    drawn = {key: draw(case, 0, jnp.float32) for key, case in cases.items()}
    params, x = ({key: pair[i] for key, pair in drawn.items()} for i in (0, 1))
    model = fbp.Each(**{key: case.layer for key, case in cases.items()})
    target = normal_like(1, output(model, params, x))
    objective = fbp.Objective(model, Total())
    found = fbp.explain(objective, fbp.ObjectiveParams(params, ()), (x, target), prove=False)
    return found, found.page()


def row_of_case(name: str) -> tuple[Any, dict[str, Any], dict[str, np.ndarray]]:
    """The pass of a layer of the table, its row of a page, and the arrays of that by name."""
    found, page = page_of_cases(name)
    data = data_of(page)
    row = next(row for row in data["rows"] if row["path"] == "case_0")
    arrays = {ref[0]: whole(data, ref).astype(np.float64) for ref in row["arrays"]}
    return found.layers[row["number"]].passes[row["copy"]], row, arrays


@pytest.mark.parametrize("name", ["attention/grouped", "attention/everything"])
def test_what_attention_does_not_keep_makes_the_traced_numbers(name: str) -> None:
    one, row, a = row_of_case(name)
    each = a["q"].shape[-2] // a["k"].shape[-2]
    k, v = (np.repeat(a[name], each, -2) for name in "kv")
    np.testing.assert_allclose(a["p"].sum(-1), a["p"].any(-1), atol=1e-6)
    e = np.exp(a["s"])
    np.testing.assert_allclose(a["p"] * e.sum(-1, keepdims=True), e, atol=1e-5)
    made = {
        "y": np.einsum("bths,bshm->bthm", a["p"], v),
        "dq": row["given"]["scale"] * np.einsum("bths,bshk->bthk", a["ds"], k),
        "dk": row["given"]["scale"] * np.einsum("bths,bthk->bshk", a["ds"], a["q"]),
        "dv": np.einsum("bths,bthm->bshm", a["p"], a["dy"]),
    }
    for key in ("dk", "dv"):
        made[key] = made[key].reshape(*a["k"].shape[:-1], each, -1).sum(-2)
    for key, traced in zip(("y", "dq", "dk", "dv"), (one.y, *one.dx[:3]), strict=True):
        np.testing.assert_allclose(made[key], traced, atol=1e-6)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "batch_norm", "group_norm"])
def test_what_a_norm_does_not_keep_makes_the_traced_numbers(name: str) -> None:
    one, _, a = row_of_case(name)
    rows = tuple(range(np.ndim(one.x) - 1))
    if name in ("layer_norm", "rms_norm"):
        w, u, g, r, axes, dw = a["w"], a["u"], a["g"], a["r"], (-1,), a["dw"]
        dx = r * (g - a.get("mean(g)", 0.0) - u * a["mean(g u)"])
    else:
        w, u, g, axes, dw = a["scale"], a["xhat"], a["dxhat"], rows, a["dscale"]
        dx = one.dx
    if name == "batch_norm":
        dx = a["rstd"] * (g - a["mean(dxhat)"] - u * a["mean(dxhat xhat)"])
    bias = a.get("b", a.get("bias", 0.0))
    np.testing.assert_allclose(w * u + bias, one.y, atol=1e-6)
    np.testing.assert_allclose(g, w * a["dy"], atol=1e-6)
    np.testing.assert_allclose((a["dy"] * u).sum(rows), dw, atol=2e-6)
    np.testing.assert_allclose(dx, one.dx, atol=1e-6)
    if name != "group_norm":
        np.testing.assert_allclose((u * u).mean(axes), 1, atol=1e-3)


def test_the_gates_of_an_lstm_make_its_traced_numbers() -> None:
    one, _, a = row_of_case("lstm/truncated")
    i, f, g, o = (a[gate] for gate in "ifgo")
    into = a["x"] @ a["w"] + a["h before"] @ a["u"] + a["b"]
    np.testing.assert_allclose(a["a"], into, atol=1e-6)
    np.testing.assert_allclose(f, jax.nn.sigmoid(np.split(into, 4, -1)[1]), atol=1e-6)
    np.testing.assert_allclose(a["c"], f * a["c before"] + i * g, atol=1e-6)
    np.testing.assert_allclose(one.y, o * np.tanh(a["c"]), atol=1e-6)
    np.testing.assert_array_equal(a["h before"][:, 1:], one.y[:, :-1])
    through = [
        *(a["dc"] * g * i * (1 - i), a["dc"] * a["c before"] * f * (1 - f)),
        *(a["dc"] * i * (1 - g**2), a["dh"] * np.tanh(a["c"]) * o * (1 - o)),
    ]
    np.testing.assert_allclose(a["da"], np.concatenate(through, -1), atol=1e-6)
    np.testing.assert_allclose(one.dx, a["da"] @ a["w"].T, atol=1e-6)
    # Truncated every third step, in a sequence of seven.
    after = a["da"] @ a["u"].T
    after[:, [0, 3, 6]] = 0
    np.testing.assert_allclose(a["dh"][:, :-1], (a["dy"][:, :-1] + after[:, 1:]), atol=1e-6)


def test_a_cell_that_is_not_known_has_the_values_alone() -> None:
    class Own(fbp.GRUCell):
        pass

    objective = fbp.Objective(fbp.Recurrent(Own(3, 4)), fbp.MeanSquaredError())
    x = NUMBERS.normal(size=(2, 5, 3)).astype(np.float32)
    found = fbp.explain(
        objective, objective.init(jax.random.key(0)), (x, np.ones((2, 5, 4))), prove=False
    )
    row = data_of(found.page())["rows"][0]
    assert row["kind"] == ""
    assert [ref[0] for ref in row["arrays"] if ref[1] == "res"][:2] == ["kept 0", "kept 1.0"]


def test_of_another_rule_than_its_class_has_the_values_are_shown_alone() -> None:
    class Twice(fbp.Attention):
        def forward(self, params: Any, x: Any, key: Any = None) -> Any:
            y, res = super().forward(params, x, key)
            return 2 * y, res

    x = tuple(NUMBERS.normal(size=(1, 3, 2, 4)).astype(np.float32) for _ in "qkv")
    objective = fbp.Objective(Twice(), fbp.MeanSquaredError())
    found = fbp.explain(objective, objective.init(jax.random.key(0)), (x, x[0]), prove=False)
    row = data_of(found.page())["rows"][0]
    assert row["kind"] == ""
    assert "values alone" in row["note"]


def test_each_array_is_there_once() -> None:
    data = data_of(mlp().page())
    held = [(a["R"], a["C"], a["d"]) for a in data["arrays"]]
    assert len(held) == len(set(held))
    assert len(held) < sum(len(row["arrays"]) for row in data["rows"])


def test_p_minus_q() -> None:
    found = mlp()
    data = data_of(found.page())
    loss = data["rows"][-1]
    refs = {ref[0]: ref for ref in loss["arrays"]}
    p = jax.nn.softmax(found.loss.y)
    q = jax.nn.one_hot(found.loss.target, 3)
    np.testing.assert_allclose(whole(data, refs["p - q"]), p - q, atol=1e-6)
    each = [row[2] for row in loss["rows"]]
    assert np.mean(each) == pytest.approx(found.value, rel=1e-5)


def test_the_file_asks_for_nothing_and_labels_end_no_script() -> None:
    found = neuron()
    page = found.page(HOSTILE[0], HOSTILE)
    assert "://" not in page
    assert not re.search(r"<(?:link|img|script|iframe)[^>]*(?:src|href)=(?!.data:)", page)
    assert page.count("<script") == page.count("</script>") == 2
    assert "\u2028" not in page
    data = data_of(page)
    assert data["title"] == HOSTILE[0]
    assert data["tokens"] == list(HOSTILE)


def test_what_does_not_fit_is_cut_and_said(monkeypatch: Any) -> None:
    found = mlp()
    full = found.page()
    assert data_of(full)["left"] == ""
    monkeypatch.setattr(_page, "MOST", len(full) - 1500)
    cut = found.page()
    assert len(cut.encode()) <= len(full) - 1500
    data = data_of(cut)
    assert "numbers, to stay below" in data["left"]
    assert any((a["r"], a["c"]) != (a["R"], a["C"]) for a in data["arrays"])
    for a, b in zip(data["arrays"], data_of(full)["arrays"], strict=True):
        part = np.frombuffer(base64.b64decode(a["d"]), "<f4").reshape(a["r"], a["c"])
        both = np.frombuffer(base64.b64decode(b["d"]), "<f4").reshape(b["R"], b["C"])
        np.testing.assert_array_equal(part, both[: a["r"], : a["c"]])
        assert [a[name] for name in ("max", "rms", "nan")] == [
            b[name] for name in ("max", "rms", "nan")
        ]


def test_what_is_computed_again_is_of_the_copy_that_needs_it() -> None:
    block = fbp.Serial(a=fbp.Dense(3, 3), b=fbp.Relu(), c=fbp.Dense(3, 3))
    objective = fbp.Objective(fbp.Stack(block, 3), fbp.MeanSquaredError())
    x = NUMBERS.normal(size=(4, 3)).astype(np.float32)
    found = fbp.explain(objective, objective.init(jax.random.key(0)), (x, x), prove=False)
    relu = next(i for i, layer in enumerate(found.layers) if layer.path == "b")
    runs = {
        kind: [e.run for e in found.events if (e.kind, e.layer) == (kind, relu)]
        for kind in ("forward", "recompute", "backward")
    }
    assert runs == {"forward": [0, 1, 2], "recompute": [2, 1, 0], "backward": [2, 1, 0]}


def test_a_table_for_notebooks() -> None:
    found = neuron()
    small = found._repr_html_()
    assert "<script" not in small
    assert small.count("<tr>") == 4
    assert "3.61" in small
    assert ">3.8<" in small

    class Odd(fbp.Relu):
        pass

    Odd.__name__ = "<b>&"
    objective = fbp.Objective(fbp.Serial(a=Odd()), fbp.MeanSquaredError())
    one = np.ones((2, 2), np.float32)
    assert (
        "&lt;b&gt;&amp;"
        in fbp.explain(objective, objective.init(jax.random.key(0)), (one, one))._repr_html_()
    )


# The command line.


def test_the_file_is_new_and_can_be_written(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)

    def failure(file: str) -> str:
        assert main(["explain", "neuron", "--html", file]) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1
        assert "dw" not in said.out  # said before anything is computed
        return said.err

    assert main(["explain", "neuron", "--html", "n.html"]) == 0
    assert "page: n.html (" in capsys.readouterr().out
    before = Path("n.html").read_bytes()
    assert data_of(before.decode())["value"] == "3.61"
    assert "n.html: expected the name of a new file, and it is there already" in failure("n.html")
    assert Path("n.html").read_bytes() == before
    assert "no/n.html: expected a file in a folder, and there is no such" in failure("no/n.html")
    assert "n.html/n.html: expected a file in a folder" in failure("n.html/n.html")


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    # As root may write anywhere, the system's refusal is played.
    opened = Path.open

    def refused(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode == "x":
            raise PermissionError(13, "Permission denied")
        return opened(self, mode, *args, **options)

    monkeypatch.setattr(Path, "open", refused)
    assert main(["explain", "neuron", "--html", str(tmp_path / "n.html")]) == 2
    assert "cannot write it: permission denied" in capsys.readouterr().err


# In a browser.


def shown(page: str, folder: Path, hash: str = "", script: str = "", size: str = "1280,900") -> str:
    """The document that a browser makes of a page and a script of ours; its console is silent."""
    file = folder / "page.html"
    file.write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += ["--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [str(CHROMIUM), *flags, f"--window-size={size}", f"{file.as_uri()}#{hash}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    return done.stdout


def said_by(page: str, folder: Path, script: str, hash: str = "", size: str = "1280,900") -> Any:
    """What a script of ours in the page returns."""
    wrapped = f"document.body.dataset.said = JSON.stringify((() => {{ {script} }})());"
    found = re.search(r'data-said="([^"]*)"', shown(page, folder, hash, wrapped, size))
    assert found
    text = found[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">")
    return json.loads(text.replace("&amp;", "&").replace("&nbsp;", "\u00a0"))


def computed_again(page: str, folder: Path) -> dict[str, tuple[int, float]]:
    """How many cells of each kind of sum the page computes again, and the worst difference."""
    script = "selftest(); return JSON.parse(find('selftest').dataset.kinds);"
    found = said_by(page, folder, script)
    return {kind: (each["cells"], each["worst"]) for kind, each in found.items()}


# Kinds of sums that are there for every cell of the layers, and the cells of what is in between.
WHOLE = {
    "dense": fbp.Dense,
    "scale": fbp.Scale,
    "bias": fbp.Bias,
    "attention": fbp.Attention,
    "norm": fbp.LayerNorm,
}
IN_BETWEEN: dict[str, Callable[[Any], int]] = {
    # s, p, dp and ds, of each query, head and key, and the mean of dp.
    "attention": lambda passes: sum(
        (4 * p.x[1].shape[-3] + 1) * math.prod(p.x[0].shape[:-1]) for p in passes
    ),
    # u and g, and of each vector mean, var, r, mean(g) and mean(g u).
    "norm": lambda passes: sum(2 * p.x.size + 5 * math.prod(p.x.shape[:-1]) for p in passes),
}


@in_browser
@pytest.mark.parametrize("made", [neuron, mlp, gpt])
def test_the_page_computes_its_own_cells_again(made: Callable[[], Any], tmp_path: Path) -> None:
    explained = made()
    page = explained.page("a step", HOSTILE if made is gpt else ())
    assert len(page.encode()) < 2_000_000
    kinds = computed_again(page, tmp_path)
    assert max(worst for _, worst in kinds.values()) < 1e-5
    for kind, of in WHOLE.items():
        passes = [p for one in explained.layers if isinstance(one.layer, of) for p in one.passes]
        leaves = jax.tree.leaves([(p.y, p.dparams, p.dx) for p in passes])
        cells = sum(np.size(a) for a in leaves)
        assert kinds.get(kind, (0, 0))[0] == cells + IN_BETWEEN.get(kind, lambda p: 0)(passes)
    if made is gpt:  # its last layer is in its loss
        loss = explained.loss
        scores = 2 * np.size(loss.target) * len(loss.params["w"])
        assert kinds["fused"][0] == scores + np.size(loss.dparams["w"]) + np.size(loss.dy)


@in_browser
def test_a_wrong_number_fails_the_selftest(tmp_path: Path) -> None:
    page = mlp().page()
    script = """
      const row = ROWS.find((row) => row.kind === "dense");
      arrayOf(row, "dw").v[3] += 0.1;
      selftest();
      return Number(find("selftest").dataset.worst);
    """
    assert said_by(page, tmp_path, script) > 1e-3


EVERY_CELL = """
  goTo(EVENTS.length - 1);
  const [bad, summed] = [[], new Set()];
  ROWS.forEach((row, i) => {
    pinned = i;
    draw();
    for (const [name, { a }] of Object.entries(shown)) {
      for (let k = 0; k < a.R * a.C; k += Math.min(EACH, a.C + 1)) {
        if (nth(a, k) === undefined) continue; // of an array that is cut
        point(row, name, k);
        const text = find("cell").textContent;
        if (!text.includes(number(nth(a, k))) || text.includes("✗")) bad.push(text);
        if (text.includes("✓")) summed.add(row.kind);
      }
    }
  });
  return [[...summed].sort(), bad];
"""


@in_browser
@pytest.mark.parametrize(("made", "each"), [(neuron, 1), (mlp, 1), (gpt, 89)])
def test_the_sum_of_a_cell_is_the_number_beside_it(
    made: Callable[[], Any], each: int, tmp_path: Path
) -> None:
    summed, bad = said_by(made().page(), tmp_path, EVERY_CELL.replace("EACH", str(each)))
    assert bad == []
    assert (
        summed
        == {
            neuron: ["bias", "mse", "scale"],
            mlp: ["dense", "local", "softmax"],
            gpt: [
                "attention",
                "dense",
                "embedding",
                "fused",
                "local",
                "moved",
                "norm",
                "positions",
                "residual",
            ],
        }[made]
    )


KINDS = {
    "products": ("dense/no_batch", "unembed", "embedding", "positions", "positions/documents"),
    "places": (
        *("split_heads", "split_heads/one_of_three", "merge_heads", "flatten"),
        *("residual", "tree/residual", "rope", "swiglu", "softmax", "log_softmax/two_batch_axes"),
    ),
    "attention": (
        *("attention/no_batch", "attention/two_batch_axes", "attention/everything"),
        *("attention/masked", "attention/documents_everything", "attention/softcap"),
    ),
    "norms": (
        *("layer_norm/two_batch_axes", "rms_norm", "batch_norm", "batch_norm/image"),
        *("batch_norm/one_example", "fixed_batch_norm", "group_norm", "group_norm/no_batch"),
    ),
    "windows": (
        *("conv/everything", "conv/no_batch", "conv1d/everything", "conv_transpose/everything"),
        *("conv_transpose/padded", "conv/groups", "conv1d/causal"),
        *("max_pool/overlapping", "max_pool/padded", "avg_pool/same", "global_avg_pool"),
    ),
    "gates": (
        *("lstm/truncated", "lstm/two_batch_axes", "lstm/stack", "gru", "gru/truncated"),
        *("gru/no_batch", "linear_recurrence"),
    ),
}
# Of trees of arrays the page has the values alone.
VALUES_ALONE = ("positions/documents", "tree/residual")


@in_browser
@pytest.mark.parametrize("kind", KINDS)
def test_the_sums_of_a_layer_in_every_shape(kind: str, tmp_path: Path) -> None:
    names = KINDS[kind]
    _, page = page_of_cases(*names)
    script = EVERY_CELL.replace("EACH", "1").replace(
        "return [[...summed].sort(), bad]",
        """
          const found = ROWS.flatMap((row) => MAKERS[row.kind] ? row.arrays.map((ref) => (
            [row.path.split(".")[0], ...computedAgain(row, ref)])) : []);
          return [found, bad];
        """,
    )
    found, bad = said_by(page, tmp_path, script)
    assert bad == []
    assert max(worst for _, _, worst in found) < 1e-5
    computed = {part for part, cells, _ in found if cells}
    expected = {f"case_{i}" for i, name in enumerate(names) if name not in VALUES_ALONE}
    assert computed == expected


@in_browser
def test_the_chain_of_the_neuron_in_words(tmp_path: Path) -> None:
    script = """
      const texts = [];
      for (let i = 0; i < EVENTS.length; i++) { goTo(i); texts.push(find("cell").textContent); }
      return texts;
    """
    texts = said_by(neuron().page(), tmp_path, script)
    texts = [text.replace("\u2212", "-").replace("\u00d7", "*") for text in texts]
    for part in ("1 * 2.1", "2 * (-1.9)", "dw = -7.98", "(-3.8) * 2.1"):
        assert any(part in text for text in texts), (part, texts)


@in_browser
def test_mouse_keys_and_addresses(tmp_path: Path) -> None:
    script = """
      const press = (key, on = document.body) =>
        on.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
      const seen = [];
      const opened = () => document.querySelector("h2:not(.small)").textContent;
      const note = () => seen.push([step, location.hash, opened()]);
      note();
      for (const key of ["Home", "ArrowRight", "ArrowLeft", "End"]) { press(key); note(); }
      for (const id of ["back", "first", "last"]) { find(id).click(); note(); }
      find("net").children[1].click(); note();
      const canvas = shown.y.wrap.querySelector("canvas");
      const cells = [];
      canvas.focus();
      point(ROWS[pinned], "y", 0);
      for (const key of ["ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft"]) {
        press(key, canvas);
        cells.push(find("cell").querySelector(".value").textContent.split(" ")[0]);
      }
      const box = canvas.getBoundingClientRect();
      const corner = { clientX: box.right - 1, clientY: box.bottom - 1 };
      canvas.dispatchEvent(new PointerEvent("pointerdown", corner));
      cells.push(find("cell").querySelector(".value").textContent.split(" ")[0]);
      press("p"); const playing = find("play").getAttribute("aria-pressed"); press("p");
      return [seen, cells, playing, timer, document.querySelectorAll(".wrap u").length];
    """
    found = mlp()
    seen, cells, playing, timer, frames = said_by(found.page(), tmp_path, script, "event=3")
    last = len(found.events) - 1
    assert [step for step, _, _ in seen] == [2, 0, 1, 0, last, last - 1, 0, last, last]
    assert seen[0][1] == "#event=3"
    assert seen[-1][1] == f"#event={last + 1}&layer=activation_1@0"
    assert seen[-1][2].startswith("activation_1")
    assert cells == ["y[0,", "y[1,", "y[2,", "y[2,", "y[7,"]
    assert playing == "true"
    assert timer is None
    assert frames >= 1
    layer = said_by(found.page(), tmp_path, "return pinned", "event=2&layer=activation_1@0")
    assert layer == 1


@in_browser
def test_arrays_say_where_they_come_from_and_go_to(tmp_path: Path) -> None:
    script = """
      const seen = {};
      for (const [i, row] of ROWS.entries()) {
        pinned = i;
        step = EVENTS.length - 1;
        draw();
        seen[row.path] = [...find("layer").querySelectorAll("figure")].flatMap((figure) => {
          const button = figure.querySelector(".address");
          const name = figure.querySelector("b").textContent;
          return button ? [`${name} ${button.parentNode.textContent}`] : [];
        });
      }
      pinned = 1;
      draw();
      find("layer").querySelector("figure .address").click();
      return [seen, ROWS[pinned].path];
    """
    seen, opened = said_by(mlp().page(), tmp_path, script)
    assert seen == {
        "dense_1": ["y to activation_1", "dy from activation_1"],
        "activation_1": ["x from dense_1", "y to dense_2", "dy from dense_2", "dx to dense_1"],
        "dense_2": [
            "x from activation_1",
            "y to the loss",
            "dy from the loss",
            "dx to activation_1",
        ],
        "loss": ["y from dense_2", "dy to dense_2"],
    }
    assert opened == "dense_1"
    seen, _ = said_by(gpt().page(), tmp_path, script)
    assert "y to attention [1]" in seen["blocks.attention.out"]  # where it is added
    assert "dx to attention [1]" in seen["blocks.attention.norm"]


@in_browser
def test_scales_have_the_signs_that_are_there(tmp_path: Path) -> None:
    script = """
      const scales = {};
      for (const [event, names] of [[1, ["x", "y"]], [3, ["target", "1/n"]]]) {
        goTo(event);
        for (const name of names) {
          scales[name] = shown[name].figure.querySelector(".scale").textContent;
        }
      }
      return scales;
    """
    found = said_by(mlp().page(), tmp_path, script)
    assert found["x"].startswith("\u2212")
    assert found["y"].startswith("0")  # of a ReLU
    assert found["1/n"].startswith("0")
    assert found["target"] == "whole numbers"


@in_browser
def test_closed_gates_are_shown_beside_open_ones(tmp_path: Path) -> None:
    script = """
      goTo(EVENTS.findIndex((each) => each.kind === "backward" && ROWS[each.row].cls === "Relu"));
      const text = () => find("cell").textContent;
      const seen = [text()];
      find("cell").querySelector(".address").click();
      return [...seen, text()];
    """
    opened, closed = said_by(mlp().page(), tmp_path, script)
    count = re.search(r"(\d+) of 128 gates are closed", opened)
    assert count is not None
    assert 0 < int(count[1]) < 128
    assert opened.endswith("\u00d7 0 = 0.")
    assert "\u00d7 0" in closed.split("=")[1]


@in_browser
@pytest.mark.parametrize("made", [neuron, gpt])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window(made: Any, width: int, tmp_path: Path) -> None:
    script = """
      document.body.style.width = "WIDTHpx";  // a window itself is not so narrow
      const right = () => {
        const all = document.querySelectorAll("header, header *, .row, #layer > *, figure");
        return Math.max(...[...all].map((each) => each.getBoundingClientRect().right));
      };
      const wide = [];
      for (let i = 0; i < EVENTS.length; i++) { goTo(i); if (right() > WIDTH) wide.push(i); }
      const far = make("p");
      far.style.width = "3000px";
      find("layer").append(far);
      return [right() > 3000, wide];
    """.replace("WIDTH", str(width))
    tokens = HOSTILE if made is gpt else ()
    page = made().page("a step", tokens)
    assert said_by(page, tmp_path, script, "event=1", f"{width},900") == [True, []]


@in_browser
def test_hostile_labels_stay_text(tmp_path: Path) -> None:
    script = """
      for (let i = 0; i < EVENTS.length; i++) goTo(i);
      goTo(EVENTS.findIndex((event) => event.kind === "loss"));
      return [document.title, document.scripts.length, DATA.tokens, find("layer").textContent];
    """
    title, scripts, tokens, text = said_by(gpt().page(HOSTILE[0], HOSTILE), tmp_path, script)
    assert title.startswith(HOSTILE[0])
    assert scripts == 3  # the data, the page's, and the one of this test
    assert tokens == list(HOSTILE)
    for token in HOSTILE[:-3]:
        assert token in text


@in_browser
def test_what_is_no_number_is_painted_and_said(tmp_path: Path) -> None:
    objective = fbp.Objective(fbp.Serial(a=fbp.Relu(), b=fbp.Bias((8,))), fbp.MeanSquaredError())
    x = NUMBERS.normal(size=(20, 8)).astype(np.float32)
    x[2, 3], x[4, 5], x[6, 7] = math.nan, math.inf, math.inf
    found = fbp.explain(objective, objective.init(jax.random.key(0)), (x, np.zeros_like(x)))
    script = """
      goTo(0);
      const { wrap, a } = shown.x;
      const canvas = wrap.querySelector("canvas");
      const painted = canvas.getContext("2d").getImageData(0, 0, a.c, a.r).data;
      const dot = (i, j) => [...painted.slice(4 * (i * a.c + j), 4 * (i * a.c + j) + 3)];
      point(ROWS[0], "x", 2 * a.C + 3);
      const texts = [find("cell").textContent, document.querySelector(".odd").textContent];
      for (let i = 0; i < EVENTS.length; i++) goTo(i);
      return [dot(2, 3), dot(4, 5), COLORS.nan, COLORS.inf, texts, DATA.value];
    """
    nan, inf, of_nan, of_inf, texts, value = said_by(found.page(), tmp_path, script)
    assert nan == of_nan
    assert inf == of_inf
    assert nan != inf
    assert "x[2, 3] = not a number" in texts[0]
    assert "1 of 160 is not a number" in texts[1]
    assert "2 of 160 are infinite" in texts[1]
    assert value == "nan"


@in_browser
def test_a_page_that_is_cut_says_true_sums(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(_page, "MOST", 300_000)
    page = gpt().page()
    assert len(page.encode()) <= 300_000
    script = """
      const texts = [];
      for (let i = 0; i < EVENTS.length; i++) { goTo(i); texts.push(find("cell").textContent); }
      return [texts, find("notes").textContent];
    """
    texts, notes = said_by(page, tmp_path, script)
    assert "This page holds" in notes
    assert not [text for text in texts if "✗" in text]
    assert any("this page does not hold" in text for text in texts)
    _, bad = said_by(page, tmp_path, EVERY_CELL.replace("EACH", "131"))
    assert bad == []


@in_browser
def test_a_wrong_rule_is_red(tmp_path: Path) -> None:
    class Wrong(fbp.Relu):
        def backward(self, params: Any, x: Any, res: Any, dy: Any) -> Any:
            return (), dy

    model = fbp.Serial(a=fbp.Dense(4, 5), b=Wrong(), c=fbp.Dense(5, 3))
    objective = fbp.Objective(model, fbp.SoftmaxCrossEntropy())
    batch = NUMBERS.normal(size=(8, 4)).astype(np.float32), NUMBERS.integers(0, 3, 8)
    found = fbp.explain(objective, objective.init(jax.random.key(1)), batch)
    script = """
      find("net").children[1].click();
      return [find("proof").className, [...document.querySelectorAll(".row.wrong")].length,
        document.querySelector(".tags .wrong").textContent];
    """
    proof, rows, tag = said_by(found.page(), tmp_path, script)
    assert (proof, rows) == ("wrong", 1)
    assert "WRONG" in tag


@in_browser
def test_a_query_is_picked_by_mouse_and_keys(tmp_path: Path) -> None:
    script = """
      goTo(EVENTS.findLastIndex((event) => ROWS[event.row].kind === "attention"));
      const seen = [];
      const box = document.querySelector(".queries");
      const note = () => {
        const row = shown.p.wrap.querySelector("u.row");
        seen.push([
          find("cell").querySelector(".value").textContent.split(",").slice(0, 2).join(),
          [...box.children].findIndex((each) => each.getAttribute("aria-pressed") === "true"),
          [...box.children].filter((each) => each.tabIndex === 0).length,
          [...box.children].filter((each) => each.style.background).length,
          [parseFloat(row.style.width), Math.round(parseFloat(row.style.top) * shown.p.a.r / 100)],
        ]);
      };
      box.children[2].click(); note();
      for (const key of ["ArrowRight", "ArrowRight", "ArrowLeft"]) {
        document.activeElement === document.body && box.children[2].focus();
        document.activeElement.dispatchEvent(
          new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
        note();
      }
      point(ROWS[EVENTS[step].row], "dq", 0); note();
      return seen;
    """
    seen = said_by(gpt().page("a step", HOSTILE), tmp_path, script)
    # Of a causal model a query sees as many keys as it has a place, and all heads are framed.
    rows = [2, 3, 4, 3]
    expected = [[f"p[0, {i}", i, 1, i + 1, [100, i]] for i in rows]
    assert seen == [*expected, ["dq[0, 0", 0, 1, 1, [100, 0]]]


@in_browser
def test_a_pixel_of_a_map_is_that_of_its_channel(tmp_path: Path) -> None:
    objective = fbp.Objective(fbp.Serial(conv=fbp.Conv2D(3, 2)), fbp.MeanSquaredError())
    x = NUMBERS.normal(size=(2, 14, 5, 3)).astype(np.float32)
    params = objective.init(jax.random.key(0))
    found = fbp.explain(objective, params, (x, np.zeros((2, 14, 5, 2))), prove=False)
    script = """
      goTo(0);
      const canvas = shown.x.wrap.querySelector("canvas");
      const painted = canvas.getContext("2d").getImageData(0, 0, 15, 28).data;
      const box = canvas.getBoundingClientRect();
      // Image 1, row 3, column 4 of the map of channel 2.
      const [i, j] = [14 + 3, 2 * 5 + 4];
      const [wide, high] = [box.width / 15, box.height / 28];
      const at = { clientX: box.left + (j + 0.5) * wide, clientY: box.top + (i + 0.5) * high };
      canvas.dispatchEvent(new PointerEvent("pointerdown", at));
      const texts = [find("cell").querySelector(".value").textContent];
      for (const key of ["ArrowLeft", "ArrowDown"]) {
        canvas.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        texts.push(find("cell").querySelector(".value").textContent);
      }
      point(ROWS[0], "y", 2 * (5 * 7 + 2));  // image 0, pixel (7, 2), channel 0
      const frames = [...shown.x.wrap.querySelectorAll("u")].map((each) => [
        each.style.left, each.style.top, each.style.width, each.style.height].map(parseFloat));
      return [texts, [...painted.slice(4 * (15 * i + j), 4 * (15 * i + j) + 4)],
        color(shown.x.a.v[14 * 15 + 3 * 15 + 4 * 3 + 2], shown.x.a.max), frames];
    """
    texts, painted, color, frames = said_by(found.page(), tmp_path, script)
    assert [text.split(" = ")[0] for text in texts] == [
        *("x[1, 3, 4, 2]", "x[1, 3, 3, 2]", "x[1, 4, 3, 2]"),
    ]
    assert painted[3] == pytest.approx(255 * color[3], abs=1)
    # The window of 3 by 3 pixels, once in the map of each channel.
    expected = [[100 * (5 * c + 1) / 15, 100 * 6 / 28, 20, 300 / 28] for c in range(3)]
    np.testing.assert_allclose(frames, expected, atol=1e-3)
