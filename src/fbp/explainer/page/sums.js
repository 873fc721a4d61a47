// How a number came about: the products whose sum it is, and where their factors stand.
//
// A maker takes the row of a layer and the place k of a cell, and returns {why, count, term, frames}:
// term(n) is the n-th product as [factors, label], factors undefined where the page lacks one, and
// frames are [array, row, column, rows, columns], or a function that gives them. rounding(), where
// there is one, is what the step itself rounds beside these terms, and toward the row of a key.

// x, w, b, y and their gradients, as a layer of weighted sums has them; the fused loss under others.
function roles(row) {
  const fused = row.kind === "fused";
  const names = fused
    ? { x: "y", w: "w", y: "z", dy: "dz", dw: "dw", dx: "dy" }
    : { x: "x", w: "w", b: "b", y: "y", dy: "dy", dw: "dw", db: "db", dx: "dx" };
  const found = {};
  for (const [role, name] of Object.entries(names)) {
    found[role] = arrayOf(row, name);
    if (found[role]) found[role].name = name;
  }
  return { ...found, names, turned: fused || row.kind === "unembed" };
}

function weighted(row, name, k) {
  const { x, w, b, y, dy, dw, db, dx, names, turned } = roles(row);
  const role = Object.keys(names).find((each) => names[each] === name);
  const weight = (p, o) => (turned ? at(w, o, p) : at(w, p, o));
  const column = (o) => (turned ? [names.w, o, 0, 1, w.C] : [names.w, 0, o, w.R, 1]);
  const line = (p) => (turned ? [names.w, 0, p, w.R, 1] : [names.w, p, 0, 1, w.C]);
  if (role === "y" && x && w) {
    const [i, j] = [Math.floor(k / y.C), k % y.C];
    const bias = b ? [[names.b, 0, j, 1, 1]] : [];
    return {
      why: `row ${i} of ${names.x} times the weights of output ${j}, summed${b ? ", plus its bias" : ""}`,
      count: x.C + (b ? 1 : 0),
      term: (n) => (n < x.C ? [[at(x, i, n), weight(n, j)], `input ${n}`] : [[at(b, 0, j)], "bias"]),
      frames: [[names.x, i, 0, 1, x.C], column(j), ...bias],
    };
  }
  if (role === "dx" && dy && w) {
    const [i, p] = [Math.floor(k / dx.C), k % dx.C];
    return {
      why: `what reaches input ${p}, over every path: the upstream gradient of each output times the weight between them`,
      count: dy.C,
      term: (n) => [[at(dy, i, n), weight(p, n)], `output ${n}`],
      frames: [[names.dy, i, 0, 1, dy.C], line(p)],
    };
  }
  if (role === "dw" && x && dy) {
    const [i, j] = [Math.floor(k / dw.C), k % dw.C];
    const [p, o] = turned ? [j, i] : [i, j];
    return {
      why: `how the loss changes with this weight: upstream × local, over every row: ${names.dy} of output ${o} times ${names.x} of input ${p}`,
      count: x.R,
      term: (n) => [[at(dy, n, o), at(x, n, p)], n],
      rows: x.R,
      frames: [[names.x, 0, p, x.R, 1], [names.dy, 0, o, dy.R, 1]],
    };
  }
  if (role === "db" && dy) {
    const j = k % db.C;
    return {
      why: `upstream × 1, over every row: ${names.dy} of output ${j}`,
      count: dy.R,
      term: (n) => [[at(dy, n, j)], n],
      rows: dy.R,
      frames: [[names.dy, 0, j, dy.R, 1]],
    };
  }
  return undefined;
}

function affine(row, name, k) {
  const letter = row.kind === "bias" ? "b" : "w";
  const [x, dy, p] = ["x", "dy", letter].map((each) => arrayOf(row, each));
  const scales = row.kind === "scale";
  if (!x || !refOf(row, "y")) return undefined; // a tree of arrays, which have longer names
  // Of positions only as many rows take part as the input has places.
  const places = row.kind === "positions" ? refOf(row, "y")[3].at(-2) : p && p.R;
  const size = p ? places * p.C : 1;
  if (name === "y" && x && p) {
    const terms = scales
      ? [[[nth(p, k % size), nth(x, k)], "weight × input"]]
      : [[[nth(x, k)], "input"], [[nth(p, k % size)], "bias"]];
    return {
      why: scales ? "weight times input" : "input plus bias",
      count: terms.length, term: (n) => terms[n], frames: [one("x", x, k), one(letter, p, k % size)],
    };
  }
  if (name === "dx" && dy && p) {
    return {
      why: scales ? "upstream × local: y = w x changes w times as fast as x" : "upstream × 1: y changes as x does",
      count: 1,
      term: () => [scales ? [nth(dy, k), nth(p, k % size)] : [nth(dy, k)], "upstream"],
      frames: [one("dy", dy, k), ...(scales ? [one("w", p, k % size)] : [])],
    };
  }
  if (name === `d${letter}` && dy && x) {
    const count = k < size ? (dy.R * dy.C) / size : 0;
    if (!count) return { why: "no input is at this place: no gradient", count, frames: [] };
    const column = size === dy.C;
    return {
      why: scales ? "upstream × local: y = w x changes x times as fast as w, over every row" : "upstream × 1, over every row",
      count,
      term: (n) => [scales ? [nth(dy, k + n * size), nth(x, k + n * size)] : [nth(dy, k + n * size)], n],
      rows: column ? dy.R : undefined,
      frames: (scales ? [["dy", dy], ["x", x]] : [["dy", dy]]).map(([of, a]) =>
        size === 1 ? [of, 0, 0, a.R, a.C] : column ? [of, 0, k % a.C, a.R, 1] : one(of, a, k)),
    };
  }
  return undefined;
}

function embedding(row, name, k) {
  const [x, w, dy] = ["x", "w", "dy"].map((each) => arrayOf(row, each));
  if (!x || x.r * x.c < x.R * x.C) return undefined;
  if (name === "y" && w) {
    const id = nth(x, Math.floor(k / w.C));
    return {
      why: `copied from row ${id} of w, the row of this token`, count: 1,
      term: () => [[at(w, id, k % w.C)], `w[${id}, ${k % w.C}]`],
      frames: [one("x", x, Math.floor(k / w.C)), ["w", id, 0, 1, w.C]],
    };
  }
  if (name === "dw" && dy) {
    const [id, j] = [Math.floor(k / dy.C), k % dy.C];
    const places = [...x.v.keys()].filter((t) => x.v[t] === id);
    return {
      why: places.length ? `the gradients of every place where id ${id} stands, added up` : `id ${id} is nowhere in this input: no gradient`,
      count: places.length,
      term: (n) => [[at(dy, places[n], j)], places[n]],
      rows: dy.R,
      frames: places.map((t) => ["dy", t, j, 1, 1]),
    };
  }
  return undefined;
}

// Sums of a few products of elements at the same place.
function placed(why, k, row, ...products) {
  const frames = [];
  const terms = products.map(([label, ...names]) => [
    names.map((name) => {
      if (typeof name === "number") return name;
      const a = arrayOf(row, name);
      frames.push(one(name, a, k));
      return nth(a, k);
    }),
    label,
  ]);
  return { why, count: terms.length, term: (n) => terms[n], frames };
}

// A number that only changes its place: heads split off a row, or put back into it.
function moved(row, name, k) {
  const back = name === "dx";
  const splits = refOf(row, "q") !== undefined;
  const whole = back ? "dx" : "x";
  const parts = splits ? (back ? ["dq", "dk", "dv"] : ["q", "k", "v"]) : [back ? "dy" : "y"];
  if (![whole, ...parts].every((each) => refOf(row, each))) return undefined;
  let [from, place] = [back ? parts[0] : whole, k];
  if (splits) {
    // What a part has in a row of the whole.
    const widths = parts.map((part) => refOf(row, part)[3].slice(-2).reduce((p, q) => p * q, 1));
    const width = widths.reduce((p, q) => p + q, 0);
    const before = (n) => widths.slice(0, n).reduce((p, q) => p + q, 0);
    let n = parts.indexOf(name);
    if (back) {
      n = widths.findIndex((each, i) => k % width < before(i) + each);
      from = parts[n];
      place = Math.floor(k / width) * widths[n] + (k % width) - before(n);
    } else if (n >= 0) {
      place = Math.floor(k / widths[n]) * width + (k % widths[n]) + before(n);
    } else return undefined;
  } else if (name !== "y" && !back) return undefined;
  const a = arrayOf(row, from);
  return {
    why: "the same number at another place",
    count: 1, term: () => [[nth(a, place)], from], frames: [one(from, a, place)],
  };
}

const has = (row, ...names) => names.every((name) => refOf(row, name));
const MAKERS = {
  dense: weighted,
  unembed: weighted,
  scale: affine,
  bias: affine,
  positions: affine,
  moved,
  embedding,
  local(row, name, k) {
    if (name !== "dx" || !has(row, "dy", "local")) return undefined;
    const made = placed("upstream × local: the slope of y at this x", k, row, ["upstream × local", "dy", "local"]);
    // A slope is rounded as a number of the size of 1, also where it is small.
    return { ...made, rounding: () => Math.abs(nth(arrayOf(row, "dy"), k)) };
  },
  residual(row, name, k) {
    if (name === "y" && has(row, "x", "f(x)")) {
      return placed("two ways meet: x goes past, and through the layers inside", k, row, ["past", "x"], ["through", "f(x)"]);
    }
    if (name === "dx" && has(row, "dy", "df")) {
      return placed("two gradients meet: dy comes straight past, the other through the layers inside", k, row, ["past", "dy"], ["through", "df"]);
    }
    return undefined;
  },
  mse(row, name, k) {
    const y = arrayOf(row, "y");
    if (name !== "dy") return undefined;
    const [v, target] = [nth(y, k), nth(arrayOf(row, "target"), k)];
    const off = v === undefined || target === undefined ? undefined : v - target;
    return {
      why: `(2/n) × (y − target), with n = ${y.R * y.C} and y − target = ${number(v)} − ${number(target)}`,
      count: 1, term: () => [[2 / (y.R * y.C), off], "2/n × (y − target)"],
      frames: [one("y", y, k), one("target", arrayOf(row, "target"), k)],
    };
  },
  softmax(row, name, k) {
    const off = arrayOf(row, "p - q");
    if (name !== (row.kind === "fused" ? "dz" : "dy") || !off) return undefined;
    const i = Math.floor(k / off.C);
    return {
      why: "what the model gave this label minus what it should, shared among the rows that count",
      count: 1, term: () => [[nth(off, k), nth(arrayOf(row, "1/n"), i)], "(p − q) × 1/n"],
      frames: [one("p - q", off, k), ["1/n", i, 0, 1, 1]],
    };
  },
  fused(row, name, k) {
    return name === "dz" ? MAKERS.softmax(row, name, k) : weighted(row, name, k);
  },
};

// The sum of a cell: its terms, the largest first, their total, and how many the page lacks.
function sumOf(row, name, k) {
  const maker = MAKERS[row.kind];
  const made = maker && maker(row, name, k);
  if (!made) return undefined;
  const terms = [];
  let [total, size, missing] = [0, 0, 0];
  for (let n = 0; n < made.count; n++) {
    const [factors, label] = made.term(n);
    if (factors.includes(undefined)) { missing++; continue; }
    const product = factors.reduce((p, f) => p * f, 1);
    total += product;
    size += Math.abs(product);
    terms.push({ factors, label, product });
  }
  terms.sort((p, q) => Math.abs(q.product) - Math.abs(p.product));
  return { ...made, terms, total, size, missing };
}
