// Chapter 9: a small GPT, trained when this page was made, and one step of it.
CHAPTERS.gpt = (() => {
  const id = "gpt";
  const gpt = DATA.gpt;
  const wide = gpt.characters.length;
  const p = floats(gpt.p);
  const right = gpt.ids.map((label, t) => p[t * wide + label]);
  const losses = right.map((v) => -Math.log(v));
  let [place_, event] = [losses.indexOf(Math.max(...losses)), 0];
  let timer = null;

  const heading = (text) => place(id, "heading").append(make("h3", {}, text));
  heading("Its training");
  const past = picture(place(id, "room"), { label: "The loss of the small GPT, step by step", x: [0, gpt.steps], y: [0, Math.ceil(Math.max(...gpt.losses))], xName: "steps", yName: "loss", shape: 0.36 });
  const pair = place(id, "two samples");
  for (const [name, text] of [["Before training it writes", gpt.before], ["After training it writes", gpt.after]]) {
    pair.append(make("figure", {}, make("figcaption", {}, name), make("pre", { dir: "auto" }, make("b", {}, gpt.prompt), text)));
  }
  heading("What it expected, letter by letter");
  const chips = place(id, "chips");
  chips.setAttribute("role", "radiogroup");
  chips.setAttribute("aria-label", "The letters of the text, with the loss of each");
  const expected = place(id, "expected");
  const say = saying(id);
  heading("One step, layer by layer");
  const stepper = place(id, "buttons");
  const eventBar = slider(place(id, "bars"), { name: "event", label: "", range: [1, gpt.events.length], step: 1, get: () => event + 1, set: (v) => { event = v - 1; drawEvent(); } });
  const strip = place(id, "events");
  const told = place(id, "said");
  const update = place(id, "update");
  const whole = place(id, "whole");

  const go = (n) => { event = clamp(n, [0, gpt.events.length - 1]); drawEvent(); };
  button(stepper, "← back", () => go(event - 1));
  button(stepper, "next →", () => go(event + 1)).className = "main";
  const play = button(stepper, "▶ play", () => (timer === null ? run() : stop()));
  play.setAttribute("aria-pressed", "false");
  function stop() { clearTimeout(timer); timer = null; play.textContent = "▶ play"; play.setAttribute("aria-pressed", "false"); }
  function run() {
    if (event === gpt.events.length - 1) event = -1;
    play.textContent = "❚❚ stop";
    play.setAttribute("aria-pressed", "true");
    const tick = () => { go(event + 1); if (event < gpt.events.length - 1) timer = setTimeout(tick, calm.matches ? 1500 : 700); else stop(); };
    timer = setTimeout(tick, 0);
  }

  losses.forEach((loss, t) => {
    const chip = make("button", { type: "button", className: "chip" }, token(gpt.tokens[t + 1]), make("i"), make("small", {}, loss.toFixed(2)));
    chip.setAttribute("role", "radio");
    chip.querySelector("i").style.height = `${Math.min(46, 2 + 15 * loss)}px`;
    chip.onclick = () => { place_ = t; drawToken(); };
    chip.onkeydown = (pressed) => {
      const way = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[pressed.key];
      if (!way) return;
      place_ = clamp(place_ + way, [0, losses.length - 1]);
      drawToken();
      letters[place_].focus();
      pressed.preventDefault();
    };
    chips.append(chip);
  });
  const letters = [...chips.children];
  chips.prepend(make("span", { className: "chip", "aria-hidden": "true" }, token(gpt.tokens[0]))); // read, not predicted
  function drawToken() {
    letters.forEach((chip, t) => {
      chip.setAttribute("aria-checked", String(t === place_));
      chip.tabIndex = t === place_ ? 0 : -1;
      chip.setAttribute("aria-label", `${gpt.tokens[t + 1]}, loss ${losses[t].toFixed(2)}`);
    });
    const label = gpt.ids[place_];
    const order = [...Array(wide).keys()].sort((a, b) => p[place_ * wide + b] - p[place_ * wide + a]);
    const first = order.slice(0, 5);
    if (!first.includes(label)) first[4] = label;
    const rows = first.map((c) => {
      const mine = p[place_ * wide + c];
      const bar = make("i");
      bar.style.width = `${Math.max(1, 100 * mine)}px`;
      return make("tr", { className: c === label ? "right" : "" }, make("th", { scope: "row" }, token(gpt.characters[c])), make("td", {}, bar, ` ${mine.toFixed(3)}`),
        make("td", { className: "mono" }, c === label ? "1" : "0"), make("td", { className: "mono" }, number(Number((mine - (c === label ? 1 : 0)).toFixed(3)))));
    });
    const heads = ["next letter", "p, what it expected", "q, what came", "p − q, the gradient"];
    expected.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))), make("tbody", {}, ...rows)));
    const before = gpt.tokens.slice(0, place_ + 1).join("");
    say("After ", token(before.slice(-14)), " the letter ", token(gpt.tokens[place_ + 1]), ` came. The network had given it the probability ${right[place_].toFixed(3)}, so the loss of this letter is −log ${right[place_].toFixed(3)} = ${losses[place_].toFixed(2)}. `,
      "The mean over all letters is the loss of the step, ", number(gpt.value), ".");
  }

  const sizes = gpt.events.map((each) => each[4]);
  const tall = { forward: Math.max(...sizes.filter((_, i) => gpt.events[i][0] !== "backward" && gpt.events[i][0] !== "loss")), backward: Math.max(...sizes.filter((_, i) => gpt.events[i][0] === "backward")) };
  gpt.events.forEach(([kind, name, , , size], i) => {
    const bar = make("i", { className: kind, title: `${i + 1}. ${kind}: ${name}` });
    const part = kind === "loss" ? 1 : Math.sqrt(size / (kind === "backward" ? tall.backward : tall.forward));
    bar.style.height = `${6 + 48 * part}px`;
    bar.onclick = () => go(i);
    strip.append(bar);
  });
  strip.setAttribute("aria-hidden", "true"); // the slider above says the same
  function drawEvent() {
    const [kind, name, cls, rule, size] = gpt.events[event];
    [...strip.children].forEach((bar, i) => { bar.classList.toggle("done", i <= event); bar.classList.toggle("now", i === event); });
    const words = {
      forward: `Forward: the layer ${name} takes its input and gives its output, of size ${number(size)}.`,
      recompute: `Once more: the output of ${name} was not kept, to save memory. It is computed again.`,
      loss: `The loss: ${number(size)}. Here forward turns into backward: p − q is the first gradient.`,
      backward: `Backward: a gradient of size ${number(size)} comes to ${name}. The layer gives the gradients of its parameters and hands the rest on.`,
    };
    told.replaceChildren(make("b", { className: kind }, `${event + 1} of ${gpt.events.length}. `), words[kind], make("br"), make("small", {}, `${cls ? `${cls}: ` : ""}${rule}`));
    eventBar();
  }
  update.append(
    make("p", {}, `The update: each of the ${gpt.size.toLocaleString("en")} parameters goes ${gpt.rate} times its gradient down. That is one step of plain gradient descent. The loss fell by ${number(Number((gpt.value - gpt.then).toPrecision(3)))}, from ${exact(gpt.value)} to ${exact(gpt.then)}, where the gradient foretold a fall of ${number(Number((gpt.value - gpt.expected).toPrecision(3)))}.`),
    make("p", {}, "fbp has compared the rule of each layer, at these very numbers, with gradients that were found by another method, automatic differentiation (autodiff)."),
    ...gpt.proof.map((line) => make("p", { className: gpt.wrong.length ? "bad" : "good" }, `${gpt.wrong.length ? "✗" : "✓"} ${line}`)),
  );
  const open = button(whole, "open this step: every array, every sum", () => {
    const frame = make("iframe", { title: "One step of the small GPT, number by number" });
    frame.src = URL.createObjectURL(new Blob([gpt.page], { type: "text/html" }));
    find(id).after(frame); // not in the chapter, whose words stay in sight
    frame.scrollIntoView();
    open.disabled = true;
  });
  function draw() {
    past.draw(past.line(gpt.losses.map((v, i) => [i, v]), "loss"));
    drawToken();
    drawEvent();
  }
  return { draw, pics: [past], losses, right, go, at: () => [place_, event] };
})();
