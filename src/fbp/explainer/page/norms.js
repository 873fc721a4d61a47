// Norms, term by term: the mean and the variance of a group of numbers, u = (x - mean) r, y = w u + b,
// and dx = r (g - mean(g) - u mean(g u)). A group is a vector, a channel, or some channels of an image.

// The group of the number at place k of x, how many are in it, and the place of each.
function groupOf(row, k) {
  const { by, groups, pixels } = row.given;
  const shape = refOf(row, "x")[3];
  const n = shape.at(-1);
  if (by === "vector") {
    const group = Math.floor(k / n);
    return { group, count: n, place: (m) => group * n + m };
  }
  if (by === "channel") {
    const count = shape.reduce((p, q) => p * q, 1) / n;
    return { group: k % n, count, place: (m) => m * n + (k % n) };
  }
  const [image, each] = [Math.floor(k / (n * pixels)), n / groups];
  const part = Math.floor((k % n) / each);
  return {
    group: image * groups + part, count: pixels * each,
    place: (m) => image * n * pixels + Math.floor(m / each) * n + part * each + (m % each),
  };
}
// A place of x that is in a group.
function firstOf(row, group) {
  const { by, groups, pixels } = row.given;
  const n = refOf(row, "x")[3].at(-1);
  if (by === "vector") return group * n;
  if (by === "channel") return group;
  return Math.floor(group / groups) * n * pixels + (group % groups) * (n / groups);
}

function norm(row, name, k) {
  const { centred, fixed, eps, names } = row.given;
  const [meanOfG, meanOfGu] = [`mean(${names.g})`, `mean(${names.g} ${names.u})`];
  const variance = centred ? "var" : "mean(x^2)";
  const has = (each) => arrayOf(row, each);
  const [x, y, dy, u, g, w, b, r] = ["x", "y", "dy", names.u, names.g, names.w, names.b, names.r].map(has);
  const n = refOf(row, "x")[3].at(-1);
  const statistic = [variance, "mean", names.r, meanOfG, meanOfGu].includes(name);
  const of = groupOf(row, statistic ? firstOf(row, k) : k);
  const stat = (each) => nth(has(each), of.group);
  const mean = centred ? stat("mean") : 0;
  const here = (each) => one(each, has(each), of.group);
  const off = (place) => { const v = nth(x, place); return v === undefined || mean === undefined ? undefined : v - mean; };
  const minus = (v) => (v === undefined ? undefined : -v);
  const all = (...each) => () => each.flatMap((name) => around(name, has(name), of.count, of.place));
  const sized = (f) => { let total = 0; for (let m = 0; m < of.count; m++) total += Math.abs(f(of.place(m))); return total / of.count; };
  const sum = (why, factors, frames, rest) => ({
    why, count: of.count, term: (m) => [factors(of.place(m)), `number ${m}`], frames, ...rest,
  });
  const terms = (why, list, frames, rounding) => ({ why, count: list.length, term: (m) => list[m], frames, rounding });
  const members = `of the ${of.count} numbers ${{ vector: "in this row", channel: "of this channel", group: "of this image in these channels" }[row.given.by]}`;
  // How far the step's own rounding of mean and r moves u.
  const looseAt = (p) => nth(r, groupOf(row, p).group) * (Math.abs(nth(x, p)) + 2 * x.rms);
  const loose = () => looseAt(k);

  if (fixed && (name === "dmean" || name === "dvar")) return terms("measured, not learned: no gradient", [], []);
  if (fixed && (name === "mean" || name === variance)) return undefined;
  if (name === "mean") return sum(`the mean ${members}`, (p) => [nth(x, p), 1 / of.count], all("x"), { rounding: () => sized((p) => nth(x, p)) });
  if (name === variance) {
    return sum(
      centred ? `the mean of (x − mean)², ${members}, with mean = ${number(mean)}` : `the mean of x², ${members}`,
      (p) => [off(p), off(p), 1 / of.count], () => [...all("x")(), ...(centred ? [here("mean")] : [])],
      { rounding: () => 2 * (Math.abs(mean) + sized((p) => nth(x, p))) * sized(off) },
    );
  }
  if (name === names.r) {
    const v = stat(variance);
    return terms(`1 / √(${variance} + eps), with ${variance} = ${number(v)} and eps = ${number(eps)}`,
      [[[v === undefined ? undefined : 1 / Math.sqrt(v + eps)], `1 / √(${variance} + eps)`]], [here(variance)]);
  }
  if (name === names.u) {
    return terms(
      centred ? `how far x is from the mean, in standard deviations: (x − mean) × ${names.r}, with x = ${number(nth(x, k))} and mean = ${number(mean)}` : `x × ${names.r}: a vector with a mean square of 1`,
      [[[off(k), stat(names.r)], centred ? `(x − mean) × ${names.r}` : `x × ${names.r}`]],
      [one("x", x, k), here(names.r), ...(centred ? [here("mean")] : [])], loose,
    );
  }
  if (name === "y") {
    const bias = b ? [[[nth(b, k % n)], "bias"]] : [];
    return terms(`${names.w} × ${names.u}${b ? ` + ${names.b}` : ""}`, [[[nth(w, k % n), nth(u, k)], `${names.w} × ${names.u}`], ...bias],
      [one(names.u, u, k), one(names.w, w, k % n), ...(b ? [one(names.b, b, k % n)] : [])], () => Math.abs(nth(w, k % n)) * loose());
  }
  if (name === names.g) {
    return terms(`how the loss changes with ${names.u}: upstream × local`, [[[nth(dy, k), nth(w, k % n)], `dy × ${names.w}`]],
      [one("dy", dy, k), one(names.w, w, k % n)]);
  }
  if (name === meanOfG) return sum(`the mean of ${names.g} ${members}`, (p) => [nth(g, p), 1 / of.count], all(names.g));
  if (name === meanOfGu) return sum(`the mean of ${names.g} × ${names.u} ${members}`, (p) => [nth(g, p), nth(u, p), 1 / of.count], all(names.g, names.u));
  if (name === "dx" && fixed) {
    return terms(`upstream × local: mean and var are constants, so y changes ${names.w} × ${names.r} times as fast as x`,
      [[[nth(dy, k), nth(w, k % n), stat(names.r)], `dy × ${names.w} × ${names.r}`]], [one("dy", dy, k), one(names.w, w, k % n), here(names.r)]);
  }
  if (name === "dx") {
    const slope = stat(names.r);
    const past = centred ? [[[minus(slope), stat(meanOfG)], "through the mean"]] : [];
    return terms(
      `x moves its own ${names.u}${centred ? ", the mean" : ""} and the size of all: ${names.r} × (${names.g}${centred ? ` − ${meanOfG}` : ""} − ${names.u} × ${meanOfGu})`,
      [[[slope, nth(g, k)], `${names.r} × ${names.g}, straight`], ...past, [[minus(slope), nth(u, k), stat(meanOfGu)], "through the variance"]],
      [one(names.g, g, k), one(names.u, u, k), here(names.r), here(meanOfGu), ...(centred ? [here(meanOfG)] : [])],
      () => slope * ((centred ? sized((p) => nth(g, p)) : 0) + Math.abs(nth(u, k)) * sized((p) => nth(g, p) * nth(u, p)) * 2) + slope * loose() * sized((p) => nth(g, p) * nth(u, p)),
    );
  }
  const [isW, isB] = [name === `d${names.w}`, name === `d${names.b}`];
  if (!isW && !isB) return undefined;
  const rows = (dy.R * dy.C) / n;
  const place = (m) => m * n + k;
  return {
    why: isW ? `upstream × local, over every row: dy × ${names.u}` : "upstream × 1, over every row",
    count: rows, term: (m) => [isW ? [nth(dy, place(m)), nth(u, place(m))] : [nth(dy, place(m))], m],
    rows: dy.C === n ? dy.R : undefined,
    frames: () => [...around("dy", dy, rows, place), ...(isW ? around(names.u, u, rows, place) : [])],
    rounding: () => {
      let total = 0;
      for (let m = 0; isW && m < rows; m++) total += Math.abs(nth(dy, place(m))) * looseAt(place(m));
      return total;
    },
  };
}
MAKERS.norm = norm;
