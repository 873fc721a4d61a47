// The events, the stepper and the network; where one is stands in the address.
let step = 0;
let pinned = null; // a row opened by hand, until the next step
let timer = null;
const LETTERS = { forward: "F", loss: "L", recompute: "R", backward: "B", update: "U" };
const WORDS = {
  forward: "each layer takes x and gives y",
  loss: "how far from the target",
  recompute: "a y that was not kept, made again",
  backward: "each layer takes dy and gives its gradients",
  update: "the optimizer moves each parameter",
};

function saidOf({ kind, row }) {
  const name = called(ROWS[row]);
  if (kind === "forward") return `Forward: ${name} takes x and gives y.`;
  if (kind === "loss") return `Loss = ${DATA.value}: here forward turns into backward. dy says how the loss changes with each number of y.`;
  if (kind === "recompute") return `Recompute: the y of ${name} was not kept, so that its memory was free until now. It is computed again, for the backward that comes next.`;
  if (kind === "update") return `Update: the optimizer moves ${DATA.update.moves ? "each" : "no"} parameter. Loss ${DATA.update.before} → ${DATA.update.after} on the same batch.`;
  return `Backward: ${name} takes dy, the gradient of its y, and gives the gradient of its x${ROWS[row].arrays.some((ref) => ref[1] === "dparams") ? " and of its parameters" : ""}.`;
}

function drawStrip() {
  const strip = find("strip");
  EVENTS.forEach((event, i) => {
    strip.append(make("i", { className: event.kind, title: `${i + 1}. ${event.kind}: ${called(ROWS[event.row])}` }, LETTERS[event.kind]));
  });
  const go = (event) => {
    const box = strip.getBoundingClientRect();
    goTo(Math.floor(((event.clientX - box.left) / box.width) * EVENTS.length));
  };
  strip.onpointerdown = (event) => { strip.setPointerCapture(event.pointerId); go(event); };
  strip.onpointermove = (event) => { if (event.buttons) go(event); };
  strip.setAttribute("aria-valuemin", 1);
  strip.setAttribute("aria-valuemax", EVENTS.length);
  for (const [kind, words] of Object.entries(WORDS)) {
    const count = EVENTS.filter((event) => event.kind === kind).length;
    if (count) find("legend").append(make("span", { className: kind }, make("b", {}, `${LETTERS[kind]} ${kind}`), ` ${count}`, make("span", { className: "words" }, `: ${words}`)));
  }
}

function drawNet() {
  ROWS.forEach((row, i) => {
    const name = make("span", { className: "name" }, row.path ? (i === LOSS ? "loss" : i === UPDATE ? "update" : row.path.split(".").pop()) : row.cls, row.copies > 1 && !row.leaf ? ` [${row.copy}]` : "", " ", make("small", {}, row.cls));
    name.style.paddingLeft = `${8 * row.depth}px`;
    const button = make("button", { className: `row${row.leaf ? "" : " group"}${row.proof && !row.proof[0] ? " wrong" : ""}`, title: called(row) });
    button.append(name, make("span"), make("span"));
    button.onclick = () => { pinned = i; draw(); };
    find("net").append(button);
  });
}

// What of a row's thumbnails is there at a step; they are drawn anew only when that changes.
const drawn = [];
function drawThumbs() {
  ROWS.forEach((row, i) => {
    const state = [step >= row.forward && row.forward >= 0, step >= row.backward && row.backward >= 0];
    const button = find("net").children[i];
    state.forEach((there, side) => {
      if (drawn[i] && drawn[i][side] === there) return;
      const ref = row.arrays.find((each) => each[1] === (side ? "dy" : "y"));
      const value = i === UPDATE ? DATA.update.after : DATA.value; // of the loss, after it or before
      const box = i >= LOSS && side === 0 ? make("span", { className: there ? "thumb" : "thumb empty" }, there ? number(Number(value)) : "") : i === UPDATE ? make("span") : thumb(ref, there);
      button.children[1 + side].replaceWith(box);
    });
    drawn[i] = state;
  });
}

// What is below the head of the page has to know how high that is.
function measure() {
  const set = (name, of) => document.documentElement.style.setProperty(name, `${of.offsetHeight}px`);
  set("--top", document.querySelector("header"));
  set("--above", document.querySelector(".top"));
  find("strip").classList.toggle("many", find("strip").clientWidth < 14 * EVENTS.length);
}

function draw() {
  const open = pinned === null ? EVENTS[step].row : pinned;
  [...find("strip").children].forEach((each, i) => {
    each.classList.toggle("done", i <= step);
    each.classList.toggle("now", i === step);
  });
  const said = `${step + 1} of ${EVENTS.length}. ${saidOf(EVENTS[step])}`;
  find("said").textContent = said;
  measure();
  find("strip").setAttribute("aria-valuenow", step + 1);
  find("strip").setAttribute("aria-valuetext", said);
  drawThumbs();
  [...find("net").children].forEach((each, i) => {
    each.classList.toggle("open", i === open);
    each.setAttribute("aria-current", i === open ? "true" : "false");
  });
  const nav = document.querySelector("nav");
  const button = find("net").children[open];
  if (nav.scrollHeight > nav.clientHeight) {
    nav.scrollTop = button.offsetTop - nav.offsetTop - nav.clientHeight / 2;
  }
  openLayer(ROWS[open], step);
  const layer = pinned === null ? "" : `&layer=${encodeURIComponent(ROWS[pinned].path)}@${ROWS[pinned].copy}`;
  history.replaceState(null, "", `#event=${step + 1}${layer}`);
}

function goTo(n) {
  step = Math.max(0, Math.min(EVENTS.length - 1, n));
  pinned = null;
  draw();
}

function play(on) {
  clearInterval(timer);
  timer = null;
  if (on) {
    if (step === EVENTS.length - 1) goTo(0);
    timer = setInterval(() => (step < EVENTS.length - 1 ? goTo(step + 1) : play(false)), 900);
  }
  find("play").setAttribute("aria-pressed", String(on));
  find("play").textContent = on ? "❚❚ stop" : "▶ play";
}

// Reads the address: #event=12&layer=blocks.attention.qkv@1
function follow() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const n = Number(asked.get("event"));
  if (n >= 1 && n <= EVENTS.length) step = Math.floor(n) - 1;
  const [path, copy] = (asked.get("layer") || "").split("@");
  const row = ROWS.findIndex((each) => each.path === path && each.copy === Number(copy || 0));
  pinned = path && row >= 0 ? row : null;
  draw();
}

function start() {
  readColors();
  find("title").textContent = DATA.title;
  document.title = DATA.title ? `${DATA.title}: one step of backpropagation` : document.title;
  const wrong = DATA.wrong.length > 0;
  find("proof").textContent = DATA.proof.map((line) => `${wrong ? "✗" : "✓"} ${line}`).join(" ");
  find("proof").classList.toggle("wrong", wrong);
  for (const line of DATA.troubles) find("notes").append(make("p", {}, `Note: ${line}.`));
  if (DATA.images) find("notes").append(make("p", {}, "Images stand one below the other, each with a map for every channel side by side."));
  if (DATA.left) find("notes").append(make("p", {}, DATA.left));
  if (DATA.proof.length) find("notes").append(make("p", {}, UNITS));
  find("notes").append(make("p", {}, "Green is above 0, purple below, stronger the larger; each array has its own scale, written below it. Point at a cell, or reach it with Tab and the arrows: the sum that made it is written out, its factors framed. Arrows elsewhere go from event to event, Home and End to the ends, P plays."));
  drawStrip();
  drawNet();
  startTraining();
  addEventListener("resize", () => { draw(); drawTraining(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColors(); drawn.length = 0; draw(); drawTraining(); });
  const by = (amount) => () => { play(false); goTo(step + amount); };
  find("first").onclick = by(-Infinity);
  find("back").onclick = by(-1);
  find("next").onclick = by(1);
  find("last").onclick = by(Infinity);
  find("play").onclick = () => play(timer === null);
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = { ArrowRight: "next", ArrowLeft: "back", Home: "first", End: "last", p: "play", P: "play" };
    if (!keys[event.key]) return;
    find(keys[event.key]).click();
    event.preventDefault();
  });
  addEventListener("hashchange", follow);
  const test = location.hash === "#selftest";
  follow();
  if (test) selftest();
}
