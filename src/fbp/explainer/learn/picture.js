// Pictures with axes; what is drawn is made anew at each change.
function svg(tag, props, ...children) {
  const made = document.createElementNS(find("svg").namespaceURI, tag);
  for (const [name, value] of Object.entries(props || {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
const clamp = (v, [low, high]) => Math.max(low, Math.min(high, v));
let pictures = 0;

// `x` and `y` are the ranges; `shape` is height by width, or "equal" for a unit as long both ways.
function picture(box, { label, x, y, xName, yName, shape = 0.62, log = false }) {
  const edge = { left: 46, right: 12, top: 12, bottom: 36 };
  const clip = `clip${pictures++}`;
  const hole = svg("rect");
  const [axes, ink, handles] = [svg("g"), svg("g", { "clip-path": `url(#${clip})` }), svg("g")];
  const root = svg("svg", { role: "group", "aria-label": label, class: "picture" },
    svg("clipPath", { id: clip }, hole), axes, ink, handles);
  const canvas = make("canvas", { className: "under" });
  canvas.setAttribute("aria-hidden", "true");
  box.append(make("div", { className: "stack" }, canvas, root));
  let [width, height] = [560, 350];
  const far = (v) => clamp(v, [-5000, 5000]); // what is far outside is drawn only a bit outside
  const X = (v) => far(edge.left + ((v - x[0]) / (x[1] - x[0])) * (width - edge.left - edge.right));
  const Y = (v) => far(height - edge.bottom - ((v - y[0]) / (y[1] - y[0])) * (height - edge.top - edge.bottom));
  // The numbers at a place of the picture, in its own units.
  const placeOf = (left, top) => [
    x[0] + ((left * width - edge.left) / (width - edge.left - edge.right)) * (x[1] - x[0]),
    y[0] + ((height - edge.bottom - top * height) / (height - edge.top - edge.bottom)) * (y[1] - y[0]),
  ];
  const moved = [];

  function tickText(v) {
    return log ? (v === 0 ? "1" : v === 1 ? "10" : v === -1 ? "0.1" : `10${[...String(v)].map((d) => (d === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[d])).join("")}`) : number(v);
  }
  function drawAxes() {
    width = Math.max(240, box.clientWidth || 560);
    const long = shape === "equal" ? (y[1] - y[0]) / (x[1] - x[0]) : 0;
    height = long ? long * (width - edge.left - edge.right) + edge.top + edge.bottom : Math.max(Math.min(270, width), shape * width);
    root.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const inside = { x: edge.left, y: edge.top, width: width - edge.left - edge.right, height: height - edge.top - edge.bottom };
    for (const [name, value] of Object.entries(inside)) hole.setAttribute(name, value);
    Object.assign(canvas.style, { left: `${(100 * inside.x) / width}%`, top: `${(100 * inside.y) / height}%`, width: `${(100 * inside.width) / width}%`, height: `${(100 * inside.height) / height}%` });
    const lines = [svg("rect", { ...inside, class: "frame" })];
    for (const v of ticks(x, width / 80)) {
      lines.push(svg("line", { x1: X(v), x2: X(v), y1: edge.top, y2: height - edge.bottom, class: v === 0 ? "zero" : "grid" }));
      lines.push(written(X(v), height - edge.bottom + 14, number(v), "middle"));
    }
    for (const v of ticks(y, height / 60)) {
      if (log && !Number.isInteger(v)) continue;
      lines.push(svg("line", { y1: Y(v), y2: Y(v), x1: edge.left, x2: width - edge.right, class: v === 0 && !log ? "zero" : "grid" }));
      lines.push(written(edge.left - 6, Y(v) + 4, tickText(v), "end"));
    }
    lines.push(written((edge.left + width - edge.right) / 2, height - 6, xName, "middle", "name"));
    const turned = written(0, 0, yName, "middle", "name");
    turned.setAttribute("transform", `translate(12 ${(edge.top + height - edge.bottom) / 2}) rotate(-90)`);
    axes.replaceChildren(...lines, turned);
  }
  const written = (left, top, text, anchor = "start", kind = "tick") =>
    svg("text", { x: left, y: top, "text-anchor": anchor, class: kind }, text);

  const made = {
    root, canvas, X, Y, drawAxes,
    draw(...marks) {
      ink.replaceChildren(...marks.flat(9).filter(Boolean));
      for (const each of moved) each();
    },
    ranges(newX, newY) { [x, y] = [newX, newY]; drawAxes(); },
    line(points, kind) {
      const there = points.filter(([p, q]) => !Number.isNaN(p + q));
      return svg("polyline", { points: there.map(([p, q]) => `${X(p)},${Y(q)}`).join(" "), class: `line ${kind}` });
    },
    curve(f, kind) {
      const [low, high] = x;
      return made.line([...Array(161).keys()].map((i) => low + ((high - low) * i) / 160).map((v) => [v, f(v)]), kind);
    },
    arrow([p0, q0], [p1, q1], kind) {
      const [dx, dy] = [X(p1) - X(p0), Y(q1) - Y(q0)];
      const size = Math.hypot(dx, dy);
      const line = svg("line", { x1: X(p0), y1: Y(q0), x2: X(p1), y2: Y(q1), class: `line ${kind}` });
      if (size < 4) return line;
      const [u, v] = [(dx / size) * Math.min(9, size), (dy / size) * Math.min(9, size)];
      const head = `${X(p1)},${Y(q1)} ${X(p1) - u - v / 2},${Y(q1) - v + u / 2} ${X(p1) - u + v / 2},${Y(q1) - v - u / 2}`;
      return [line, svg("polygon", { points: head, class: `head ${kind}` })];
    },
    dot: (p, q, kind, r = 5) => svg("circle", { cx: X(p), cy: Y(q), r, class: `dot ${kind}` }),
    box: (p, q, size, kind) => svg("rect", { x: X(p) - size, y: Y(q) - size, width: 2 * size, height: 2 * size, class: `dot ${kind}` }),
    area([p0, p1], [q0, q1], kind) {
      const [left, right, top, bottom] = [Math.min(X(p0), X(p1)), Math.max(X(p0), X(p1)), Math.min(Y(q0), Y(q1)), Math.max(Y(q0), Y(q1))];
      return svg("rect", { x: left, y: top, width: right - left, height: bottom - top, class: `area ${kind}` });
    },
    // Text beside a place, moved so that it stays inside.
    text(p, q, text, kind = "", [right, down] = [8, -8]) {
      const half = 3.6 * text.length;
      const left = clamp(X(p) + right + half, [edge.left + half + 4, Math.max(edge.left + half + 4, width - edge.right - half - 4)]);
      return written(left, clamp(Y(q) + down, [edge.top + 14, height - edge.bottom - 5]), text, "middle", `note ${kind}`);
    },
    handle(spec) {
      const { group, set } = handleOf(root, { x: () => x, y: () => y, place: placeOf, ...spec });
      handles.append(group);
      moved.push(() => set(X, Y));
      return group;
    },
  };
  drawAxes();
  return made;
}

// Round numbers in a range, about as many as asked for.
function ticks([low, high], most) {
  const rough = (high - low) / Math.max(2, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-9; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}
