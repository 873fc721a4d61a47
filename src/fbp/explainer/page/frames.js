// Frames: which cells made the one that is pointed at.

// One element of an array as a frame, by its place.
const one = (name, a, k) => [name, Math.floor(k / a.C), k % a.C, 1, 1];

// Frames around places of an array: runs down its columns, side by side where they are alike; of
// more than can be looked at, where they begin and end.
function around(name, a, count, place) {
  const rows = new Map();
  for (let m = 0; m < count; m++) {
    const [i, j] = [Math.floor(place(m) / a.C), place(m) % a.C];
    if (!rows.has(j)) rows.set(j, []);
    rows.get(j).push(i);
  }
  const frames = [];
  for (const [j, all] of [...rows].sort((p, q) => p[0] - q[0])) {
    all.sort((p, q) => p - q).forEach((i, n) => {
      const last = frames.at(-1);
      if (n && i === all[n - 1] + 1) last[3]++;
      else frames.push([name, i, j, 1, 1]);
    });
  }
  const joined = [];
  for (const frame of frames) {
    const beside = joined.find((each) => each[1] === frame[1] && each[3] === frame[3] && each[2] + each[4] === frame[2]);
    if (beside) beside[4]++;
    else joined.push(frame);
  }
  if (joined.length <= 64) return joined;
  const [top, left] = [1, 2].map((n) => Math.min(...joined.map((each) => each[n])));
  const [bottom, right] = [1, 2].map((n) => Math.max(...joined.map((each) => each[n] + each[n + 2])));
  return [[name, top, left, bottom - top, right - left]];
}

// A frame around rows and columns of a tile.
function frame(shown, i, j, rows, columns, className) {
  const { a, wrap, maps } = shown;
  if (i >= a.r || j >= a.c) return;
  // Whole pixels are a frame in each map, anything else a frame for each number.
  const whole = columns % maps === 0 && j % maps === 0;
  const frames = maps === 1 ? 1 : whole ? maps : columns;
  for (let n = 0; n < frames; n++) outline(shown, i, shownAt(a, j + n, maps), rows, columns / frames, className);
}
function outline({ a, wrap }, i, j, rows, columns, className) {
  const box = make("u", { className: className || "" });
  box.style.left = `${(100 * j) / a.c}%`;
  box.style.top = `${(100 * i) / a.r}%`;
  box.style.width = `${(100 * Math.min(columns, a.c - j)) / a.c}%`;
  box.style.height = `${(100 * Math.min(rows, a.r - i)) / a.r}%`;
  wrap.append(box);
}
