// Attention, query by query: s = scale q k, p = softmax(s), y = p v, and the same way back. All of a
// query is one row of each array, its heads side by side; a key or value has a row of its own.
function sizesOf(row) {
  const [T, H, K] = refOf(row, "q")[3].slice(-3);
  const [S, G] = refOf(row, "k")[3].slice(-3);
  return { T, H, K, S, G, M: refOf(row, "v")[3].at(-1), each: H / G };
}

const OF_KEYS = ["k", "v", "dk", "dv"];
// The row, head and place within it of a cell, and the example it is of.
function placeOf(row, name, k) {
  const { T, H, S, G } = sizesOf(row);
  const a = arrayOf(row, name);
  const keys = OF_KEYS.includes(name);
  const width = a.C / (keys ? G : H);
  const i = Math.floor(k / a.C);
  return { i, h: Math.floor((k % a.C) / width), j: k % width, b: Math.floor(i / (keys ? S : T)), width };
}

// The scores of a query under a head: those it sees, the largest, and the sum of all exp(s - top).
function scoresOf(row, i, h) {
  const { S } = sizesOf(row);
  const s = arrayOf(row, "s");
  const all = [...Array(S).keys()].map((n) => at(s, i, h * S + n));
  if (all.includes(undefined)) return undefined;
  const top = Math.max(...all);
  const total = all.reduce((sum, each) => sum + (each === -Infinity ? 0 : Math.exp(each - top)), 0);
  return { top, total, most: Math.max(0, ...all.filter(Number.isFinite).map(Math.abs)) };
}

function attention(row, name, k) {
  const of = Object.fromEntries(["q", "k", "v", "z", "s", "p", "dy", "dp", "sum(p dp)", "ds"].map((each) => [each, arrayOf(row, each)]));
  const { T, S, K, M, each } = sizesOf(row);
  const { scale, cap } = row.given;
  const { i, h, j, b, width } = placeOf(row, name, k);
  const g = Math.floor(h / each);
  const base = b * S; // the row of the example's first key
  const score = (a) => at(a, i, h * S + j);
  // How much the step's own rounding of s, dp and their differences can be in a cell of ds.
  const loose = (i, h, n) => {
    const v = Math.floor(h / each) * M;
    let reach = Math.abs(at(of["sum(p dp)"], i, h));
    for (let m = 0; m < M; m++) reach += Math.abs(at(of.dy, i, h * M + m) * at(of.v, Math.floor(i / T) * S + n, v + m));
    return at(of.p, i, h * S + n) * reach * (2 + 2 * scoresOf(row, i, h).most);
  };
  const spread = (list) => list.reduce((total, [p, other]) => total + Math.abs(p * other), 0);
  const keys = [...Array(S).keys()];
  const product = (factors, why, frames, count, rest) => ({ why, count, term: (n) => factors(n), frames, ...rest });
  if (name === (of.z ? "z" : "s")) {
    if (name === "s" && score(of.s) === -Infinity) return unseen();
    return product(
      (n) => [[at(of.q, i, h * K + n), at(of.k, base + j, g * K + n), scale], `number ${n}`],
      `how well the key in row ${base + j} matches this query: scale × q · k, with a scale of ${number(scale)}`,
      [["q", i, h * K, 1, K], ["k", base + j, g * K, 1, K]], K, { toward: base + j },
    );
  }
  if (name === "s") {
    if (score(of.s) === -Infinity) return unseen();
    return product(
      () => [[cap, Math.tanh(score(of.z) / cap)], "cap × tanh(z / cap)"],
      `a softcap: cap × tanh(z / cap), with z = ${number(score(of.z))} and cap = ${number(cap)}`,
      [["z", i, h * S + j, 1, 1]], 1,
    );
  }
  if (name === "p") {
    const scores = scoresOf(row, i, h);
    const none = scores && !scores.total;
    return product(
      () => [[scores && Math.exp(score(of.s) - scores.top), scores && 1 / scores.total], "exp(s − top) × 1 / sum"],
      none ? "this query sees no key at all" : score(of.s) === -Infinity ? "this query may not see this key: its share is 0"
        : `softmax: this key's share in exp(s − top) of all keys of this head, with s = ${number(score(of.s))}, top = ${number(scores && scores.top)}`,
      [["s", i, h * S, 1, S]], none ? 0 : 1,
      { toward: base + j, rounding: () => 4 * scores.most * at(of.p, i, h * S + j) },
    );
  }
  if (name === "y") {
    return product(
      (n) => [[at(of.p, i, h * S + n), at(of.v, base + n, g * M + j)], base + n],
      `what the keys hold, each by its share: p × v, over every key, under head ${h}`,
      [["p", i, h * S, 1, S], ["v", base, g * M + j, S, 1]], S,
      { rows: of.v.R, rounding: () => 2 * scoresOf(row, i, h).most * spread(keys.map((n) => [at(of.p, i, h * S + n), at(of.v, base + n, g * M + j)])) },
    );
  }
  if (name === "dp") {
    return product(
      (n) => [[at(of.dy, i, h * M + n), at(of.v, base + j, g * M + n)], `number ${n}`],
      `how the loss changes with this share: y = p v, so dp = dy · v of the key in row ${base + j}`,
      [["dy", i, h * M, 1, M], ["v", base + j, g * M, 1, M]], M, { toward: base + j },
    );
  }
  if (name === "sum(p dp)") {
    return product(
      (n) => [[at(of.p, i, h * S + n), at(of.dp, i, h * S + n)], base + n],
      `the mean of dp over the keys, each by its share, under head ${h}`,
      [["p", i, h * S, 1, S], ["dp", i, h * S, 1, S]], S, { rows: of.k.R },
    );
  }
  if (name === "ds") {
    const [dp, mean] = [score(of.dp), at(of["sum(p dp)"], i, h)];
    const off = dp === undefined || mean === undefined ? undefined : dp - mean;
    const bent = cap === null ? [] : [score(of.s) === -Infinity ? 1 : 1 - (score(of.s) / cap) ** 2];
    return product(
      () => [[score(of.p), off, ...bent], cap === null ? "p × (dp − sum(p dp))" : "p × (dp − sum(p dp)) × (1 − (s / cap)²)"],
      `softmax backward: more of this key is less of the others, so what counts is dp = ${number(dp)} beside their mean ${number(mean)}`,
      [...["p", "dp"].map((each) => [each, i, h * S + j, 1, 1]), ["sum(p dp)", i, h, 1, 1]], 1,
      { toward: base + j, rounding: () => score(of.p) * (Math.abs(dp) + Math.abs(mean)) },
    );
  }
  if (name === "dq") {
    return product(
      (n) => [[scale, at(of.ds, i, h * S + n), at(of.k, base + n, g * K + j)], base + n],
      `scale × ds × k, over every key, under head ${h}`,
      [["ds", i, h * S, 1, S], ["k", base, g * K + j, S, 1]], S,
      { rows: of.k.R, rounding: () => scale * spread(keys.map((n) => [loose(i, h, n), at(of.k, base + n, g * K + j)])) },
    );
  }
  if (name !== "dk" && name !== "dv") return undefined;
  // A key's gradient comes from every query, and every head that shares this head of keys.
  const [weights, others] = name === "dk" ? ["ds", "q"] : ["p", "dy"];
  const [key, first] = [i - base, h * each];
  const from = (n) => [b * T + Math.floor(n / each), first + (n % each)];
  const pair = (n) => { const [t, head] = from(n); return [at(of[weights], t, head * S + key), at(of[others], t, head * width + j)]; };
  const share = (n) => { const [t, head] = from(n); return name === "dk" ? loose(t, head, key) : pair(n)[0] * (1 + 2 * scoresOf(row, t, head).most); };
  const factor = name === "dk" ? scale : 1;
  return product(
    (n) => [name === "dk" ? [scale, ...pair(n)] : pair(n), each === 1 ? from(n)[0] : `row ${from(n)[0]}, head ${from(n)[1]}`],
    `${name === "dk" ? "scale × ds × q" : "p × dy"}, over every query${each > 1 ? ` and the ${each} heads that share this one of keys` : ` under head ${h}`}`,
    [...Array(each).keys()].flatMap((n) => [
      [weights, b * T, (first + n) * S + key, T, 1], [others, b * T, (first + n) * width + j, T, 1],
    ]),
    T * each,
    { rows: of.q.R, rounding: () => factor * spread([...Array(T * each).keys()].map((n) => [share(n), pair(n)[1]])) },
  );
}

const unseen = () => ({
  why: "this query may not see this key: it stands later, too far back, in another document, or is padding",
  count: 1, term: () => [[-Infinity], "not seen"], frames: [],
});
MAKERS.attention = attention;

// The queries to pick from: the one pointed at is marked, the others are as dark as its p of them.
const MOST_QUERIES = 128;
function queries(row) {
  const p = arrayOf(row, "p");
  if (p.r < 2 || p.r > MOST_QUERIES || !shown.p) return "";
  const box = make("div", { className: "queries", role: "toolbar" });
  box.setAttribute("aria-label", "queries: arrows go from one to the next");
  const pick = (i) => {
    const { h } = placeOf(row, box.name, box.place);
    const { S } = sizesOf(row);
    let best = h * S;
    for (let n = h * S; n < (h + 1) * S; n++) if (at(p, i, n) > at(p, i, best)) best = n;
    point(row, "p", i * p.C + best);
  };
  for (let i = 0; i < p.r; i++) {
    const said = tokenOf(i, p.R);
    const button = make("button", { tabIndex: -1, title: `the query in row ${i}` }, said === undefined ? String(i) : token(said));
    button.onclick = () => pick(i);
    box.append(button);
  }
  box.onkeydown = (event) => {
    const on = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = on && [...box.children].indexOf(document.activeElement) + on;
    if (on === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    if (box.children[next]) { pick(next); box.children[next].focus(); }
    event.preventDefault();
    event.stopPropagation();
  };
  const words = make("span", { className: "soft" });
  return make("div", { id: "queries" }, words, box);
}

function lightQuery(row, name, k) {
  const box = find("queries") && find("queries").lastChild;
  if (!box || !refOf(row, name)) return;
  const { T, H, S } = sizesOf(row);
  const asked = !OF_KEYS.includes(name) && arrayOf(row, name).C % H === 0 && refOf(row, name)[1] !== "res" && name !== "mask";
  if (!asked) { box.name = "p"; box.place = 0; } else Object.assign(box, { name, place: k });
  const { i, h, b } = placeOf(row, box.name, box.place);
  const p = arrayOf(row, "p");
  if (asked) for (const each of ["p", "ds"]) if (shown[each]) frame(shown[each], i, 0, 1, p.C, "row");
  [...box.children].forEach((button, n) => {
    const share = asked && Math.floor(n / T) === b && n % T < S && T === S ? at(p, i, h * S + (n % T)) || 0 : 0;
    button.style.background = share ? `rgba(${COLORS.plus},${0.75 * Math.sqrt(share)})` : "";
    button.setAttribute("aria-pressed", String(asked && n === i));
    button.tabIndex = n === i ? 0 : -1;
  });
  find("queries").firstChild.textContent = asked
    ? `Pick a query: its row of p is framed under every head. ${T === S ? `The darker, the more head ${h} of the one picked looks there.` : ""}`
    : "Pick a query: its row of p is framed under every head.";
}
