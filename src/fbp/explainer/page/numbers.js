// The step's numbers: what the page holds of them.
const ARRAYS = DATA.arrays.map((stored) => ({ ...stored, v: floats(stored.d) }));
const ROWS = DATA.rows;
// The loss is the last row, but for that of the update, where there is one.
const UPDATE = DATA.update ? ROWS.length - 1 : -1;
const LOSS = ROWS.length - (DATA.update ? 2 : 1);
const EVENTS = DATA.events.map(([kind, row]) => ({ kind, row }));

// An element of an array, or undefined where the page does not hold it.
function at(a, i, j) {
  return i < a.r && j < a.c ? a.v[i * a.c + j] : undefined;
}
// The same by its place in the whole array, row by row.
function nth(a, k) {
  return at(a, Math.floor(k / a.C), k % a.C);
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
