// The update: the table of it, and in each layer the steps of its parameters.
const isUpdated = (step) => EVENTS[step].kind === "update";

function openUpdate(box) {
  shown = {};
  if (!isUpdated(step)) {
    box.replaceChildren(make("h2", {}, "update ", make("small", {}, "the optimizer")), make("p", { className: "none" }, "The gradients are not all there yet: the update is the last event."));
    return;
  }
  const { before, after, foretold } = DATA.update;
  const side = (said, value) => make("div", {}, make("small", {}, said), make("span", { className: "mono" }, minus(value)));
  const [fell, wanted] = [before - after, before - foretold].map(Number);
  const share = wanted > 0 && DATA.update.moves ? ` It ${fell < 0 ? "rose" : "fell"} by ${number(Math.abs(fell))}, where the gradient foretold a fall of ${number(wanted)}.` : "";
  const [by, ...law] = DATA.update.by;
  const summary = make(
    "div", { id: "update" },
    make("p", {}, `The backward has said how the loss changes with each parameter. ${DATA.update.moves ? "Now the optimizer makes a step of each gradient and adds it to its parameter." : "Here the optimizer moves none of them, as at the end of a schedule whose rate falls to 0."}`),
    by ? make("p", {}, make("b", {}, "The optimizer: "), by, ".") : null,
    law.length ? make("div", { className: "rule update" }, make("p", {}, "For the gradient d of a parameter p, in step t:"), make("pre", { tabIndex: 0 }, law.join("\n").replace(/-/g, "−"))) : null,
    make("div", { className: "loss" }, `loss ${minus(before)} → ${minus(after)}`),
    make("div", { className: "sides" }, side("before", before), side("after, on the same batch", after), side("foretold by the gradient", foretold)),
    make("p", { className: "soft" }, "Foretold is the loss plus gradient × step, summed over all parameters: true where the loss is straight as far as the step goes. What it is off by is how the loss bends." + share),
  );
  box.replaceChildren(make("h2", {}, "update ", make("small", {}, "the optimizer")), summary, make("h3", { className: "update" }, make("b", {}, "Each parameter; root mean squares")), changes());
}

// Sizes of each parameter, its gradient and its step. A name opens the layer that has it.
function changes() {
  const [first, ...lines] = DATA.update.table;
  const head = first.map((each) => each.replace("change", "step"));
  const most = Math.max(...lines.map((line) => Number(line[4]) || 0), 1e-30);
  const body = make("tbody");
  lines.forEach((line, i) => {
    const place = DATA.update.rows[i];
    const name = place < 0 ? make("span", { className: "mono" }, line[0]) : make("button", { title: `open ${called(ROWS[place])}` }, line[0]);
    if (place >= 0) name.onclick = () => { pinned = place; draw(); };
    const bar = make("span", { className: "size" });
    bar.style.width = `${(90 * (Number(line[4]) || 0)) / most}px`;
    body.append(make("tr", {}, make("td", {}, name), ...line.slice(1).map((each) => make("td", { className: "mono" }, minus(each))), make("td", {}, bar)));
  });
  const table = make("table", { className: "changes" }, make("thead", {}, make("tr", {}, ...head.map((each) => make(each ? "th" : "td", {}, each)), make("td"))), body);
  return make("div", { className: "scroll all", tabIndex: 0, role: "region", "aria-label": "each parameter, root mean squares" }, table);
}

const minus = (text) => text.replace("e-", "e−").replace(/^-/, "−");
// The parameter that "step w", "w after" and "dw in all" are of.
const parameterOf = (name) => name.replace(/^step /, "").replace(/ after$/, "").replace(/^d(.*) in all$/, "$1");

// A step written out: before + step = after, with the gradient it was made of.
function updated(row, ref, k) {
  const p = parameterOf(ref[0]);
  const names = [p, `step ${p}`, `${p} after`, refOf(row, `d${p} in all`) ? `d${p} in all` : `d${p}`];
  const arrays = names.map((name) => arrayOf(row, name));
  const [before, change, after, d] = arrays.map((a) => a && nth(a, k));
  names.forEach((name, n) => { if (shown[name] && arrays[n] && name !== ref[0]) frame(shown[name], Math.floor(k / arrays[n].C), k % arrays[n].C, 1, 1); });
  const term = (value, said) => make("span", { className: "term" }, number(value), make("small", {}, said));
  const line = make("div", { className: "sum added" }, term(before, `${p} before`), "+", term(change, "step"), "=", term(after, `${p} after`));
  const off = Math.abs(before + change - after);
  if (off <= 2 * (EPS[ref[4]] || EPS.float32) * Math.abs(after) + 1e-38) line.append(make("span", { className: "good" }, "✓ equals what the step computed"));
  else if (off >= 0) line.append(make("span", { className: "bad" }, `✗ they are ${number(off)} apart`));
  return [make("p", { className: "soft" }, ref[0].endsWith("in all") ? "This parameter is used in several places: their gradients, added up." : "The optimizer adds a step to the parameter."), line, make("p", { className: "soft" }, reason(change, d, d === undefined ? "" : indexOf(refOf(row, names[3]), k)))];
}

function reason(change, d, name) {
  if (d === undefined || change === undefined) return "This page does not hold the gradient of this one.";
  const gradient = `The gradient here: ${name} = ${number(d)}. `;
  if (DATA.update.rate !== null) return `${gradient}Against it, by the learning rate: step = −${number(DATA.update.rate)} × ${d < 0 ? `(${number(d)})` : number(d)}.`;
  if (!change) return `${gradient}The optimizer leaves this one where it is.`;
  if (!d) return `${gradient}The step comes of what the optimizer remembers of earlier gradients, or of weight decay.`;
  const way = change * d > 0 ? "The step goes along it, as earlier gradients or weight decay say: " : "The step goes against it: ";
  return `${gradient}${way}step / gradient = ${number(change / d)}. This optimizer has such a rate for each number by itself, from the gradients that came before.`;
}

// How many parameters after the step are those before it and the step, and how far they are off.
function updatesComputedAgain(row) {
  let [cells, worst] = [0, 0];
  for (const ref of row.arrays) {
    if (ref[1] !== "update" || !ref[0].endsWith(" after")) continue;
    const p = parameterOf(ref[0]);
    const [before, change, after] = [p, `step ${p}`, ref[0]].map((name) => arrayOf(row, name));
    for (let k = 0; k < after.R * after.C; k++) {
      const off = Math.abs(nth(before, k) + nth(change, k) - nth(after, k));
      if ([before, change, after].some((a) => nth(a, k) === undefined)) continue;
      cells++;
      if (off) worst = Math.max(worst, off / (after.max || 1));
    }
  }
  return [cells, worst];
}
