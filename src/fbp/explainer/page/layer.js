// A layer opened: its rule, its arrays, and the cell pointed at written out.
const EPS = { float32: 2 ** -23, float64: 2 ** -23, bfloat16: 2 ** -7, float16: 2 ** -10 };
const SHOWN = 5; // the terms of a sum that are shown, the largest ones
let shown = {}; // the tiles on the page, by name
// The arrays that the forward has; x and the parameters are there before it.
const GIVEN = ["x", "params"];
const FORWARD = [...GIVEN, "made", "y", "inner y", "res", "target", "z", "p - q", "1/n"];

function openLayer(row, step) {
  const box = find("layer");
  const place = ROWS.indexOf(row);
  if (place === UPDATE) return openUpdate(box);
  const kind = EVENTS[step].row === place ? EVENTS[step].kind : "";
  const forward = row.forward >= 0 && step >= row.forward;
  const backward = row.backward >= 0 && step >= row.backward;
  const title = make("h2", {}, place === LOSS ? `loss = ${DATA.value} ` : `${called(row)} `, make("small", {}, row.cls));
  box.replaceChildren(title, tags(row), rule(row, kind));
  const cell = make("div", { id: "cell", "aria-live": "polite", tabIndex: 0, role: "region", "aria-label": "the number that was chosen, written out" });
  box.append(cell);
  const picks = make("div");
  box.append(picks);
  shown = {};
  const there = forward ? FORWARD : GIVEN;
  const before = row.arrays.filter((ref) => there.includes(ref[1]));
  const after = row.arrays.filter((ref) => ![...FORWARD, "update"].includes(ref[1]));
  if (place === LOSS && forward && row.rows.length) box.append(byRow(row));
  section(box, row, "forward", forward ? "Forward" : "Forward: y is not computed yet", before);
  if (row.kind === "attention" && forward) picks.append(queries(row));
  const turn = "Backward begins here: dy goes to the last layer";
  const through = "Backward: the upstream gradient dy comes in, the others go out";
  if (backward) section(box, row, "backward", place === LOSS ? turn : through, after);
  else if (row.backward >= 0) box.append(make("p", { className: "none" }, "The backward has not come here yet."));
  else box.append(make("p", { className: "none" }, "No gradient comes through here."));
  const steps = isUpdated(step) ? row.arrays.filter((ref) => ref[1] === "update") : [];
  section(box, row, "update", "Update: the optimizer adds a step to each parameter", steps);
  if (row.note) box.append(make("p", { className: "none" }, row.note));
  const best = ["dw", "db", "dx", "dq", "dy"].find((name) => backward && kind !== "forward" && kind !== "recompute" && shown[name] && shown[name].a.v.some(Boolean));
  const kept = keptCell(row);
  if (kept) return point(row, ...kept);
  const first = (kind === "loss" && shown.dy && "dy") || (steps.length && steps[0][0]) || best || (shown.y ? "y" : Object.keys(shown)[0]);
  if (first) point(row, first, largest(shown[first].a));
}

// The layer that an array came from or goes to, which has the same numbers; a click opens it.
function address(row, ref) {
  const ways = { x: ["y", -1, "from"], dx: ["dy", -1, "to"], y: ["x", 1, "to"], dy: ["dx", 1, "from"] };
  const [other, way, said] = ways[ref[1]] || [];
  if (!other || ROWS.indexOf(row) === UPDATE) return null;
  if (ROWS.indexOf(row) === LOSS) {
    // The loss has the y of the model, and its dy.
    if (!["y", "dy"].includes(ref[1])) return null;
    return link(ref[1] === "y" ? "from" : "to", ROWS.findLast((each, i) => i < LOSS && each.leaf && each.arrays.some((one) => one[1] === ref[1] && one[2] === ref[2])));
  }
  // What is added to what goes past: the layer that adds is one that this one is inside.
  const adds = ROWS.findLast((each, i) => i < ROWS.indexOf(row) && each.arrays.some((one) => one[1] === `inner ${ref[1]}` && one[2] === ref[2]));
  if (adds) return link(said, adds);
  for (let i = ROWS.indexOf(row) + way; i >= 0 && i <= LOSS; i += way) {
    const same = ROWS[i].arrays.some((one) => one[1] === (i === LOSS ? ref[1] : other) && one[2] === ref[2]);
    if (same && (ROWS[i].leaf || ROWS[i].kind === "residual")) return link(said, ROWS[i]);
  }
  return null;
}

function link(said, row) {
  if (!row) return null;
  const button = make("button", { className: "address", title: `open ${called(row)}` }, row === ROWS[LOSS] ? "the loss" : called(row).split(".").pop());
  button.onclick = () => { pinned = ROWS.indexOf(row); draw(); };
  return make("div", { className: "scale" }, `${said} `, button);
}

function section(box, row, kind, text, refs) {
  if (!refs.length) return;
  const tiles = make("div", { className: "tiles" });
  box.append(make("h3", { className: kind }, make("b", {}, text)), tiles);
  for (const ref of refs) {
    const made = tile(ref, kind, (k) => choose(row, ref[0], k), refs.length > 7, address(row, ref));
    shown[ref[0]] = made;
    tiles.append(made.figure);
  }
}

const UNITS = "Autodiff is how JAX itself finds a derivative from the forward alone. A unit of rounding is the relative distance of neighbouring numbers: 1.2e−7 in float32.";
function tags(row) {
  const box = make("div", { className: "tags" });
  if (row.proof) {
    const [good, said] = row.proof;
    box.append(make("span", { className: good ? "good" : "wrong", title: UNITS }, `${good ? "✓" : "✗"} ${said}`));
  }
  if (row.leaf && ROWS.indexOf(row) !== LOSS) {
    if (row.again >= 0) box.append(make("span", {}, "y is not kept: the backward computes it again"));
    const kept = row.arrays.filter((ref) => ref[1] === "res").length;
    if (kept) box.append(make("span", {}, `keeps ${kept} ${kept > 1 ? "arrays" : "array"} for its backward`));
  }
  return box;
}

// The rule as its docstring has it; the equations of the direction that is at work are lit.
function rule(row, kind) {
  const [sentence, ...lines] = DATA.rules[row.rule];
  const box = make("div", { className: `rule ${kind || "idle"}` });
  if (!sentence) return make("p", { className: "none" }, "This layer's class has no docstring to show a rule from.");
  const pre = make("pre", { tabIndex: 0 });
  let lit = false;
  for (const line of aligned(lines)) {
    if (/^\s*[\w, [\]{}'-]+?\s*=/.test(line)) {
      const back = /^\s*d[a-z]/.test(line);
      lit = kind === "loss" || (back ? kind === "backward" : kind === "forward" || kind === "recompute");
    }
    pre.append(make("span", { className: lit ? "lit" : "" }, `${line}\n`));
  }
  box.append(make("p", {}, sentence));
  if (lines.length) box.append(pre);
  return box;
}

// What stands in a second column, as words beside an equation, near to the first.
function aligned(lines) {
  const parts = lines.map((line) => line.match(/^(\s*\S.*?) {3,}([^ =].*)$/));
  const wide = Math.max(...parts.map((each) => (each ? each[1].length : 0)));
  return lines.map((line, i) => (parts[i] ? `${parts[i][1].padEnd(wide)}   ${parts[i][2]}` : line));
}

function largest(a) {
  let best = 0;
  for (let i = 1; i < a.v.length; i++) if (Math.abs(a.v[i]) > Math.abs(a.v[best]) || Number.isNaN(a.v[best])) best = i;
  return Math.floor(best / a.c) * a.C + (best % a.c);
}

// A cell that was chosen by hand stays chosen from event to event, a parameter's as its gradient and
// its step.
let chosenCell = null;
function choose(row, name, k) {
  chosenCell = { row, name, k };
  point(row, name, k);
}
function keptCell(row) {
  if (!chosenCell || chosenCell.row !== row) return null;
  const { name, k } = chosenCell;
  const p = [parameterOf(name), name.replace(/^d/, "")].find((each) => (refOf(row, each) || [])[1] === "params");
  const names = p && name !== "dx" ? [`step ${p}`, `d${p}`, p] : [name];
  const there = names.find((each) => shown[each]);
  return there ? [there, k] : null;
}

// Writes out a cell and frames it and the factors that made it.
function point(row, name, k) {
  const ref = refOf(row, name);
  const a = ARRAYS[ref[2]];
  const value = nth(a, k);
  for (const old of document.querySelectorAll(".wrap u")) old.remove();
  shown[name].at(k);
  frame(shown[name], Math.floor(k / a.C), k % a.C, 1, 1, "me");
  const sum = ref[1] === "update" ? undefined : sumOf(row, name, k);
  const frames = sum && (typeof sum.frames === "function" ? sum.frames() : sum.frames);
  for (const [of, ...where] of frames || []) if (shown[of]) frame(shown[of], ...where);
  const where = tokenOf(Math.floor(k / a.C), a.R);
  const head = make("p", {}, make("span", { className: "value" }, `${indexOf(ref, k)} = ${number(value)}`));
  if (where !== undefined && !/params|update/.test(ref[1])) head.append("  at ", token(where));
  const parts = ref[1] === "update" ? updated(row, ref, k) : sum ? written(sum, value, ref) : [make("p", { className: "soft" }, alone(row, ref))];
  if (sum && sum.toward !== undefined) {
    const other = tokenOf(sum.toward, a.R);
    if (other !== undefined) head.append(" toward ", token(other));
  }
  const gate = row.cls === "Relu" && name === "dx" ? closed(row, k) : null;
  find("cell").replaceChildren(head, ...parts, ...(gate ? [gate] : []));
  if (row.kind === "attention") lightQuery(row, name, k);
  if (row.kind === "gates") lightStep(row, name, k);
}

// Of a ReLU: how many gates are closed, and one of them.
function closed(row, k) {
  const [dy, local, dx] = ["dy", "local", "dx"].map((name) => arrayOf(row, name));
  if (!dy || !local) return null;
  const shut = [...local.v.keys()].filter((n) => local.v[n] === 0);
  const n = shut.find((each) => dy.v[each] !== 0);
  const said = `${local.r * local.c < local.R * local.C ? "Of what is here, " : ""}${shut.length} of ${local.v.length} gates are closed, where x is not above 0`;
  const where = n === undefined ? null : Math.floor(n / local.c) * local.C + (n % local.c);
  if (where === null || where === k) return make("p", { className: "soft" }, `${said}.`);
  const index = indexOf(refOf(row, "dx"), where);
  const button = make("button", { className: "address", title: `to ${index}` }, index);
  button.onclick = () => choose(row, "dx", where);
  return make("p", { className: "soft" }, `${said}: `, button, ` = ${number(dy.v[n])} × 0 = ${number(nth(dx, where))}.`);
}

function alone(row, ref) {
  const side = ref[1];
  if (side === "x") return "Given: what the layer before gave, or the data.";
  if (side === "params") return "A parameter: what training changes.";
  if (side === "target") return "Given: what should have come out.";
  if (ref[0] === "kept top") return "Kept: the largest score of a query under a head. From it and part, p is computed again.";
  if (ref[0] === "kept part") return "Kept: 1 / sum of exp(s − top) over the keys of a query. From it and top, p is computed again.";
  if (side === "res") return "Kept by the forward for the backward.";
  if (side === "dy" && ROWS.indexOf(row) !== LOSS) return "The upstream gradient: how the loss changes with this number of y.";
  if (side === "made" || side === "dmade") return "Computed on the way, and not kept.";
  if (side.startsWith("inner")) return "From the layers inside.";
  if (side === "1/n") return "The share of this row in the loss.";
  if (side === "z") return "The score of this label: y times its weights.";
  if (side === "y" && row.kind === "local") return `${row.cls} of the x at the same place. How it changes with x comes in the backward.`;
  if (side === "local") return "The slope of y at this x, from the layer's own rule with a dy of 1.";
  if (side === "p - q") return "The probability that the model gave, minus that of the target.";
  return "The value alone: this rule is more than one sum of products. Its equations are above.";
}

function written(sum, value, ref) {
  const line = make("div", { className: "sum" });
  const plus = () => { if (line.childNodes.length) line.append("+"); };
  // Products that are 0, as of keys that a query may not see, are not worth a place.
  const some = sum.terms.slice(0, SHOWN).filter((term, n) => !n || term.product !== 0);
  for (const term of some) {
    plus();
    const alone = term.factors.length === 1 && sum.count === 1;
    const text = term.factors.map((f) => (f < 0 && !alone ? `(${number(f)})` : number(f))).join(" × ");
    const product = term.factors.length > 1 && sum.count > 1 ? make("small", { className: "product" }, `= ${number(term.product)}`) : null;
    line.append(make("span", { className: "term" }, text, product, sum.count > 1 || typeof term.label === "string" ? label(term.label, sum.rows) : null));
  }
  const others = sum.terms.slice(some.length);
  if (others.length) {
    plus();
    const rest = others.reduce((total, term) => total + term.product, 0);
    line.append(make("span", { className: "term" }, number(rest), make("small", {}, rest === 0 && !others[0].product ? `${others.length} that are 0` : `${others.length} smaller ones`)));
  }
  if (sum.missing) {
    plus();
    line.append(make("span", { className: "term" }, number(value - sum.total), make("small", {}, `the rest: ${sum.missing} ${sum.missing > 1 ? "terms" : "term"} this page does not hold`)));
  }
  if (!sum.count) line.append(make("span", { className: "term" }, "0"));
  line.append("=", make("b", { className: "mono" }, number(sum.missing ? value : sum.total)));
  if (!sum.missing) line.append(verdict(sum, value, ref));
  return [make("p", { className: "soft" }, sum.why), line];
}

function label(text, rows) {
  if (typeof text !== "number") return make("small", {}, text);
  const said = tokenOf(text, rows);
  const small = make("small", {}, `row ${text}`);
  if (said !== undefined) small.append(" ", token(said));
  return small;
}

// Whether the sum in the page is the number in the step: to the rounding of that many terms, and of
// what came before them where the step rounds that too.
function verdict(sum, value, ref) {
  const eps = EPS[ref[4]] || EPS.float32;
  const off = Math.abs(sum.total - value);
  const more = sum.rounding ? sum.rounding() : 0;
  // Where the page lacks what that takes, rounding is that of the largest number beside this one.
  const size = sum.size + (Number.isNaN(more) ? ARRAYS[ref[2]].max : more);
  const same = Object.is(sum.total, value) || off <= eps * (sum.count + 4) * size + 1e-38;
  if (same) return make("span", { className: "good" }, "✓ equals what the step computed");
  if (!Number.isFinite(value)) return make("span", { className: "bad" }, `the step has ${number(value)}`);
  return make("span", { className: "bad" }, `✗ the step has ${number(value)}`);
}

// The loss of each row, with the label that should have come and the likeliest one.
function byRow(row) {
  const text = tokenOf(0, row.rows.length) !== undefined;
  const known = new Map(text ? row.rows.map(([target], i) => [target, DATA.tokens[i + 1]]) : []);
  const named = (id) => (known.has(id) ? token(known.get(id)) : `label ${id}`);
  const most = Math.max(...row.rows.map((each) => each[2] || 0), 1e-30);
  const head = ["row", "what should come", "p of it", "its loss", "", "p of it − 1", "the likeliest", "p of that"];
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...head.map((each) => make(each ? "th" : "td", {}, each)))));
  const body = make("tbody");
  row.rows.forEach(([target, p, loss, best, top], i) => {
    const bar = make("span", { className: "size" });
    bar.style.width = `${(90 * (loss || 0)) / most}px`;
    const cells = [
      text ? token(DATA.tokens[i]) : String(i),
      named(target),
      number(p), number(loss), bar, p === null ? "?" : number(p - 1),
      best === target ? "the same" : named(best), number(top),
    ];
    body.append(make("tr", {}, ...cells.map((each, c) => make("td", { className: [2, 3, 5, 7].includes(c) ? "mono" : "" }, each))));
  });
  table.append(body);
  return make("div", {}, make("h3", { className: "loss" }, make("b", {}, "The loss of each row: −log p, and what p − q says")), make("div", { className: "scroll" }, table));
}
