// Softmax and its logarithm, over a row of scores.
function scoresAt(row, k) {
  const x = arrayOf(row, "x");
  const n = refOf(row, "x")[3].at(-1);
  const first = k - (k % n);
  const places = [...Array(n).keys()].map((m) => first + m);
  const all = places.map((place) => nth(x, place));
  if (all.includes(undefined)) return undefined;
  const top = Math.max(...all);
  return { x, places, top, total: all.reduce((sum, v) => sum + Math.exp(v - top), 0), most: Math.max(...all.map(Math.abs)) };
}
const whole = (name, a, places) => () => around(name, a, places.length, (n) => places[n]);

MAKERS.softmax_layer = (row, name, k) => {
  const isLog = row.given.log;
  const scores = (name === "y" || name === "dx") && scoresAt(row, k);
  if (!scores) return undefined;
  const { x, places, top, total, most } = scores;
  const p = Math.exp(nth(x, k) - top) / total;
  const terms = (why, list, frames, rounding) => ({ why, count: list.length, term: (n) => list[n], frames, rounding });
  if (name === "y" && isLog) {
    return terms("the score minus the logarithm of the sum of all exp(x)", [[[nth(x, k)], "x"], [[-(top + Math.log(total))], "−log sum exp(x)"]], whole("x", x, places));
  }
  if (name === "y") {
    return terms(`this score's share in exp(x − top) of all, with top = ${number(top)}`,
      [[[Math.exp(nth(x, k) - top), 1 / total], "exp(x − top) × 1 / sum"]], whole("x", x, places), () => 2 * most * p);
  }
  const [y, dy] = ["y", "dy"].map((each) => arrayOf(row, each));
  const upstream = places.map((place) => nth(dy, place));
  if (upstream.includes(undefined)) return undefined;
  const size = upstream.reduce((sum, v) => sum + Math.abs(v), 0);
  const frames = () => [...whole("dy", dy, places)(), ...whole("y", y, places)()];
  if (isLog) {
    const sum = upstream.reduce((total, v) => total + v, 0);
    return terms("its own dy, minus its probability's part of all of them", [[[nth(dy, k)], "dy"], [[-p, sum], "−p × sum(dy)"]], frames, () => size * (1 + most));
  }
  const mean = places.reduce((sum, place) => sum + nth(y, place) * nth(dy, place), 0);
  return terms(`more of this one is less of the others, so what counts is dy = ${number(nth(dy, k))} beside their mean ${number(mean)}, each by its y`,
    [[[nth(y, k), nth(dy, k) - mean], "y × (dy − sum(y dy))"]], frames, () => nth(y, k) * size * (1 + most));
};
