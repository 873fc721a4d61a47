// Recurrent cells through time: a row is a step. The state before it, its gates and its state after,
// and the same way back, where the gradient of the state comes from the step after.
const sigmoid = (v) => 1 / (1 + Math.exp(-v));

// What both cells have in common: the arrays, the step of a cell, sums over steps, over inputs.
function cellOf(row, name, k) {
  const A = (each) => arrayOf(row, each);
  const [T, n] = refOf(row, "y")[3].slice(-2);
  const width = A(name).C;
  const [i, j] = [Math.floor(k / width), k % width];
  const t = i % T;
  const cut = row.given.truncate;
  // Whether the state's gradient comes from the step after, which truncation may stop.
  const after = t + 1 < T && !(cut && (t + 1) % cut === 0);
  const v = (each, row, column) => at(A(each), row, column);
  const cell = (each, row, column) => [each, row, column, 1, 1];
  const less = (a, b) => (a === undefined || b === undefined ? undefined : a - b);
  const through = (f, each) => (each === undefined ? undefined : f(each));
  const terms = (why, list, frames, rounding) => ({ why, count: list.length, term: (m) => list[m], frames, rounding });
  // A product of a row of one array and a column of a matrix, or with `turned` a row of it.
  const line = (from, at_, matrix, column, turned) => {
    const a = A(from);
    return [...Array(a.C).keys()].map((m) => [[v(from, at_, m), turned ? v(matrix, column, m) : v(matrix, m, column)], `${from}[${m}]`]);
  };
  const lineFrames = (from, at_, matrix, column, turned) => [
    [from, at_, 0, 1, A(from).C], turned ? [matrix, column, 0, 1, A(matrix).C] : [matrix, 0, column, A(matrix).R, 1],
  ];
  // The gradient of a parameter: a sum over every step of every example.
  const overSteps = (why, gradient, column, other, input) => {
    const g = A(gradient);
    return {
      why, count: g.R, rows: g.R,
      term: (m) => [other ? [v(gradient, m, column), v(other, m, input)] : [v(gradient, m, column)], m],
      frames: [[gradient, 0, column, g.R, 1], ...(other ? [[other, 0, input, g.R, 1]] : [])],
    };
  };
  return { A, T, n, i, j, t, after, v, cell, less, through, terms, line, lineFrames, overSteps };
}
const sizeOf = (list) => list.reduce((sum, [factors]) => sum + Math.abs(factors.reduce((p, q) => p * q, 1)), 0);
const START = "the state before the first step is 0";

function lstm(row, name, k) {
  const { A, n, i, j, t, after, v, cell, less, through, terms, line, lineFrames, overSteps } = cellOf(row, name, k);
  const into = (m) => [...line("x", i, "w", m), ...line("h before", i, "u", m), [[v("b", 0, m)], "bias"]];
  const bend = (f) => through((c) => 1 - Math.tanh(c) ** 2, v("c", i, f));
  const gate = { i: 0, f: 1, g: 2, o: 3 }[name];
  const names = ["i", "f", "g", "o"];
  const dhNext = () => less(v("dh", i, j % n), v("dy", i, j % n));
  // What the step rounds in dc, which is a sum that may cancel.
  const looseC = (m) => {
    const dh = Math.abs(v("dh", i, m)) + 2 * Math.abs(v("dy", i, m));
    return dh * v("o", i, m) + (after ? Math.abs(v("dc", i + 1, m) * v("f", i + 1, m)) : 0);
  };
  if (name === "h before" || name === "c before") {
    const from = name[0] === "h" ? "y" : "c";
    return t ? terms("the state that the step before gave", [[[v(from, i - 1, j)], "the step before"]], [cell(from, i - 1, j)]) : terms(START, [], []);
  }
  if (name === "a") {
    return terms(`what comes into gate ${names[Math.floor(j / n)]}: x w + h u + b`, into(j),
      [...lineFrames("x", i, "w", j), ...lineFrames("h before", i, "u", j), cell("b", 0, j)]);
  }
  if (gate !== undefined) {
    const [f, said] = name === "g" ? [Math.tanh, "tanh(a)"] : [sigmoid, "sigmoid(a)"];
    const what = { i: "how much is written", f: "how much of the memory is kept", g: "what is written", o: "how much comes out" }[name];
    return terms(`${what}: ${said}, with a = ${number(v("a", i, gate * n + j))}`, [[[through(f, v("a", i, gate * n + j))], said]],
      [cell("a", i, gate * n + j)], () => sizeOf(into(gate * n + j)));
  }
  if (name === "c") {
    return terms("the memory: what is kept of it, and what is written", [[[v("f", i, j), v("c before", i, j)], "kept: f × c before"], [[v("i", i, j), v("g", i, j)], "written: i × g"]],
      ["f", "c before", "i", "g"].map((each) => cell(each, i, j)));
  }
  if (name === "y") {
    return terms("what comes out: o × tanh(c)", [[[v("o", i, j), through(Math.tanh, v("c", i, j))], "o × tanh(c)"]], [cell("o", i, j), cell("c", i, j)]);
  }
  if (name === "dh") {
    const next = after ? line("da", i + 1, "u", j, true) : [];
    return terms(`two ways: straight to the loss${after ? ", and through every gate of the step after" : "; nothing comes from a step after"}`,
      [[[v("dy", i, j)], "dy"], ...next], [cell("dy", i, j), ...(after ? lineFrames("da", i + 1, "u", j, true) : [])]);
  }
  if (name === "dc") {
    const next = after ? [[[v("dc", i + 1, j), v("f", i + 1, j)], "from the step after: dc × f"]] : [];
    return terms(after ? "from the step after, through f alone, and from what comes out here" : "from what comes out here; nothing comes from a step after",
      [...next, [[v("dh", i, j), v("o", i, j), bend(j)], "dh × o × (1 − tanh(c)²)"]],
      [...(after ? [cell("dc", i + 1, j), cell("f", i + 1, j)] : []), ...["dh", "o", "c"].map((each) => cell(each, i, j))], () => looseC(j));
  }
  if (name === "da") {
    const [of, m] = [Math.floor(j / n), j % n];
    const open = names[of];
    const slope = open === "g" ? [less(1, through((g) => g * g, v("g", i, m)))] : [v(open, i, m), less(1, v(open, i, m))];
    const others = { i: ["g"], f: ["c before"], g: ["i"], o: [] }[open];
    const upstream = open === "o" ? "dh" : "dc";
    const factors = [v(upstream, i, m), ...(open === "o" ? [through(Math.tanh, v("c", i, m))] : others.map((each) => v(each, i, m))), ...slope];
    const said = { i: "dc × g × i × (1 − i)", f: "dc × c before × f × (1 − f)", g: "dc × i × (1 − g²)", o: "dh × tanh(c) × o × (1 − o)" }[open];
    return terms(`upstream × local, through gate ${open}: ${said}`, [[factors, said]],
      [upstream, open, ...others, ...(open === "o" ? ["c"] : [])].map((each) => cell(each, i, m)),
      () => looseC(m) * Math.abs(others.reduce((p, each) => p * v(each, i, m), 1)) * (1 + 2 * Math.abs(dhNext() || 0)) + Math.abs(v(upstream, i, m)));
  }
  return parameters(row, name, k, { x: "x", w: "da", u: "da", b: "da" });
}

// dw, du, db and dx of a cell, from the gradients of what its products gave.
function parameters(row, name, k, gradients) {
  const { i, j, terms, line, lineFrames, overSteps } = cellOf(row, name, k);
  if (name === "dw") return overSteps(`upstream × local, over every step: ${gradients.w} × x`, gradients.w, j, "x", i);
  if (name === "du") return overSteps(`upstream × local, over every step: ${gradients.u} × h before`, gradients.u, j, "h before", i);
  if (name === "db") return overSteps("upstream × 1, over every step", gradients.b, j);
  if (name === "dx") return terms("what reaches this input, through every gate", line(gradients.w, i, "w", j, true), lineFrames(gradients.w, i, "w", j, true));
  return undefined;
}

function gru(row, name, k) {
  const { n, i, j, t, after, v, cell, less, through, terms, line, lineFrames, overSteps } = cellOf(row, name, k);
  const both = (m) => { const [z, p] = [v("z", i, m), v("p", i, m)]; return z === undefined || p === undefined ? undefined : z + p; };
  const incoming = (m) => sizeOf([...line("x", i, "w", m), ...line("h before", i, "u", m)]) + Math.abs(v("b", 0, m));
  const candidate = () => { const [z, r, q] = ["z", "r", "q"].map((each) => v(each, i, each === "z" ? 2 * n + j : j)); return [z, r, q].includes(undefined) ? undefined : z + r * q; };
  const loose = (m) => Math.abs(v("dh", i, m)) + 2 * Math.abs(v("dy", i, m));
  if (name === "h before") return t ? terms("the state that the step before gave", [[[v("y", i - 1, j)], "the step before"]], [cell("y", i - 1, j)]) : terms(START, [], []);
  if (name === "z") return terms("what comes from x: x w + b", [...line("x", i, "w", j), [[v("b", 0, j)], "bias"]], [...lineFrames("x", i, "w", j), cell("b", 0, j)]);
  if (name === "p") return terms("what comes from the state: h u", line("h before", i, "u", j), lineFrames("h before", i, "u", j));
  if (name === "r" || name === "k") {
    const m = name === "r" ? j : n + j;
    const what = name === "r" ? "how much of the past the candidate sees" : "how much of the state is kept";
    return terms(`${what}: sigmoid(z + p), with z + p = ${number(both(m))}`, [[[through(sigmoid, both(m))], "sigmoid(z + p)"]], [cell("z", i, m), cell("p", i, m)], () => incoming(m));
  }
  if (name === "q") return terms("what comes from the state to the candidate: p + c", [[[v("p", i, 2 * n + j)], "p"], [[v("c", 0, j)], "c"]], [cell("p", i, 2 * n + j), cell("c", 0, j)], () => incoming(2 * n + j));
  if (name === "g") {
    return terms(`the candidate: tanh(z + r × q), with z + r q = ${number(candidate())}`, [[[through(Math.tanh, candidate())], "tanh(z + r q)"]],
      [cell("z", i, 2 * n + j), cell("r", i, j), cell("q", i, j)], () => incoming(2 * n + j));
  }
  if (name === "y") {
    return terms("what is kept of the state, and the rest from the candidate", [[[v("k", i, j), v("h before", i, j)], "k × h before"], [[less(1, v("k", i, j)), v("g", i, j)], "(1 − k) × g"]],
      ["k", "h before", "g"].map((each) => cell(each, i, j)), () => Math.abs(v("g", i, j)));
  }
  if (name === "dh") {
    const next = after ? [[[v("dh", i + 1, j), v("k", i + 1, j)], "kept by the step after: dh × k"], ...line("dp", i + 1, "u", j, true)] : [];
    return terms(`two ways: straight to the loss${after ? ", and through the step after, which keeps some and whose gates see it" : "; nothing comes from a step after"}`,
      [[[v("dy", i, j)], "dy"], ...next],
      [cell("dy", i, j), ...(after ? [cell("dh", i + 1, j), cell("k", i + 1, j), ...lineFrames("dp", i + 1, "u", j, true)] : [])]);
  }
  if (name === "dp" || name === "dz") {
    const [of, m] = [Math.floor(j / n), j % n];
    if (of < 2 && name === "dz") return terms("z and p are added, so their gradient is one", [[[v("dp", i, j)], "dp"]], [cell("dp", i, j)]);
    const [[upstream, place], factors, said, seen] = [
      [["dz", 2 * n + m], [v("q", i, m), v("r", i, m), less(1, v("r", i, m))], "dz of g × q × r × (1 − r)", ["q", "r"]],
      [["dh", m], [less(v("h before", i, m), v("g", i, m)), v("k", i, m), less(1, v("k", i, m))], "dh × (h before − g) × k × (1 − k)", ["h before", "g", "k"]],
      name === "dp" ? [["dz", 2 * n + m], [v("r", i, m)], "dz of g × r", ["r"]]
        : [["dh", m], [less(1, v("k", i, m)), through((g) => 1 - g * g, v("g", i, m))], "dh × (1 − k) × (1 − g²)", ["k", "g"]],
    ][of];
    return terms(`upstream × local, through ${name === "dp" ? ["r", "k", "q"][of] : "g"}: ${said}`, [[[v(upstream, i, place), ...factors], said]],
      [cell(upstream, i, place), ...seen.map((each) => cell(each, i, m))], () => loose(m) * (1 + Math.abs(v("h before", i, m))) * (of ? 1 : 1 + Math.abs(v("q", i, m))));
  }
  if (name === "dc") return overSteps("upstream × 1, over every step", "dp", 2 * n + j);
  return parameters(row, name, k, { w: "dz", u: "dp", b: "dz" });
}
// Frames the step that a cell is of in all its arrays.
function lightStep(row, name, k) {
  const rows = arrayOf(row, "y").R;
  const a = arrayOf(row, name);
  const asked = !/params/.test(refOf(row, name)[1]);
  for (const each of asked ? Object.values(shown) : []) {
    if (each.a.R === rows) frame(each, Math.floor(k / a.C), 0, 1, each.a.C, "row");
  }
}
MAKERS.gates = (row, name, k) => (row.given.cell === "lstm" ? lstm : gru)(row, name, k);

// h_t = a_t h_{t-1} + b_t, each number of a place by itself.
MAKERS.line = (row, name, k) => {
  const [T, D] = refOf(row, "y")[3].slice(-2);
  const t = Math.floor(k / D) % T;
  const term = (label, ...factors) => [factors.map(([each, place]) => nth(arrayOf(row, each), place)), label];
  const made = (why, ...list) => {
    const terms = list.filter(Boolean);
    const frames = terms.flatMap(([, ...factors]) => factors.map(([each, place]) => one(each, arrayOf(row, each), place)));
    const all = terms.map((each) => term(...each));
    return { why, count: all.length, term: (n) => all[n], frames, rounding: () => 2 * sizeOf(all) };
  };
  if (name === "y") return made("what is left of the state before, and what is added", t && ["a × y before", ["x a", k], ["y", k - D]], ["b", ["x b", k]]);
  if (name === "dx b") return made("straight to the loss, and through the step after", ["dy", ["dy", k]], t + 1 < T && ["a × the gradient after", ["x a", k + D], ["dx b", k + D]]);
  if (name === "dx a") return t ? made("upstream × local: the state before", ["gradient × y before", ["dx b", k], ["y", k - D]]) : made(START);
  return undefined;
};
