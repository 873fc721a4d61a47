// The page's numbers: what it holds, and how one is written.
const DATA = JSON.parse(document.getElementById("data").textContent);

function decoded(stored) {
  const bytes = Uint8Array.from(atob(stored.d), (letter) => letter.charCodeAt(0));
  return { ...stored, v: new Float32Array(bytes.buffer) };
}
const ARRAYS = DATA.arrays.map(decoded);
const ROWS = DATA.rows;
const LOSS = ROWS.length - 1;
const EVENTS = DATA.events.map(([kind, row]) => ({ kind, row }));

// An element of an array, or undefined where the page does not hold it.
function at(a, i, j) {
  return i < a.r && j < a.c ? a.v[i * a.c + j] : undefined;
}
// The same by its place in the whole array, row by row.
function nth(a, k) {
  return at(a, Math.floor(k / a.C), k % a.C);
}

// Four digits, as the explanation has them.
function number(v) {
  if (v === null || v === undefined) return "?";
  if (Number.isNaN(v)) return "not a number";
  if (!Number.isFinite(v)) return v > 0 ? "infinity" : "−infinity";
  if (v === 0) return "0";
  const size = Math.abs(v);
  const text = size >= 1e5 || size < 1e-3 ? v.toExponential(3) : String(Number(v.toPrecision(4)));
  return text.replace("-", "−").replace("e-", "e−").replace("e+", "e");
}

// An element of the document; all text goes in as text.
function make(tag, props, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
const find = (id) => document.getElementById(id);

// A token with what cannot be seen made visible, kept apart from the direction of its neighbours.
function token(text) {
  const shown = text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ +$/, (s) => "␣".repeat(s.length));
  return make("span", { className: "token", dir: "auto" }, shown === "" ? "∅" : shown);
}
function tokenOf(row, rows) {
  const there = DATA.tokens.length > 1 && rows === DATA.tokens.length - 1;
  return there ? DATA.tokens[row] : undefined;
}

function called(row) {
  const copy = row.copies > 1 ? ` [${row.copy}]` : "";
  return `${row.path || row.cls}${copy}`;
}
function refOf(row, name) {
  return row.arrays.find((ref) => ref[0] === name);
}
function arrayOf(row, name) {
  const ref = refOf(row, name);
  return ref && ARRAYS[ref[2]];
}
// The index of an element in its own shape, from its place in the rows and columns shown.
function indexOf(ref, k) {
  const index = [];
  let left = k;
  for (const size of [...ref[3]].reverse()) {
    index.unshift(left % size);
    left = Math.floor(left / size);
  }
  return ref[3].length ? `${ref[0]}[${index.join(", ")}]` : ref[0];
}
