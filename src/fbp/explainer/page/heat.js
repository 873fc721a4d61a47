// Arrays as pictures: green above 0, purple below, a colour of their own for what is no number.
let COLORS;
function readColors() {
  const triple = (name) => css(name).split(",").map(Number);
  const hex = (name) => [1, 3, 5].map((i) => parseInt(css(name).slice(i, i + 2), 16));
  COLORS = { plus: triple("--plus"), minus: triple("--minus"), nan: hex("--nan"), inf: hex("--inf"), unseen: hex("--unseen") };
}

// Red, green, blue and how much of it, the root of the size, to show small ones. Without a largest
// one to compare with, as for a single number, the sign alone.
function color(v, max, hides) {
  if (hides && v === -Infinity) return [...COLORS.unseen, 1];
  if (Number.isNaN(v)) return [...COLORS.nan, 1];
  if (!Number.isFinite(v)) return [...COLORS.inf, 1];
  if (max === null) return [...(v < 0 ? COLORS.minus : COLORS.plus), v ? 0.3 : 0];
  const strength = max ? Math.sqrt(Math.min(1, Math.abs(v) / max)) : 0;
  return [...(v < 0 ? COLORS.minus : COLORS.plus), strength];
}

// The array on a canvas of one dot an element.
function dots(a, hides, maps = 1) {
  const canvas = make("canvas", { width: a.c, height: a.r });
  const context = canvas.getContext("2d");
  const image = context.createImageData(a.c, a.r);
  const pixels = new Uint32Array(image.data.buffer); // of each its red, green, blue and strength
  const most = a.R * a.C > 1 ? a.max : null;
  const dot = (v) => {
    const [r, g, b, strength] = color(v, most, hides);
    return new Uint32Array(Uint8ClampedArray.of(r, g, b, 255 * strength).buffer)[0];
  };
  // The strengths of both signs once; strength goes by the root of the size.
  const shades = [1, -1].map((sign) => Array.from({ length: 256 }, (_, n) => dot(sign * (most || 1) * (n / 255) ** 2)));
  for (let i = 0; i < a.r; i++) {
    for (let j = 0; j < a.c; j++) {
      const v = a.v[i * a.c + j];
      const place = i * a.c + (maps > 1 ? shownAt(a, j, maps) : j);
      pixels[place] = most && Number.isFinite(v) ? shades[v < 0 ? 1 : 0][Math.round(255 * Math.sqrt(Math.min(1, Math.abs(v) / most)))] : dot(v);
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// The same with each element's number in its cell.
function cells(a, wide, high, hides, maps) {
  const sharp = Math.max(1, window.devicePixelRatio || 1);
  const canvas = make("canvas", { width: a.c * wide * sharp, height: a.r * high * sharp });
  const context = canvas.getContext("2d");
  context.scale(sharp, sharp);
  context.font = "12px ui-monospace, 'DejaVu Sans Mono', monospace";
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let i = 0; i < a.r; i++) {
    for (let j = 0; j < a.c; j++) {
      const v = at(a, i, heldAt(a, j, maps));
      const [r, g, b, strength] = color(v, a.R * a.C > 1 ? a.max : null, hides);
      context.fillStyle = `rgba(${r},${g},${b},${strength})`;
      context.fillRect(j * wide, i * high, wide, high);
      if (hides && v === -Infinity) continue;
      const odd = !Number.isFinite(v);
      context.fillStyle = odd ? "#000" : strength > 0.6 ? css("--ground") : css("--text");
      const text = odd ? (Number.isNaN(v) ? "NaN" : v > 0 ? "+inf" : "−inf") : number(v);
      context.fillText(text, (j + 0.5) * wide, (i + 0.5) * high, wide - 4);
    }
  }
  return canvas;
}

function thumb(ref, there) {
  const box = make("span", { className: there && ref ? "thumb" : "thumb empty" });
  if (!there || !ref) return box;
  const a = ARRAYS[ref[2]];
  if (a.R * a.C === 1) box.textContent = number(a.v[0]);
  else box.append(dots(a, false, mapsOf(ref)));
  return box;
}

// Images have their channels side by side at each pixel; they are shown as one map for each channel.
function isOfImages([, side, id, shape]) {
  const a = ARRAYS[id];
  return DATA.images && shape.length === 4 && !/params|update/.test(side) && a.c === a.C && a.C === shape[2] * shape[3];
}
const mapsOf = (ref) => (isOfImages(ref) ? ref[3][3] : 1);
// The column where one of an array is shown, and the other way round.
const shownAt = (a, j, maps) => (j % maps) * (a.C / maps) + Math.floor(j / maps);
const heldAt = (a, j, maps) => (maps > 1 ? (j % (a.C / maps)) * maps + Math.floor(j / (a.C / maps)) : j);
function line(side, share) {
  const made = make("b", { className: `line ${side}` });
  made.style[side] = `${100 * share}%`;
  return made;
}

// An array in full: its name, shape, scale, and what is odd in it. `point(k)` is called for a cell;
// of one among many, numbers stand in fewer cells, so that a sum's factors stand near each other.
function tile(ref, kind, point, many, address) {
  const [name, side, id, shape, dtype, parts] = ref;
  const a = ARRAYS[id];
  // Of attention's scores, those of keys that a query may not see are −infinity: no accident.
  const hides = side === "made" && name === "s";
  const heads = parts && a.c === a.C ? parts.length : 1; // or gates
  const numbered = a.c <= 6 && a.r <= (many ? 4 : 12);
  // Four in a row, where there is room for them.
  const width = find("layer").clientWidth;
  const four = width < 500 ? Math.min(264, width - 30) : Math.max(180, Math.min(300, (width - 120) / 4));
  const maps = mapsOf(ref);
  const isImage = isOfImages(ref);
  const room = heads > 1 || maps > 1 ? Math.min(width - 40, four * Math.max(1, heads / 1.5, maps / 2)) : four;
  const pixel = Math.max(3, Math.min(24, room / a.c, 420 / a.r)); // of an image's pixel
  const wide = isImage && !numbered ? pixel : numbered ? (a.R * a.C === 1 ? 84 : 62) : Math.min(24, room / a.c);
  const high = isImage && !numbered ? pixel : numbered ? 30 : Math.min(24, 130 / a.r, Math.max(wide, a.r < 4 ? 20 : 3));
  const canvas = numbered ? cells(a, wide, high, hides, maps) : dots(a, hides, maps);
  canvas.style.width = `${wide * a.c}px`;
  canvas.style.height = `${Math.max(high * a.r, 4)}px`;
  const size = shape.length ? shape.join(" × ") : "one number";
  const cut = a.r < a.R || a.c < a.C;
  const part = cut ? `; here ${a.r} of ${a.R} rows, ${a.c} of ${a.C} columns` : "";
  Object.assign(canvas, { tabIndex: 0 });
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", `${name}, ${size}, heat map: arrows go from cell to cell`);
  const wrap = make("div", { className: "wrap" }, canvas);
  const type = dtype === "float32" ? "" : ` ${dtype}`;
  const figure = make(
    "figure", { className: kind },
    make("figcaption", {}, make("b", {}, name), ` ${size}${type}${part}${a.R * a.C > 1 && /float/.test(dtype) ? `, rms ${number(a.rms)}` : ""}`),
    wrap,
    scale(a, dtype),
    address,
  );
  figure.style.width = `${Math.max(wide * a.c + 2, 150)}px`;
  if (hides && a.inf) figure.append(make("div", { className: "odd" }, swatch("--unseen"), "not seen by the query"));
  else if (a.nan + a.inf) figure.append(odd(a));
  const columns = Math.max(heads, maps);
  for (let n = 1; n < columns; n++) wrap.append(line("left", n / columns));
  if (heads > 1 && heads <= 8) wrap.after(make("div", { className: "parts" }, ...parts.map((each) => make("span", {}, each))));
  const images = isImage ? shape[0] : 1;
  for (let n = 1; n < images; n++) wrap.append(line("top", n / images));
  let here = 0;
  const go = (i, j) => {
    i = Math.max(0, Math.min(a.r - 1, i));
    j = Math.max(0, Math.min(a.c - 1, j));
    here = i * a.C + j;
    point(here);
  };
  const pointed = (event) => {
    const box = canvas.getBoundingClientRect();
    const i = Math.floor(((event.clientY - box.top) / box.height) * a.r);
    go(i, heldAt(a, Math.max(0, Math.min(a.c - 1, Math.floor(((event.clientX - box.left) / box.width) * a.c))), maps));
  };
  canvas.onpointermove = pointed;
  canvas.onpointerdown = pointed;
  canvas.onfocus = () => { if (canvas.matches(":focus-visible")) point(here); };
  canvas.onkeydown = (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    const far = event.shiftKey ? 10 : 1;
    const column = shownAt(a, here % a.C, maps) + far * move[1];
    go(Math.floor(here / a.C) + far * move[0], heldAt(a, Math.max(0, Math.min(a.c - 1, column)), maps));
    event.preventDefault();
    event.stopPropagation();
  };
  return { figure, wrap, a, maps, at: (k) => { here = k; } };
}

// From the least to the largest number; whole numbers, as labels, are no sizes to compare.
function scale(a, dtype) {
  if (a.R * a.C === 1) return "";
  if (!/float/.test(dtype)) return make("div", { className: "scale" }, dtype === "bool" ? "1 is true, 0 false" : "whole numbers");
  if (!a.max) return make("div", { className: "scale" }, a.nan + a.inf ? "nothing else but 0" : "all 0");
  const strip = make("i");
  const [low, high] = [a.sign > 0 ? 0 : -1, a.sign < 0 ? 0 : 1];
  const stops = [-1, -0.5, -0.1, -0.01, 0, 0.01, 0.1, 0.5, 1].filter((v) => v >= low && v <= high).map((v) => {
    const [r, g, b, strength] = color(v, 1);
    return `rgba(${r},${g},${b},${strength}) ${(100 * (v - low)) / (high - low)}%`;
  });
  strip.style.background = `linear-gradient(to right, ${stops.join(",")})`;
  return make(
    "div", { className: "scale" },
    number(low * a.max), strip, number(high * a.max),
  );
}

function swatch(color) {
  const mark = make("i");
  mark.style.background = `var(${color})`;
  return mark;
}

function odd(a) {
  const box = make("div", { className: "odd" });
  for (const [count, color, said] of [[a.nan, "--nan", "not a number"], [a.inf, "--inf", "infinite"]]) {
    if (!count) continue;
    box.append(swatch(color), `${count} of ${a.R * a.C} ${count > 1 ? "are" : "is"} ${said} `);
  }
  return box;
}
