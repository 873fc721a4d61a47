// Layers that take numbers in pairs, from the two halves of a row: Rope turns each by an angle of its
// place, and SwiGLU multiplies one with a gate made of the other.
MAKERS.rope = (row, name, k) => {
  const cos = arrayOf(row, "cos");
  const [letter, back] = [name.replace("d", ""), name[0] === "d"];
  // Forward x gives q' of q; backward dq comes of dq'.
  if (back === letter.endsWith("'")) return undefined;
  const from = back ? `d${letter}'` : letter.replace("'", "");
  const a = arrayOf(row, from);
  if (!a) return undefined;
  if (letter[0] === "v") return { why: "v is not turned", count: 1, term: () => [[nth(a, k)], from], frames: [one(from, a, k)] };
  const [T, , K] = refOf(row, name)[3].slice(-3);
  const heads = refOf(row, name)[3].at(-2);
  const [t, j] = [Math.floor(k / (heads * K)) % T, k % K];
  const isFirst = j < K / 2;
  const m = (t * K) / 2 + (j % (K / 2));
  const other = isFirst ? k + K / 2 : k - K / 2;
  const sin = arrayOf(row, "sin");
  const sign = isFirst === back ? 1 : -1;
  const turn = nth(sin, m);
  return {
    why: `this number and its partner, turned ${back ? "back " : ""}by the angle of place ${t}`,
    count: 2,
    term: (n) => (n ? [[nth(a, other), turn === undefined ? undefined : sign * turn], `partner × ${sign < 0 ? "−" : ""}sin`] : [[nth(a, k), nth(cos, m)], "× cos"]),
    frames: [one(from, a, k), one(from, a, other), one("cos", cos, m), one("sin", sin, m)],
  };
};

MAKERS.swiglu = (row, name, k) => {
  const [x, dy] = ["x", "dy"].map((each) => arrayOf(row, each));
  const half = refOf(row, "x")[3].at(-1) / 2;
  const isY = name === "y";
  if (!isY && (name !== "dx" || !dy)) return undefined;
  const width = isY ? half : 2 * half;
  const [i, j] = [Math.floor(k / width), k % half];
  const [a, b, up] = [2 * half * i + j, 2 * half * i + half + j, half * i + j];
  const [left, right] = [nth(x, a), nth(x, b)];
  const gate = left === undefined ? undefined : 1 / (1 + Math.exp(-left));
  const both = [one("x", x, a), one("x", x, b)];
  if (isY) return { why: `SiLU of the first half gates the second: a × sigmoid(a) × b, with a = ${number(left)}`, count: 1, term: () => [[left, gate, right], "a × sigmoid(a) × b"], frames: both };
  const frames = [one("dy", dy, up), ...both];
  if (k % width >= half) return { why: "upstream × local, to the second half: dy × a × sigmoid(a)", count: 1, term: () => [[nth(dy, up), left, gate], "dy × a × sigmoid(a)"], frames };
  const slope = left === undefined ? undefined : 1 + left * (1 - gate);
  return {
    why: "upstream × local, to the first half: dy × b × the slope of SiLU, sigmoid(a) × (1 + a × (1 − sigmoid(a)))",
    count: 1, term: () => [[nth(dy, up), right, gate, slope], "dy × b × sigmoid(a) × (1 + a × (1 − sigmoid(a)))"], frames,
    rounding: () => Math.abs(nth(dy, up) * right) * (1 + Math.abs(left)),
  };
};
