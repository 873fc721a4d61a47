// Chapter 5: the slope of the loss by w, as the product of two slopes.
CHAPTERS.chain = (() => {
  const id = "chain";
  const start = { w: 1, b: 0, ...EXAMPLE };
  const s = { ...start };
  const factors = place(id, "factors");
  const three = place(id, "three");
  const room = () => { const box = make("div", { className: "room" }); three.append(box); return box; };
  const [ws, ys, losses] = [[-2, 5], [-6, 12], [-6, 60]];
  const byW = picture(room(), { label: "y for each w, a line", x: ws, y: ys, xName: "w", yName: "y", shape: 0.85 });
  const byY = picture(room(), { label: "The loss for each y, a curve", x: ys, y: losses, xName: "y", yName: "loss", shape: 0.85 });
  const both = picture(room(), { label: "The loss for each w: both together", x: ws, y: losses, xName: "w", yName: "loss", shape: 0.85 });
  const say = saying(id);
  const bars = place(id, "bars");
  const set = (name) => (v) => { s[name] = v; draw(); };
  const sliders = [
    slider(bars, { name: "w", label: "the weight", range: ws, step: 0.05, get: () => s.w, set: set("w") }),
    slider(bars, { name: "b", label: "the bias", range: [-4, 4], step: 0.05, get: () => s.b, set: set("b") }),
    slider(bars, { name: "x", label: "the input", range: [-3, 3], step: 0.1, get: () => s.x, set: set("x") }),
    slider(bars, { name: "target", label: "the y we want", range: [-5, 8], step: 0.1, get: () => s.target, set: set("target") }),
  ];
  button(place(id, "buttons"), "reset", () => { Object.assign(s, start); draw(); });
  const of = (changed) => neuronStep({ ...s, ...changed, rate: 0 });
  const weight = { label: "w, the weight", kind: "of-w", ways: "x", move: (w) => set("w")(w), value: () => s.w, said: () => `w = ${number(s.w)}` };
  byW.handle({ ...weight, at: () => [s.w, of({}).y] });
  both.handle({ ...weight, at: () => [s.w, of({}).loss] });
  byY.handle({
    label: "the target: what y should be", kind: "example", ways: "x", at: () => [s.target, 0],
    move: (target) => set("target")(target), value: () => s.target, said: () => `target ${number(s.target)}`,
  });
  // The tangent: a straight line with the slope of the curve at this place.
  const tangent = (pic, p, q, slope, wide) => pic.line([p - wide, p + wide].map((v) => [v, q + slope * (v - p)]), "backward");
  function draw() {
    const { y, loss, dy, dw, db } = of({});
    byW.draw(byW.curve((w) => of({ w }).y, "forward thin"), tangent(byW, s.w, y, s.x, 1.2), byW.text(-2, 12, `slope x = ${number(s.x)}`, "backward", [8, 20]));
    byY.draw(byY.curve((v) => (v - s.target) ** 2, "loss"), tangent(byY, y, loss, dy, 2.6), byY.dot(y, loss, "forward"), byY.text(3, 60, `slope ${number(dy)}`, "backward", [-36, 20]));
    both.draw(both.curve((w) => of({ w }).loss, "loss"), tangent(both, s.w, loss, dw, 1.2), both.text(1.9, 60, `slope ${number(dw)}`, "backward", [-36, 20]));
    const line = (name, local, note, product) => make("div", { className: "sum" },
      term(name, "backward name"), "=", term(number(dy), "loss", "upstream"), "×", term(bracketed(local), "forward", note), "=", term(number(product), "backward strong"));
    factors.replaceChildren(line("dw", s.x, "local, x", dw), line("db", 1, "local, 1", db));
    const nudge = 0.01;
    const [more, after] = [of({ w: s.w + nudge }).y, of({ w: s.w + nudge }).loss];
    say(`Try it out: let w grow by ${nudge}. Then y changes by ${number(more - y)}, which is ${nudge} × ${bracketed(s.x)}. `,
      `The loss goes from ${exact(loss)} to ${exact(after)}. That is a change of ${number(after - loss)}, and dw promised ${nudge} × ${bracketed(dw)} = ${number(nudge * dw)}. `,
      "The smaller the change of w, the closer the two are.");
    for (const each of sliders) each();
  }
  return { draw, pics: [byW, byY, both], state: s };
})();
