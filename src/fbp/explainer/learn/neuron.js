// Chapters 1 to 3: one neuron, its forward pass, and its loss.
const EXAMPLE = { x: DATA.neuron.x, target: DATA.neuron.target };

// The boxes that a number goes through, those from `dim` on not reached yet.
function flow(box, parts, dim = parts.length) {
  box.replaceChildren(...parts.flatMap(([text, note, kind], i) => [
    ...(i ? [make("i", {}, "→")] : []),
    term(i < dim ? text : "?", `${kind} ${i < dim ? "" : "dim"}`, note),
  ]));
}

CHAPTERS.neuron = (() => {
  const id = "neuron";
  const s = { w: 1, b: 0, ...EXAMPLE };
  const chain = place(id, "flow");
  const pic = picture(place(id, "room"), { label: "The line that the neuron makes", x: [-4, 4], y: [-6, 8], xName: "x, what goes in", yName: "y, what comes out" });
  const say = saying(id);
  const bars = place(id, "bars");
  const set = (name) => (v) => { s[name] = v; draw(); };
  const sliders = [
    slider(bars, { name: "w", label: "the weight", range: [-3, 3], step: 0.05, get: () => s.w, set: set("w") }),
    slider(bars, { name: "b", label: "the bias", range: [-5, 5], step: 0.05, get: () => s.b, set: set("b") }),
  ];
  pic.handle({
    label: "w, the weight: turns the line", kind: "of-w", ways: "y", step: 0.3, at: () => [3, 3 * s.w + s.b],
    move: (_, y) => set("w")((y - s.b) / 3), value: () => s.w, said: () => `w = ${number(s.w)}`,
  });
  pic.handle({
    label: "b, the bias: moves the line up and down", kind: "of-b", ways: "y", at: () => [0, s.b],
    move: (_, y) => set("b")(y), value: () => s.b, said: () => `b = ${number(s.b)}`,
  });
  pic.handle({
    label: "the example: its x and its target", kind: "example", ways: "xy", at: () => [s.x, s.target],
    move: (x, y) => { Object.assign(s, { x, target: y }); draw(); }, value: () => s.target,
    said: () => `x = ${number(s.x)}, target ${number(s.target)}`,
  });
  function draw() {
    const { wx, y } = neuronStep({ ...s, rate: 0 });
    pic.draw(
      pic.curve((v) => s.w * v + s.b, "forward"),
      pic.line([[s.x, y], [s.x, s.target]], "soft dashed"),
      pic.text(0, s.b, "b", "of-b", [12, 20]), pic.text(3, 3 * s.w + s.b, "w", "of-w", [12, 20]),
      pic.dot(s.x, y, "forward", 4),
    );
    flow(chain, [[number(s.x), "x"], [`× ${number(s.w)}`, "weight w", "of-w"], [number(wx), "w x"], [`+ ${bracketed(s.b)}`, "bias b", "of-b"], [number(y), "y", "forward"]]);
    const there = Math.abs(y - s.target) < 0.1;
    say(`For x = ${number(s.x)} this neuron gives y = ${number(y)}. The target is ${number(s.target)}. `,
      there ? make("b", {}, "The line goes through the example. Other pairs of w and b do that too: find one.") : "");
    for (const each of sliders) each();
  }
  return { draw, pic, state: s };
})();

CHAPTERS.forward = (() => {
  const id = "forward";
  const start = { w: 1.5, b: 1, x: 2, target: 0 };
  const s = { ...start };
  let part = 0;
  const chain = place(id, "flow");
  const pic = picture(place(id, "room"), { label: "From x to y, part by part", x: [-4, 4], y: [-6, 8], xName: "x, what goes in", yName: "y, what comes out" });
  const say = saying(id);
  const row = place(id, "buttons");
  button(row, "next part", () => { part = part < 3 ? part + 1 : 0; draw(); }).className = "main";
  button(row, "start again", () => { part = 0; Object.assign(s, start); draw(); });
  const bars = place(id, "bars");
  const set = (name) => (v) => { s[name] = v; draw(); };
  const sliders = [
    slider(bars, { name: "x", label: "the input", range: [-4, 4], step: 0.1, get: () => s.x, set: set("x") }),
    slider(bars, { name: "w", label: "the weight", range: [-3, 3], step: 0.05, get: () => s.w, set: set("w") }),
    slider(bars, { name: "b", label: "the bias", range: [-5, 5], step: 0.05, get: () => s.b, set: set("b") }),
  ];
  pic.handle({
    label: "x, the input", kind: "of-x", ways: "x", at: () => [s.x, 0],
    move: (x) => set("x")(x), value: () => s.x, said: () => `x = ${number(s.x)}`,
  });
  function draw() {
    const { wx, y } = neuronStep({ ...s, rate: 0 });
    pic.draw(
      pic.curve((v) => s.w * v, "soft dashed"), pic.text(-3, s.w * -3, "w x", "soft", [8, 24]),
      part >= 2 ? [pic.curve((v) => s.w * v + s.b, "forward"), pic.text(-3, s.w * -3 + s.b, "w x + b", "forward", [-44, -16])] : null,
      part >= 1 ? [pic.arrow([s.x, 0], [s.x, wx], "of-w"), pic.dot(s.x, wx, "of-w", 5)] : null,
      part >= 2 ? pic.arrow([s.x, wx], [s.x, y], "of-b") : null,
      part >= 3 ? [pic.arrow([s.x, y], [0, y], "forward"), pic.text(0, y, `y = ${number(y)}`, "forward", [8, -10])] : null,
      part >= 2 ? pic.dot(s.x, y, "forward") : null,
    );
    flow(chain, [[number(s.x), "x"], [`× ${number(s.w)}`, "weight w", "of-w"], [number(wx), "w x"], [`+ ${bracketed(s.b)}`, "bias b", "of-b"], [number(y), "y", "forward"]], [1, 3, 5, 5][part]);
    say([
      `The input is x = ${number(s.x)}. Press “next part”.`,
      `The weight: w x = ${number(s.w)} × ${bracketed(s.x)} = ${number(wx)}.`,
      `The bias is added: w x + b = ${number(wx)} + ${bracketed(s.b)} = ${number(y)}.`,
      `The output is y = ${number(y)}. This is the whole forward pass.`,
    ][part]);
    for (const each of sliders) each();
  }
  return { draw, pic, state: s };
})();

CHAPTERS.loss = (() => {
  const id = "loss";
  const s = { w: 1, b: 0, ...EXAMPLE };
  const chain = place(id, "flow");
  const pic = picture(place(id, "room"), { label: "The loss as the area of a square", x: [-2, 10], y: [-2, 7], xName: "x", yName: "y", shape: "equal" });
  const say = saying(id);
  const bars = place(id, "bars");
  const set = (name) => (v) => { s[name] = v; draw(); };
  const sliders = [
    slider(bars, { name: "w", label: "the weight", range: [-1, 3], step: 0.05, get: () => s.w, set: set("w") }),
    slider(bars, { name: "b", label: "the bias", range: [-2, 5], step: 0.05, get: () => s.b, set: set("b") }),
    slider(bars, { name: "target", label: "the y we want", range: [-2, 7], step: 0.1, get: () => s.target, set: set("target") }),
  ];
  pic.handle({
    label: "b, the bias: moves the line up and down", kind: "of-b", ways: "y", at: () => [0, s.b],
    move: (_, y) => set("b")(y), value: () => s.b, said: () => `b = ${number(s.b)}`,
  });
  pic.handle({
    label: "the example: its x and its target", kind: "example", ways: "xy", at: () => [s.x, s.target],
    move: (x, y) => { Object.assign(s, { x, target: y }); draw(); }, value: () => s.target,
    said: () => `x = ${number(s.x)}, target ${number(s.target)}`,
  });
  function draw() {
    const { y, loss } = neuronStep({ ...s, rate: 0 });
    const off = Math.abs(y - s.target);
    const middle = (y + s.target) / 2;
    pic.draw(
      pic.area([s.x, s.x + off], [y, s.target], "loss"),
      pic.curve((v) => s.w * v + s.b, "forward"), pic.text(0, s.b, "b", "of-b", [12, 20]),
      pic.line([[s.x, y], [s.x, s.target]], "loss wide"), pic.dot(s.x, y, "forward"),
      pic.text(s.x + off / 2, middle, `area ${number(loss)}`, "loss strong", [-26, 5]),
      pic.text(s.x, s.target, "target", "", [14, -10]), pic.text(s.x, y, "y", "forward", [14, 18]),
    );
    flow(chain, [[number(y), "y", "forward"], [`− ${bracketed(s.target)}`, "target"], [number(y - s.target), "difference"], ["( )²", "times itself"], [number(loss), "loss", "loss"]]);
    say(`The loss is (${number(y)} − ${bracketed(s.target)})² = ${number(loss)}. `,
      off < 0.05 ? make("b", {}, "Right: almost nothing is left to learn from this example.") : "");
    for (const each of sliders) each();
  }
  return { draw, pic, state: s };
})();
