// Convolutions and pools. At position o of the small side, element k of the window lies on pixel
// i = s o + d k - p of the large side: y, dx and dw are sums over the same triples (o, k, i). Of a
// convolution x is the large side, of a transposed one y.

const ravel = (index, sizes) => index.reduce((at, each, axis) => at * sizes[axis] + each, 0);
function unravel(k, sizes) {
  const index = [];
  for (const size of [...sizes].reverse()) { index.unshift(k % size); k = Math.floor(k / size); }
  return index;
}
const every = (sizes) => [...Array(sizes.reduce((p, q) => p * q, 1)).keys()].map((k) => unravel(k, sizes));

// For a place on one side, the elements of the window and the places on the other that meet there.
function meeting(row, place, onSmall) {
  const { slides } = row.given;
  let found = [{ k: [], other: [] }];
  slides.forEach(([n, size, s, d, lo, m], axis) => {
    const next = [];
    for (const before of found) {
      for (let k = 0; k < size; k++) {
        const off = place[axis] + lo - d * k; // of a pixel of the large side
        const other = onSmall ? s * place[axis] + d * k - lo : off / s;
        if (!Number.isInteger(other) || other < 0 || other >= (onSmall ? n : m)) continue;
        next.push({ k: [...before.k, k], other: [...before.other, other] });
      }
    }
    found = next;
  });
  return found;
}

// x or y and its gradient as an image: where a pixel's channel stands, and what is at place k.
function imageOf(row, name) {
  const { slides, turned } = row.given;
  const letter = name.replace("d", "");
  const onSmall = (letter === "y") !== turned;
  const shape = refOf(row, letter)[3];
  const sizes = slides.map(([n, , , , , m]) => (onSmall ? m : n));
  const channels = shape.at(-1);
  return {
    a: arrayOf(row, name), onSmall, sizes, channels,
    place: (b, pixel, c) => (b * sizes.reduce((p, q) => p * q, 1) + ravel(pixel, sizes)) * channels + c,
    split: (k) => {
      const [b, ...rest] = unravel(k, [Infinity, ...sizes, channels]);
      return { b, pixel: rest.slice(0, -1), c: rest.at(-1) };
    },
  };
}

function convolution(row, name, k) {
  const { slides, groups } = row.given;
  const w = arrayOf(row, "w");
  const shape = refOf(row, "w")[3];
  const size = shape.slice(0, slides.length);
  const [inPart, nOut] = shape.slice(-2);
  const outPart = nOut / groups;
  const weight = (element, i, o) => (ravel(element, size) * inPart + (i % inPart)) * nOut + o;
  const b = arrayOf(row, "b");
  const said = (element) => `w[${element.join(", ")}]`;
  if (name === "y" || name === "dx") {
    const forward = name === "y";
    const from = forward ? "x" : "dy";
    const [here, there] = [imageOf(row, name), imageOf(row, from)];
    const { b: example, pixel, c } = here.split(k);
    const met = meeting(row, pixel, here.onSmall);
    const part = Math.floor(c / (forward ? outPart : inPart));
    const width = forward ? inPart : outPart;
    const channels = [...Array(width).keys()].map((n) => part * width + n);
    const pairs = met.flatMap(({ k: element, other }) => channels.map((n) => ({
      there: there.place(example, other, n), w: forward ? weight(element, n, c) : weight(element, c, n), element,
    })));
    const bias = forward && b ? 1 : 0;
    const where = `${pixel.length > 1 ? "pixel" : "place"} (${pixel.join(", ")})`;
    return {
      why: forward
        ? `the window at ${where}: x under it times the weights of output ${c}, summed${b ? ", plus the bias" : ""}`
        : `what reaches ${where} of input ${c}: dy of each position whose window covers it, times the weight between them`,
      count: pairs.length + bias,
      term: (n) => (n < pairs.length ? [[nth(there.a, pairs[n].there), nth(w, pairs[n].w)], said(pairs[n].element)] : [[nth(b, c)], "bias"]),
      frames: () => [
        ...around(from, there.a, pairs.length, (n) => pairs[n].there),
        ...around("w", w, pairs.length, (n) => pairs[n].w), ...(bias ? [one("b", b, c)] : []),
      ],
    };
  }
  const [x, dy] = [imageOf(row, "x"), imageOf(row, "dy")];
  if (name === "dw" && dy.a) {
    const [at, o] = [unravel(Math.floor(k / nOut), [...size, inPart]), k % nOut];
    const [element, i] = [at.slice(0, -1), at.at(-1)];
    const channel = Math.floor(o / outPart) * inPart + i;
    const examples = (x.a.R * x.a.C) / (x.channels * x.sizes.reduce((p, q) => p * q, 1));
    const [small, large] = x.onSmall ? [x, dy] : [dy, x];
    const on = (side, b, pixel) => side.place(b, pixel, side === x ? channel : o);
    const positions = every(small.sizes).map((position) => {
      const other = slides.map(([n, , s, d, lo], axis) => { const p = s * position[axis] + d * element[axis] - lo; return p < n ? p : -1; });
      return Math.min(...other) < 0 ? undefined : [position, other];
    }).filter(Boolean);
    const count = positions.length * examples;
    const of = (side, n) => on(side, Math.floor(n / positions.length), positions[n % positions.length][side === small ? 0 : 1]);
    return {
      why: `upstream × local, over every place of the window: dy of output ${o} times channel ${channel} of x, under ${said(element)} at each`,
      count,
      term: (n) => [[nth(dy.a, of(dy, n)), nth(x.a, of(x, n))], `${examples > 1 ? `${Math.floor(n / positions.length)}: ` : ""}(${positions[n % positions.length][0].join(", ")})`],
      frames: () => [...around("dy", dy.a, count, (n) => of(dy, n)), ...around("x", x.a, count, (n) => of(x, n))],
    };
  }
  if (name === "db" && dy.a) {
    const count = (dy.a.R * dy.a.C) / nOut;
    return {
      why: `upstream × 1, over every place: dy of output ${k}`,
      count, term: (n) => [[nth(dy.a, n * nOut + k)], `place ${n}`],
      frames: () => around("dy", dy.a, count, (n) => n * nOut + k),
    };
  }
  return undefined;
}

// The place in x of the largest number of the window at a position of y, the first of equal ones.
function largestOf(row, x, b, position, c) {
  let best;
  for (const { other } of meeting(row, position, true)) {
    const place = x.place(b, other, c);
    const v = nth(x.a, place);
    if (v === undefined) return undefined;
    const had = best === undefined ? -Infinity : nth(x.a, best);
    if (best === undefined || (!Number.isNaN(had) && !(v <= had))) best = place;
  }
  return best;
}

function pool(row, name, k) {
  const { slides, pools } = row.given;
  const count = slides.reduce((p, [, size]) => p * size, 1);
  if (name !== "y" && name !== "dx") return undefined;
  const [x, other] = [imageOf(row, "x"), imageOf(row, name === "y" ? "x" : "dy")];
  const here = imageOf(row, name);
  const { b, pixel, c } = here.split(k);
  const met = meeting(row, pixel, here.onSmall);
  const from = name === "y" ? "x" : "dy";
  if (pools === "mean") {
    const places = met.map((each) => other.place(b, each.other, c));
    return {
      why: name === "y" ? `the mean of the ${count} numbers of the window` : `upstream × 1/${count}, over every window that covers this pixel`,
      count: places.length, term: (n) => [[nth(other.a, places[n]), 1 / count], `(${met[n].other.join(", ")})`],
      frames: () => around(from, other.a, places.length, (n) => places[n]),
    };
  }
  if (name === "y") {
    const best = largestOf(row, x, b, pixel, c);
    return {
      why: `the largest of the ${met.length} numbers of the window`,
      count: 1, term: () => [[best === undefined ? undefined : nth(x.a, best)], "the largest"],
      frames: () => [...around("x", x.a, met.length, (n) => x.place(b, met[n].other, c)), ...(best === undefined ? [] : [one("x", x.a, best)])],
    };
  }
  const won = met.filter((each) => { const best = largestOf(row, x, b, each.other, c); return best === undefined || best === k; });
  const places = won.map((each) => other.place(b, each.other, c));
  return {
    why: places.length ? "the largest of its window passes the gradient on, whole" : "not the largest of any window: no gradient comes through",
    count: places.length, term: (n) => [[nth(other.a, places[n])], `window (${won[n].other.join(", ")})`],
    frames: [one("x", x.a, k), ...places.map((place) => one("dy", other.a, place))],
  };
}

MAKERS.window = (row, name, k) => (row.given.pools ? pool : convolution)(row, name, k);
