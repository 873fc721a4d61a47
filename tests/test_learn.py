"""The learn page: its steps are fbp's, and all of it can be moved by mouse and by keys."""

import base64
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _chromium import CHROMIUM, Browser
from test_page import HOSTILE, data_of

import fbp
from fbp.cli import main
from fbp.explainer import _learn
from fbp.explainer._learn_fits import RATES, STEPS
from fbp.explainer._learn_fits import curve_fit as curve
from fbp.train import TASKS

CHAPTERS = "neuron", "forward", "loss", "descent", "chain", "worked", "gates", "loop", "gpt"


def in_browser(test: Any) -> Any:
    missing = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
    return pytest.mark.browser(pytest.mark.slow(missing(test)))


@pytest.fixture(scope="module")
def page() -> str:
    """A page whose small GPT has not learned much."""
    return _learn.learn_page(steps=10)


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory: Any) -> Path:
    file = tmp_path_factory.mktemp("learn") / "learn.html"
    file.write_text(page, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def window(tmp_path_factory: Any) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def shown(window: Browser, file: Path) -> Iterator[Browser]:
    """The page, opened anew; at the end its console is silent, and it has asked for nothing."""
    window.window(1280, 900)
    window.console.clear()
    window.requests.clear()
    window.open(file.as_uri())
    yield window
    window.run("1")  # hears what there was to hear
    assert window.console == []
    asked = {url.split("#")[0] for url in window.requests if not url.startswith("blob:")}
    assert asked == {file.as_uri()}


# What the page is made of.


def test_the_trace_is_that_of_gradient_descent() -> None:
    fit = curve()
    x, target = (np.frombuffer(_bytes(fit[name]), "<f4")[:, None] for name in ("x", "target"))
    assert set(x.ravel()) <= set(TASKS["curve"]().train[0].ravel())
    steps = np.frombuffer(_bytes(fit["steps"]), "<f4").reshape(STEPS + 1, -1)
    model = fbp.models.mlp(fit["sizes"])
    objective = fbp.Objective(model, fbp.MeanSquaredError())
    params = objective.init(jax.random.key(0))
    for k in range(STEPS):
        flat = [params.model[layer][name] for layer in ("dense_1", "dense_2") for name in "wb"]
        np.testing.assert_allclose(steps[k], np.concatenate(flat, axis=None), rtol=1e-5, atol=1e-6)
        value, grads = objective.value_and_grad(params, (jnp.asarray(x), jnp.asarray(target)))
        assert fit["losses"][k] == pytest.approx(float(value), rel=1e-5)
        params = jax.tree.map(lambda p, d: p - fit["rate"] * d, params, grads)


def _bytes(letters: str) -> bytes:
    return base64.b64decode(letters)


def test_what_cannot_be_asked_for_with_the_learn_page(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for flags in (["--text", "a"], ["--step", "3"]):
        assert main(["explain", "--html", "learn.html", *flags]) == 2
        assert capsys.readouterr().err.startswith("fbp: --text and --step are of a run")
    Path("learn.html").write_text("mine")
    assert main(["explain", "--html", "learn.html"]) == 2
    assert "it is there already" in capsys.readouterr().err
    assert Path("learn.html").read_text() == "mine"


def test_without_a_file_it_is_the_neuron(capsys: Any) -> None:
    assert main(["explain"]) == 0
    assert "3.61 -> 2.87106" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_makes_one_small_file_that_asks_for_nothing(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["explain", "--html", "learn.html"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert any("a GPT of 7,264 parameters: 500 steps" in line for line in said)
    assert said[-1].startswith("page: learn.html (")
    page = Path("learn.html").read_text("utf-8")
    assert len(page.encode()) < 1_000_000
    assert "://" not in page
    assert page.count("<script") == page.count("</script>") == 2
    gpt = data_of(page)["gpt"]
    assert gpt["losses"][-1] < 0.4 < 2 < gpt["losses"][0]  # it has learned to count
    assert "four, five, six" in gpt["prompt"] + gpt["after"]
    assert abs(gpt["then"] - gpt["expected"]) < 0.2 * (gpt["value"] - gpt["expected"])
    assert gpt["wrong"] == []


# In a browser.


@in_browser
def test_the_page_makes_the_steps_that_fbp_made(shown: Browser, file: Path) -> None:
    shown.open(f"{file.as_uri()}#selftest")
    found = shown.run("({...find('selftest').dataset})")
    sizes = [sum(a * b + b for a, b in ((n, h), (h, o))) for n, h, o in ((1, 16, 1), (2, 24, 2))]
    assert int(found["compared"]) == STEPS * (2 * len(RATES) + sum(sizes))
    assert float(found["worst"]) < 1e-6
    assert float(found["ms"]) < 50


@in_browser
@pytest.mark.parametrize(
    "wrong",
    [
        "neuronStep = (s) => ({ ...whole.neuronStep(s), loss: 1 })",
        "denseBackward = (x, w, dy) => ({ ...whole.denseBackward(x, w, dy), db: matrix(1, w.c) })",
        "meanSquaredError = (y, t) => ({ ...whole.meanSquaredError(y, t), dy: y })",
        "softmaxCrossEntropy = (y, t) => ({ ...whole.softmaxCrossEntropy(y, t), dy: y })",
        "dense = (x, w, b) => whole.dense(x, w, matrix(1, w.c))",
    ],
)
def test_a_wrong_rule_is_seen(wrong: str, shown: Browser) -> None:
    shown.run("whole = { neuronStep, denseBackward, meanSquaredError, softmaxCrossEntropy, dense }")
    shown.run(wrong)
    shown.run("selftest()")
    assert float(shown.run("find('selftest').dataset.worst") or "Infinity") > 1e-4


def button(chapter: str, text: str) -> str:
    buttons = f"[...document.querySelectorAll('#{chapter} button')]"
    return f"{buttons}.find((each) => each.textContent === '{text}')"


def words(shown: Browser, chapter: str) -> str:
    """What a chapter's stage says, with the signs of a keyboard."""
    text = shown.run(f"document.querySelector('#{chapter} .stage').innerText")
    return text.replace("\u2212", "-").replace("\u00d7", "*")


@in_browser
@pytest.mark.parametrize("by", ["mouse", "Enter", " "])
def test_the_worked_example_in_one_click(by: str, shown: Browser) -> None:
    assert "loss 3.61 → ?" in words(shown, "worked")
    if by == "mouse":
        shown.click(button("worked", "one step"))
    else:
        shown.run(f"{button('worked', 'one step')}.focus()")
        shown.press(by)
    said = words(shown, "worked")
    assert "loss 3.61 → 2.87106" in said
    for number in ("= -7.98", "= -3.8", "= 1.0798", "= 0.038"):
        assert number in said
    assert re.search(r"✓ step 1: w and b equal fbp's to 0\.0000000", said)


@in_browser
def test_steps_that_fbp_did_not_make_are_compared_with_none(shown: Browser) -> None:
    rate = "CHAPTERS.worked.state.rate"
    shown.click(button("worked", "one step"))
    shown.run(f"{rate} = 0.1")
    shown.click(button("worked", "one step"))
    shown.run(f"{rate} = 0.01")
    shown.click(button("worked", "one step"))
    assert "fbp" not in words(shown, "worked")
    for _ in range(3):
        shown.click(button("worked", "ten steps"))
    assert "fbp" not in words(shown, "worked")
    shown.click(button("worked", "reset"))
    for _ in range(3):
        shown.click(button("worked", "ten steps"))
    assert f"✓ steps 1 to {STEPS}: w and b equal fbp's to 0.000000" in words(shown, "worked")


@in_browser
def test_a_learning_rate_too_large_diverges(shown: Browser) -> None:
    shown.click(button("worked", "too large a rate"))
    shown.click(button("worked", "ten steps"))
    losses = shown.run("[...CHAPTERS.worked.losses(), neuronStep(CHAPTERS.worked.state).loss]")
    assert len(losses) == 11
    assert all(a < b for a, b in itertools.pairwise(losses))
    assert "This is to diverge" in words(shown, "worked")
    assert "✓ step 10: w and b" in words(shown, "worked")
    for _ in range(70):
        shown.run(f"{button('worked', 'ten steps')}.click()")
    assert "larger than any number that a computer can hold" in words(shown, "worked")
    shown.click(button("worked", "reset"))
    assert "loss 3.61 → ?" in words(shown, "worked")
    # In the chapter on descent, and with whole networks.
    shown.click(button("descent", "too large a rate"))
    shown.click(button("descent", "ten steps"))
    assert "it diverges" in words(shown, "descent")
    for name in ("curve", "spiral"):
        shown.click(button(name, "too large a rate"))
        for _ in range(12):
            shown.click(button(name, "ten steps"))
        first, last = shown.run(f"[FITS.{name}.losses[0], FITS.{name}.loss()]")
        assert last is None or last > first
        assert "nothing to compare with" in words(shown, name)


@in_browser
def test_networks_learn_when_played(shown: Browser) -> None:
    for name, text in (("curve", "bend the line"), ("spiral", "points have the right label")):
        steps = f"FITS.{name}.losses.length"
        shown.click(button(name, "one step"))
        assert re.search(r"✓ step 1: parameters equal fbp's to 0\.0000", words(shown, name))
        play = f"document.querySelector('#{name} [aria-pressed]')"
        shown.click(play)
        shown.until(f"{steps} > 60")
        assert shown.run(f"{play}.getAttribute('aria-pressed')") == "true"
        shown.click(play)
        there = shown.run(steps)
        assert shown.run(f"new Promise((done) => setTimeout(() => done({steps}), 150))") == there
        assert shown.run(f"FITS.{name}.loss() < FITS.{name}.losses[0]")
        said = words(shown, name)
        assert text in said
        assert f"✓ steps 1 to {STEPS}" in said
        shown.run(f"for (let i = 0; i < 1500; i++) FITS.{name}.step(); CHAPTERS.{name}.draw()")
        assert shown.run(f"FITS.{name}.loss()") < {"curve": 0.01, "spiral": 0.1}[name]
        shown.click(button(name, "reset"))
        assert shown.run(steps) == 0


@in_browser
def test_every_handle_by_mouse_and_by_keys(shown: Browser) -> None:
    count = shown.run("document.querySelectorAll('.handle').length")
    assert count == 16
    for i in range(count):
        handle = f"document.querySelectorAll('.handle')[{i}]"
        where = f"{handle}.getAttribute('aria-valuetext')"
        seen = [shown.run(where)]
        x, y = shown.middle(f"{handle}.querySelector(':scope > :last-child')")
        shown.drag(x, y, -30, -20)
        seen.append(shown.run(where))
        shown.run(f"{handle}.focus()")
        for key in ("ArrowRight", "ArrowUp", "ArrowUp"):
            shown.press(key)
            seen.append(shown.run(where))
        assert all(a != b for a, b in itertools.pairwise(seen)), (i, seen)
        number = shown.run(f"Number({handle}.getAttribute('aria-valuenow'))")
        assert np.isfinite(number)


@in_browser
def test_every_slider_by_mouse_and_by_keys(shown: Browser) -> None:
    count = shown.run("document.querySelectorAll('input').length")
    assert count == 22
    for i in range(count):
        bar = f"document.querySelectorAll('input')[{i}]"
        text = f"{bar}.closest('section').innerText"
        seen = [shown.run(text)]
        assert shown.run(f"{bar}.labels.length") == 1
        x, y = shown.middle(bar)
        width = shown.run(f"{bar}.clientWidth")
        shown.drag(x + 0.1 * width, y, 0.04 * width, 0)
        seen.append(shown.run(text))
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
            shown.press(key, 2)
            seen.append(shown.run(text))
        assert all(a != b for a, b in itertools.pairwise(seen)), i


@in_browser
def test_every_button_does_something(shown: Browser) -> None:
    texts = shown.run("[...document.querySelectorAll('.stage button')].map((b) => b.textContent)")
    assert len(texts) > 40
    for i, text in enumerate(texts):
        here = f"buttons[{i}]"
        shown.run("buttons = document.querySelectorAll('.stage button')")
        state = f"{here}.closest('.stage').innerHTML"
        for key in ("mouse", "Enter") if not text.startswith("open") else ("mouse",):
            if text in ("reset", "start again"):
                shown.run(
                    f"(() => {{ const bar = {here}.closest('.stage').querySelector('input');"
                    "bar.value = Number(bar.min) + 0.3 * (bar.max - bar.min);"
                    "bar.dispatchEvent(new Event('input')); })()"
                )
            elif text == "← back":
                shown.run(f"{here}.nextSibling.click()")
            elif "rate" in text:
                shown.run(f"{here}.parentNode.querySelectorAll('button')[3].click()")
            elif shown.run(f"{here}.getAttribute('aria-checked') === 'true'"):
                continue  # chosen already
            before = shown.run(state)
            if key == "mouse":
                shown.click(here)
            else:
                shown.run(f"{here}.focus()")
                shown.press("Enter")
            if shown.run(f"{here}.getAttribute('role') === 'radio'") and key == "Enter":
                continue
            shown.until(f"{state} !== {json.dumps(before)}", 5)
        if shown.run(f"{here}.getAttribute('aria-pressed') === 'true'"):
            shown.click(here)


@in_browser
def test_the_forward_pass_part_by_part(shown: Browser) -> None:
    said = []
    for _ in range(4):
        shown.click(button("forward", "next part"))
        said.append(words(shown, "forward"))
    parts = ("1.5 * 2 = 3", "3 + 1 = 4", "This is the whole forward pass", "Press “next part”")
    for text, part in zip(said, parts, strict=True):
        assert part in text


@in_browser
def test_the_factors_and_the_tangents_move_at_once(shown: Browser) -> None:
    assert "-7.98" in words(shown, "chain")
    handle = "document.querySelector('#chain .handle.of-w')"
    lines = "[...document.querySelectorAll('#chain polyline.backward')]"
    tangents = f"{lines}.map((line) => line.getAttribute('points'))"
    before = shown.run(tangents)
    x, y = shown.middle(f"{handle}.querySelector(':scope > :last-child')")
    shown.drag(x, y, 60, 0)
    after = shown.run(tangents)
    assert all(a != b for a, b in zip(before, after, strict=True))
    s = shown.run("CHAPTERS.chain.state")
    dw = 2 * (s["w"] * s["x"] + s["b"] - s["target"]) * s["x"]
    assert shown.run(f"number({dw})").replace("\u2212", "-") in words(shown, "chain")


@in_browser
def test_a_closed_gate_does_not_learn(shown: Browser) -> None:
    units = "CHAPTERS.gates.state.units.map((u) => [u.w, u.b, u.v])"
    before = shown.run(units)
    assert "Gate 3 is closed" in words(shown, "gates")
    shown.click(button("gates", "ten steps"))
    after = shown.run(units)
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert before[2] == after[2]
    loss = "CHAPTERS.gates.pass().loss"
    assert shown.run(loss) < 0.5
    # The rule beside a small change of each number.
    shown.run("CHAPTERS.gates.state.x = -0.3")
    for name in ("w", "b", "v"):
        for k in range(3):
            at = f"CHAPTERS.gates.state.units[{k}].{name}"
            slope = shown.run(f"CHAPTERS.gates.pass().units[{k}].d{name}")
            moved = shown.run(
                f"(() => {{ {at} += 1e-6; const a = {loss}; {at} -= 2e-6; const b = {loss};"
                f"{at} += 1e-6; return (a - b) / 2e-6; }})()"
            )
            assert moved == pytest.approx(slope, abs=1e-5)


@in_browser
def test_letters_and_events_of_the_small_gpt(shown: Browser) -> None:
    shown.run("document.querySelector('#gpt [role=radio]').focus()")
    shown.click("document.querySelectorAll('#gpt [role=radio]')[2]")
    assert shown.run("CHAPTERS.gpt.at()[0]") == 2
    shown.press("ArrowRight")
    assert shown.run("CHAPTERS.gpt.at()[0]") == 3
    assert shown.run("document.activeElement.getAttribute('aria-checked')") == "true"
    rows = "[...document.querySelectorAll('#gpt .expected tbody tr')].map((r) => r.innerText)"
    for row in shown.run(rows):
        p, q, gradient = (float(n.replace("\u2212", "-")) for n in row.split()[-3:])
        assert p - q == pytest.approx(gradient, abs=2e-3)
    last = shown.run("DATA.gpt.events.length")
    for _ in range(last):
        shown.run(f"{button('gpt', 'next →')}.click()")
    assert f"{last} of {last}." in words(shown, "gpt")
    assert shown.run("document.querySelectorAll('#gpt .events .done').length") == last


@in_browser
def test_the_whole_step_opens_inside(window: Browser, file: Path) -> None:
    window.window(1280, 900)
    window.console.clear()
    window.requests.clear()
    window.open(file.as_uri())
    window.click("[...document.querySelectorAll('#gpt button')].at(-1)")
    window.until("frames.length === 1")
    window.run("document.querySelector('iframe').scrollIntoView({ behavior: 'instant' })")
    for left in (100, 640, 1180):  # nothing lies on it
        assert window.run(f"document.elementFromPoint({left}, 400).tagName") == "IFRAME"
    with window.inside():
        window.until("typeof EVENTS === 'object' && document.readyState === 'complete'")
        for i in range(window.run("EVENTS.length")):
            assert f"{i + 1} of" in window.run("find('said').textContent")
            window.run("find('next').click()")
        window.run("selftest()")
        assert window.run("Number(find('selftest').dataset.worst)") < 1e-5
    assert window.console == []
    assert {url.split(":")[0] for url in window.requests} == {"file", "blob"}


@in_browser
def test_addresses_lead_to_chapters(shown: Browser, file: Path) -> None:
    top = "document.querySelector('section[data-chapter={}]').getBoundingClientRect().top"
    for chapter in CHAPTERS[1:]:
        shown.open(f"{file.as_uri()}#chapter={chapter}")
        assert 0 <= shown.run(top.format(chapter)) < 120 or shown.run(
            "scrollY + innerHeight >= document.documentElement.scrollHeight - 2"
        )
        current = "document.querySelector('nav [aria-current=true]').hash"
        assert shown.run(current) == f"#chapter={chapter}"
    shown.click("document.querySelector('nav a')")
    shown.until("scrollY < 400")
    shown.until("location.hash === '#chapter=neuron'")


@in_browser
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(width: int, theme: str, shown: Browser) -> None:
    shown.window(width, 900, prefers_color_scheme=theme)
    shown.run("new Promise((done) => setTimeout(done, 250))")
    assert shown.run("document.documentElement.scrollWidth") <= width
    wide = shown.run(
        "[...document.querySelectorAll('.stage *')].filter((e) => !e.closest('svg, .wide') &&"
        "e.getBoundingClientRect().right > innerWidth).map((e) => e.outerHTML)"
    )
    assert wide == []
    # Text stands out from its ground, as it should for readers with weak eyes: 4.5 to 1.
    weak = shown.run(CONTRAST)
    assert weak == []


CONTRAST = """(() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => parts(color).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((total, v, i) => total + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (parts(color)[3] !== 0) return color;
    }
  };
  const weak = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.closest("script, .dim, [disabled]")) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(e.closest("svg") ? style.fill : style.color), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) weak.push([e.textContent.slice(0, 30), ratio]);
  }
  return weak;
})()"""


@in_browser
def test_everything_has_a_name_for_a_screen_reader(shown: Browser) -> None:
    tree = shown.send("Accessibility.getFullAXTree")["nodes"]
    found: dict[str, list[str]] = {}
    for node in tree:
        if not node.get("ignored"):
            role = node["role"]["value"]
            found.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    for role in ("slider", "button", "radio", "radiogroup", "link", "navigation", "heading"):
        assert found[role]
        assert all(found[role]), role
    pictures = shown.run("document.querySelectorAll('svg.picture').length")
    assert len([name for name in found["group"] if name]) >= pictures
    said = shown.run("[...document.querySelectorAll('.said')].map((e) => e.textContent)")
    assert all(said)


@in_browser
def test_less_motion_for_those_who_ask_for_it(shown: Browser) -> None:
    shown.window(1280, 900, prefers_reduced_motion="reduce")
    assert shown.run("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    shown.click("document.querySelector('#descent [aria-pressed]')")
    shown.until("CHAPTERS.descent.trail().length === 1")
    wait = "new Promise((done) => setTimeout(() => done(CHAPTERS.descent.trail().length), 600))"
    assert shown.run(wait) == 1


@in_browser
def test_a_hostile_title_stays_text(window: Browser, page: str, tmp_path: Path) -> None:
    title = "".join(HOSTILE)
    data = data_of(page) | {"title": title}
    data["gpt"] |= {"before": title, "prompt": HOSTILE[0], "sentences": [title]}
    for i, text in enumerate(HOSTILE):
        data["gpt"]["tokens"][i] = text
    made = _learn.filled("learn/learn.html", _learn.STYLES, _learn.SCRIPTS, data)
    assert made.count("<script") == made.count("</script>") == 2
    file = tmp_path / "hostile.html"
    file.write_text(made, encoding="utf-8")
    window.console.clear()
    window.open(file.as_uri())
    assert window.run("find('title').textContent") == title
    assert window.run("document.scripts.length") == 2
    assert window.run("document.title") != "no"
    assert HOSTILE[0] in window.run("document.querySelector('#gpt .stage').textContent")
    assert window.console == []
