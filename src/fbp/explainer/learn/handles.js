// A handle of a picture, dragged with the pointer or moved by the arrow keys: a slider for a reader.
//
// `at` says where it is, `move` is told where it should be, `ways` is "x", "y" or "xy"; `value` and
// `said` are the number and the words of it, `step` how far a key moves it.
function handleOf(root, { label, kind, ways, at, move, value, said, step = 0.1, x, y, place }) {
  const knob = kind.includes("example")
    ? svg("rect", { x: -7, y: -7, width: 14, height: 14, transform: "rotate(45)" })
    : svg("circle", { r: 9 });
  const group = svg("g", { class: `handle ${kind}`, tabindex: 0, role: "slider", "aria-label": label },
    svg("circle", { r: 20, class: "reach" }), knob);
  const go = (p, q) => move(clamp(p, x()), clamp(q, y()));
  let held = false;
  group.onpointerdown = (event) => {
    group.setPointerCapture(event.pointerId);
    held = true;
    group.focus({ focusVisible: false, preventScroll: true });
    event.preventDefault();
  };
  group.onpointermove = (event) => {
    if (!held) return;
    const box = root.getBoundingClientRect();
    go(...place((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height));
  };
  group.onpointerup = group.onpointercancel = () => { held = false; };
  group.onkeydown = (event) => {
    const keys = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    let way = keys[event.key];
    if (!way || event.ctrlKey || event.metaKey || event.altKey) return;
    // Where there is one way to go, both pairs of arrows lead it.
    if (ways === "x") way = [way[0] + way[1], 0];
    if (ways === "y") way = [0, way[0] + way[1]];
    const far = (event.shiftKey ? 10 : 1) * step;
    const [p, q] = at();
    const round = (v) => Number(v.toPrecision(12));
    go(round(p + way[0] * far), round(q + way[1] * far));
    event.preventDefault();
  };
  // Where it is in the picture; what is outside waits at the edge.
  function set(X, Y) {
    const inside = (v, range) => (Number.isFinite(v) ? clamp(v, range) : range[1]);
    const [p, q] = at();
    group.setAttribute("transform", `translate(${X(inside(p, x()))} ${Y(inside(q, y()))})`);
    group.setAttribute("aria-valuenow", Number.isFinite(value()) ? value() : 0);
    group.setAttribute("aria-valuetext", said());
  }
  return { group, set };
}
