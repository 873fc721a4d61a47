// Sliders, buttons and what plays; each chapter has its own, and draws itself anew at each change.
const CHAPTERS = {}; // by name: {draw, fit, selftest}
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const stageOf = (id) => document.querySelector(`#${id} .stage`);
// A box of a chapter's stage.
function place(id, kind) {
  const box = make("div", { className: kind });
  stageOf(id).append(box);
  return box;
}
// Says in words what the picture shows; a screen reader is told when it rests.
let resting = null;
function saying(id) {
  const box = make("p", { className: "said" });
  stageOf(id).append(box);
  return (...parts) => {
    box.replaceChildren(...parts);
    clearTimeout(resting);
    resting = setTimeout(() => { if (box.contains(document.activeElement) || stageOf(id).contains(document.activeElement)) find("told").textContent = box.textContent; }, 700);
  };
}

// A slider with its name and its number; with `log`, steps are as large as the number is.
function slider(box, { name, label, range: [low, high], step, get, set, log }) {
  const id = `slider${document.querySelectorAll("input").length}`;
  const bar = make("input", { type: "range", id });
  const to = log ? Math.log10 : (v) => v;
  const from = log ? (v) => Number((10 ** v).toPrecision(3)) : (v) => v;
  Object.assign(bar, { min: to(low), max: to(high), step: step || "any" });
  const shown = make("output", { htmlFor: id });
  bar.oninput = () => set(from(Number(bar.value)));
  box.append(make("div", { className: "slider" }, make("label", { htmlFor: id }, make("b", {}, name), ` ${label}`), bar, shown));
  return () => {
    bar.value = to(get());
    shown.textContent = number(Number(get().toPrecision(3)));
    bar.setAttribute("aria-valuetext", number(get()));
  };
}

function button(box, text, run) {
  const made = make("button", { type: "button" }, text);
  made.onclick = run;
  box.append(made);
  return made;
}

// The buttons of everything that learns: one step, ten steps, play, reset, and rates to choose.
function learning(box, { step, reset, pause = 250, rates = [] }) {
  const row = make("div", { className: "buttons" });
  box.append(row);
  let timer = null;
  const stop = () => {
    clearTimeout(timer);
    timer = null;
    play.textContent = "▶ play";
    play.setAttribute("aria-pressed", "false");
  };
  const go = () => {
    if (step(calm.matches ? "calm" : "play")) timer = setTimeout(go, calm.matches ? 900 : pause);
    else stop();
  };
  button(row, "one step", () => { stop(); step("one"); }).className = "main";
  button(row, "ten steps", () => { stop(); step("ten"); });
  const play = button(row, "▶ play", () => {
    if (timer !== null) return stop();
    play.textContent = "❚❚ stop";
    play.setAttribute("aria-pressed", "true");
    timer = setTimeout(go, 0);
  });
  play.setAttribute("aria-pressed", "false");
  button(row, "reset", () => { stop(); reset(); });
  for (const [text, run] of rates) button(row, text, () => { stop(); run(); });
  return { stop, playing: () => timer !== null };
}
// How many steps a button or a tick of play takes, of at most so many more.
const counted = (how, quick, slow) => ({ one: 1, ten: 10, play: quick, calm: slow }[how]);

// A written-out line: numbers in boxes with signs between them.
const term = (text, kind = "", note) => make("span", { className: `term ${kind}` }, text, note ? make("small", {}, note) : null);
const bracketed = (v) => (v < 0 ? `(${number(v)})` : number(v));
const rounded = (v) => exact(Number(v.toPrecision(3)));
// A very small number, written out to its first digit.
const tiny = (v) => (v < 1e-12 ? "0" : v.toFixed(Math.max(1, Math.ceil(-Math.log10(v)))));
const exact = (v) => (Number.isFinite(v) ? String(Number(v.toPrecision(6))).replace("-", "−").replace("e+", "e") : number(v));
