// The whole run that the step is of: its loss, gradients, steps and answers at each checkpoint.
const OVER = DATA.training;
let chosen = 0; // the checkpoint

// Colours of classes that can be told apart by those who see fewer; more classes have them again.
const HUES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#777777"];
const hue = (k) => HUES[k % HUES.length];

function startTraining() {
  if (!OVER) return;
  const last = OVER.steps.length - 1;
  const slider = make("input", { type: "range", id: "checkpoint", min: "0", max: String(last), step: "1" });
  slider.oninput = () => { chosen = Number(slider.value); drawTraining(); };
  // The keys of the slider are its own, not those of the events above.
  slider.onkeydown = (event) => { if (/^(Arrow|Home|End|Page)/.test(event.key)) event.stopPropagation(); };
  const some = OVER.steps.length < OVER.there ? `${OVER.steps.length} of its ${OVER.there} checkpoints` : `${OVER.steps.length} checkpoints`;
  const section = find("training");
  section.hidden = false;
  section.append(
    make("h2", {}, "Over training ", make("small", {}, `the whole run, at ${some}`)),
    make("p", {}, "Above is one step; training repeats it. Move the slider to see the same examples at other times of this run: how large their gradients were, and what the optimizer would have made of them.", OVER.answers ? " And what the network answered then." : ""),
    make("div", { className: "slider" }, make("label", { htmlFor: "checkpoint" }, "checkpoint"), slider, make("output", { id: "when", htmlFor: "checkpoint" })),
    make("div", { className: "panels" }, lossPanel(), answersPanel(), sizesPanel()),
  );
  const below = make("button", { id: "below", title: "to what is below" }, "the whole run ↓");
  below.onclick = () => { section.scrollIntoView({ block: "start" }); slider.focus({ preventScroll: true }); };
  find("legend").append(below);
  chosen = OVER.explained === null ? last : OVER.explained;
  slider.value = String(chosen);
  drawTraining();
}

function drawTraining() {
  if (!OVER) return;
  const [step, value] = [OVER.steps[chosen], OVER.values[chosen]];
  const said = `step ${step.toLocaleString("en")} of ${OVER.steps.at(-1).toLocaleString("en")}; loss of the examples above ${number(value)}${chosen === OVER.explained ? ", the step above" : ""}`;
  find("checkpoint").setAttribute("aria-valuetext", said);
  find("when").textContent = said;
  drawLoss();
  drawSizes();
  drawAnswers();
}

const panel = (title, ...parts) => make("div", { className: "panel" }, make("h3", {}, title), ...parts);

// A canvas of so many pixels of the page, and its context, sharp on every screen.
function sheet(id, wide, high) {
  const canvas = find(id);
  const sharp = Math.max(1, window.devicePixelRatio || 1);
  Object.assign(canvas, { width: wide * sharp, height: high * sharp });
  Object.assign(canvas.style, { width: `${wide}px`, height: `${high}px` });
  const context = canvas.getContext("2d");
  context.scale(sharp, sharp);
  context.font = "11px ui-monospace, 'DejaVu Sans Mono', monospace";
  return context;
}
const picture = (id) => make("canvas", { id, role: "img" });
const room = (most) => Math.max(220, Math.min(most, find("training").clientWidth - 30));

// Places on a sheet, from the lowest to the highest number; on a log scale where that says more.
function axis(values, from, to) {
  const known = values.filter((v) => v !== null);
  let [low, high] = [Math.min(...known), Math.max(...known)];
  const isLog = low > 0 && high > 10 * low;
  const of = isLog ? Math.log : (v) => v;
  if (low === high) [low, high] = [low - 1, high + 1];
  const place = (v) => from + ((of(v) - of(low)) / (of(high) - of(low))) * (to - from);
  return Object.assign(place, { low, high, isLog });
}

function stroke(context, points, color, wide = 1.8) {
  context.beginPath();
  let pen = false;
  for (const [x, y] of points) {
    if (Number.isFinite(y)) pen ? context.lineTo(x, y) : context.moveTo(x, y);
    pen = Number.isFinite(y);
  }
  Object.assign(context, { strokeStyle: color, lineWidth: wide });
  context.stroke();
}

function disc(context, x, y, radius, fill, edge) {
  context.beginPath();
  context.arc(x, y, radius, 0, 7);
  context.fillStyle = fill;
  context.fill();
  if (edge) { Object.assign(context, { strokeStyle: edge, lineWidth: 1 }); context.stroke(); }
}

// The loss.

function lossPanel() {
  const canvas = picture("losses");
  const choose = (event) => {
    const box = canvas.getBoundingClientRect();
    const wanted = OVER.place.inverse(event.clientX - box.left);
    chosen = OVER.steps.reduce((best, step, i) => (Math.abs(step - wanted) < Math.abs(OVER.steps[best] - wanted) ? i : best), 0);
    find("checkpoint").value = String(chosen);
    drawTraining();
  };
  canvas.onpointerdown = choose;
  canvas.onpointermove = (event) => { if (event.buttons) choose(event); };
  const held = OVER.logged.some((line) => line[2] !== null);
  const legend = make("div", { className: "key" }, swatch("--forward"), "loss of the run in training ", ...(held ? [swatch("--backward"), "loss on held-out examples "] : []), make("div", { id: "there" }));
  return panel("The loss", canvas, legend);
}

function drawLoss() {
  const [wide, high] = [room(420), 220];
  const context = sheet("losses", wide, high);
  const values = OVER.logged.flatMap((line) => line.slice(1)).filter((v) => v !== null);
  if (!values.length) return;
  const last = Math.max(OVER.logged.at(-1)[0], OVER.steps.at(-1), 1);
  const [left, right, top, bottom] = [62, wide - 12, 10, high - 22];
  const x = (step) => left + (step / last) * (right - left);
  OVER.place = { inverse: (px) => ((px - left) / (right - left)) * last };
  const y = axis(values, bottom, top);
  context.fillStyle = css("--soft");
  Object.assign(context, { textAlign: "right", textBaseline: "middle" });
  for (const v of [y.low, y.high]) context.fillText(number(Number(v.toPrecision(3))), left - 6, y(v));
  Object.assign(context, { textAlign: "center", textBaseline: "top" });
  context.fillText("step 0", left + 10, bottom + 7);
  context.fillText(last.toLocaleString("en"), right - 14, bottom + 7);
  stroke(context, [[left, top], [left, bottom], [right, bottom]], css("--line"), 1);
  const curve = (side) => OVER.logged.filter((line) => line[side] !== null).map((line) => [x(line[0]), y(line[side])]);
  const here = x(OVER.steps[chosen]);
  stroke(context, [[here, top], [here, bottom]], css("--text"), 1.5);
  const dots = [[1, "--forward"], [2, "--backward"]].map(([side, color]) => {
    stroke(context, curve(side), css(color));
    const near = nearest(side);
    if (near) disc(context, x(near[0]), y(near[side]), 4.5, css(color), css("--ground"));
    return near;
  });
  const [loss, held] = dots;
  const said = `the run's loss at step ${OVER.steps[chosen]}: ${loss ? number(loss[1]) : "?"}${held ? `, held out ${number(held[2])}` : ""}${y.isLog ? "; log scale" : ""}`;
  find("there").textContent = said;
  find("losses").setAttribute("aria-label", `the loss by step; ${said}`);
}

// The logged line nearest to the checkpoint that has a number on this side.
function nearest(side) {
  const step = OVER.steps[chosen];
  const known = OVER.logged.filter((line) => line[side] !== null);
  return known.reduce((best, line) => (best === null || Math.abs(line[0] - step) < Math.abs(best[0] - step) ? line : best), null);
}

// Gradients and steps, by checkpoint and parameter.

const STRIP = innerWidth < 600 ? 76 : 150;
function sizesPanel() {
  const body = make("tbody");
  OVER.names.forEach((name, p) => {
    const cells = ["gradients", "changes"].flatMap((side) => [make("td", { className: "mono" }), make("td", {}, strip(side, p))]);
    body.append(make("tr", {}, make("td", { className: "mono" }, name), ...cells));
  });
  const head = ["", "gradient", "over the run", "step", "over the run"].map((each) => make(each ? "th" : "td", {}, each));
  const table = make("table", { id: "sizes" }, make("thead", {}, make("tr", {}, ...head)), body);
  const words = ["gradients", "changes"].map((side) => {
    const [low, high] = span(side);
    return `${side === "changes" ? "steps" : side} from ${number(low)} to ${number(high)}`;
  });
  return panel(
    "How large the gradients and the steps are",
    make("p", { className: "soft" }, `Root mean squares of these examples at each checkpoint, on a log scale, stronger the larger: ${words.join(", ")}. The numbers are those of the checkpoint chosen.`),
    make("div", { className: "scroll all", tabIndex: 0, role: "region", "aria-label": "sizes of gradients and steps" }, table),
  );
}

// The least above 0 and the largest of all.
function span(side) {
  const all = OVER[side].flat().filter((v) => v > 0);
  return all.length ? [Math.min(...all), Math.max(...all)] : [1, 1];
}

function strip(side, p) {
  const canvas = make("canvas", { width: OVER.steps.length, height: 1, role: "img" });
  canvas.style.width = `${STRIP}px`;
  canvas.setAttribute("aria-label", `from ${number(OVER[side][p][0])} to ${number(OVER[side][p].at(-1))}`);
  const mark = make("i");
  mark.style.width = `${STRIP / OVER.steps.length}px`;
  const box = make("div", { className: "strip" }, canvas, mark);
  box.style.width = `${STRIP + 2}px`;
  return box;
}

function drawSizes() {
  [...find("sizes").tBodies[0].rows].forEach((row, p) => {
    ["gradients", "changes"].forEach((side, n) => {
      row.cells[1 + 2 * n].textContent = number(OVER[side][p][chosen]);
      const [box] = row.cells[2 + 2 * n].children;
      box.lastChild.style.left = `${(STRIP * chosen) / OVER.steps.length}px`;
      const context = box.firstChild.getContext("2d");
      context.clearRect(0, 0, OVER.steps.length, 1);
      const [low, high] = span(side);
      OVER[side][p].forEach((v, i) => {
        if (!v && v !== null) return;
        const share = high > low ? Math.log(v / low) / Math.log(high / low) : 1;
        context.globalAlpha = v === null ? 1 : 0.06 + 0.94 * share;
        context.fillStyle = css(v === null ? "--nan" : n ? "--update" : "--backward");
        context.fillRect(i, 0, 1, 1);
      });
    });
  });
}

// What the network answers.

function answersPanel() {
  const of = OVER.answers;
  if (!of) return null;
  if (of.kind === "samples") {
    const some = of.at.length < OVER.steps.length ? `${of.at.length} of the ${OVER.steps.length} checkpoints write; here is the one nearest to the slider. ` : "";
    return panel("What it writes", make("p", { className: "soft" }, `${some}After the first tokens of the text above it goes on with the likeliest one each time.`), make("pre", { id: "written", tabIndex: 0 }), make("div", { className: "key", id: "by" }));
  }
  if (of.kind === "curve") return panel("What it answers", picture("answers"), make("div", { className: "key" }, swatch("--soft"), "examples ", swatch("--forward"), "its answer "), make("div", { className: "key", id: "by" }));
  const legend = make("div", { className: "key" }, `${of.target}: `);
  of.classes.forEach((label, k) => {
    const mark = make("i");
    mark.style.background = hue(k);
    legend.append(mark, token(label), " ");
  });
  return panel("What it answers, where", picture("answers"), legend, make("div", { className: "key", id: "by" }));
}

function drawAnswers() {
  const of = OVER.answers;
  if (!of) return;
  if (of.kind === "samples") return drawSample(of);
  const [wide, high] = [room(300), 260];
  const context = sheet("answers", wide, high);
  const [left, right, top, bottom] = [46, wide - 8, 8, high - 34];
  const regions = of.kind === "regions";
  const [lows, highs] = regions ? [of.low, of.high] : ends(of);
  const x = (v) => left + ((v - lows[0]) / (highs[0] - lows[0] || 1)) * (right - left);
  const y = (v) => bottom - ((v - lows[1]) / (highs[1] - lows[1] || 1)) * (bottom - top);
  if (regions) {
    context.globalAlpha = 0.4;
    context.imageSmoothingEnabled = false;
    context.drawImage(plane(of), left, top, right - left, bottom - top);
    context.globalAlpha = 1;
  }
  of.points.forEach(([p, q], n) => disc(context, x(p), y(q), regions ? 3 : 2, regions ? hue(of.labels[n]) : css("--soft"), regions && css("--ground")));
  if (!regions) stroke(context, of.x.map((v, n) => [x(v), of.y[chosen][n] === null ? NaN : y(of.y[chosen][n])]), css("--forward"), 2.5);
  stroke(context, [[left, top], [left, bottom], [right, bottom]], css("--line"), 1);
  context.fillStyle = css("--soft");
  Object.assign(context, { textAlign: "right", textBaseline: "middle" });
  context.fillText(short(highs[1]), left - 4, top + 5);
  context.fillText(short(lows[1]), left - 4, bottom - 4);
  Object.assign(context, { textAlign: "left", textBaseline: "top" });
  context.fillText(short(lows[0]), left, bottom + 5);
  context.textAlign = "right";
  context.fillText(short(highs[0]), right, bottom + 5);
  context.textAlign = "center";
  context.fillText(of.names[0], (left + right) / 2, bottom + 18, right - left);
  Object.assign(context, { textAlign: "left", textBaseline: "top" });
  context.fillText(regions ? of.names[1] : of.names[1], left + 5, top, right - left);
  const said = `at step ${OVER.steps[chosen]}: ${regions ? shares(of) : reached(of)}`;
  find("by").textContent = said;
  find("answers").setAttribute("aria-label", said);
}

// The regions with a dot for each place, the lowest row at the bottom.
function plane(of) {
  const canvas = make("canvas", { width: of.side, height: of.side });
  const context = canvas.getContext("2d");
  [...of.grids[chosen]].forEach((letter, n) => {
    context.fillStyle = hue(parseInt(letter, 36));
    context.fillRect(n % of.side, of.side - 1 - Math.floor(n / of.side), 1, 1);
  });
  return canvas;
}

const short = (v) => number(Number(v.toPrecision(3)));

// The lowest and highest of a curve at all checkpoints, which stay as the slider moves.
function ends(of) {
  const ys = [...of.points.map((point) => point[1]), ...of.y.flat()].filter((v) => v !== null);
  return [[of.x[0], Math.min(...ys)], [of.x.at(-1), Math.max(...ys)]];
}

// How much of the picture each class has.
function shares(of) {
  const counts = of.classes.map((_, k) => [...of.grids[chosen]].filter((letter) => parseInt(letter, 36) === k).length);
  return of.classes.map((label, k) => `${label} has ${Math.round((100 * counts[k]) / of.grids[chosen].length)} % of the picture`).slice(0, 6).join(", ");
}
const reached = (of) => `answers from ${number(Math.min(...of.y[chosen].filter((v) => v !== null)))} to ${number(Math.max(...of.y[chosen].filter((v) => v !== null)))}`;

function drawSample(of) {
  const n = of.at.reduce((best, at, i) => (Math.abs(at - chosen) < Math.abs(of.at[best] - chosen) ? i : best), 0);
  const blank = of.texts[n].trim() ? null : make("i", {}, of.texts[n] ? " (white space alone)" : " (nothing)");
  find("written").replaceChildren(make("b", {}, of.prompt), of.texts[n], ...(blank ? [blank] : []));
  find("by").textContent = `written at step ${OVER.steps[of.at[n]].toLocaleString("en")}; what it was given is bold`;
}
