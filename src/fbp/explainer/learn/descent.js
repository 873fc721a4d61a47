// Chapter 4: the loss as a curve over w, and steps down along it.
CHAPTERS.descent = (() => {
  const id = "descent";
  const start = { w: -1, rate: 0.02 };
  const s = { ...start, b: 0, ...EXAMPLE };
  const range = [-2, 5.8];
  let trail = [];
  const pic = picture(place(id, "room"), { label: "The loss for each w, and the step that is taken", x: range, y: [-4, 44], xName: "w", yName: "loss" });
  const say = saying(id);
  const tools = place(id, "tools");
  const bars = place(id, "bars");
  const set = (name) => (v) => { s[name] = v; trail = []; draw(); };
  const at = (w) => neuronStep({ ...s, w });
  const buttons = learning(tools, {
    step(how) {
      const goes = how === "play" || how === "calm";
      for (let i = 0; i < counted(how, 1, 1); i++) {
        if (!Number.isFinite(s.w)) break;
        trail.push([s.w, at(s.w).loss]);
        s.w = at(s.w).next.w;
      }
      draw();
      return goes && trail.length < 60 && Math.abs(at(s.w).dw) > 1e-6 && Math.abs(s.w) < 1e6;
    },
    reset() { Object.assign(s, start); trail = []; draw(); },
    pause: 500,
    rates: [["a good rate", () => set("rate")(0.1)], ["too large a rate", () => { trail = []; Object.assign(s, { w: 1.2, rate: 0.25 }); draw(); }]],
  });
  const sliders = [
    slider(bars, { name: "w", label: "the weight", range, step: 0.05, get: () => s.w, set: set("w") }),
    slider(bars, { name: "learning rate", label: "", range: [0.001, 1], log: true, step: 0.01, get: () => s.rate, set: set("rate") }),
  ];
  pic.handle({
    label: "w: where we stand on the curve", kind: "of-w", ways: "x", at: () => [s.w, at(s.w).loss],
    move: (w) => set("w")(w), value: () => s.w, said: () => `w = ${number(s.w)}, loss ${number(at(s.w).loss)}`,
  });
  pic.handle({
    label: "where the next step leads: sets the learning rate", kind: "next", ways: "x", at: () => [at(s.w).next.w, -2],
    move(w) {
      const rate = (s.w - w) / at(s.w).dw; // the step is the rate times the slope
      if (Number.isFinite(rate)) set("rate")(clamp(rate, [0.001, 1]));
    },
    value: () => s.rate, said: () => `learning rate ${number(s.rate)}, to w = ${number(at(s.w).next.w)}`,
  });
  function draw() {
    const { loss, dw, next } = at(s.w);
    const then = at(next.w).loss;
    const path = [...trail, [s.w, loss]];
    pic.draw(
      pic.curve((w) => at(w).loss, "loss"),
      pic.line([-2, 8].map((w) => [w, loss + dw * (w - s.w)]), "backward dashed"),
      pic.line(path, "soft"), path.slice(0, -1).map(([w, l]) => pic.dot(w, l, "past", 4)),
      pic.line([[s.w, loss], [s.w, -2]], "soft dashed"), pic.arrow([s.w, -2], [next.w, -2], "update"),
      pic.dot(next.w, then, "past", 4), pic.text(next.w, -2, "next w", "update", [10, -6]),
      pic.text(s.w, loss, `slope ${number(dw)}`, "backward", [16, s.w < 1.9 ? -10 : 22]),
    );
    for (const each of sliders) each();
    const turn = dw > 0 ? "more w would mean more loss, so w goes down" : "more w would mean less loss, so w goes up";
    const lines = [`w = ${number(s.w)}, loss ${number(loss)}. The slope is ${number(dw)}: ${turn}. `];
    if (Math.abs(dw) < 1e-3) lines[0] = `w = ${number(s.w)}, loss ${number(loss)}. The curve is flat here: this is the lowest loss. `;
    else lines.push(`Next: ${number(s.w)} − ${number(s.rate)} × ${bracketed(dw)} = ${number(next.w)}, with loss ${number(then)}. `);
    if (then > loss * 1.0001 && Math.abs(dw) > 1e-3) lines.push(make("b", {}, "The step is too large: it lands higher than it began. Go on like this, and the loss grows without end: it diverges."));
    if (!Number.isFinite(loss)) lines.splice(0, 9, make("b", {}, "The loss is larger than any number that a computer can hold. Reset, and try a smaller learning rate."));
    say(...(trail.length ? [`${trail.length} ${trail.length > 1 ? "steps" : "step"} made. `] : []), ...lines);
  }
  return { draw, pic, state: s, trail: () => trail, buttons };
})();
