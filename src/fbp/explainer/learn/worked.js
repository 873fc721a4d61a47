// Chapter 6: the worked example, with all numbers, and what comes of a learning rate too large.
CHAPTERS.worked = (() => {
  const id = "worked";
  const [small, large] = DATA.neuron.traces.map((each) => each.rate);
  const start = { w: DATA.neuron.traces[0].steps[0][0], b: DATA.neuron.traces[0].steps[0][1], ...EXAMPLE, rate: small };
  const s = { ...start };
  let losses = [];
  let [trace, worst] = [null, 0]; // of fbp, as long as these are its steps, and how far apart they are
  let last = null; // the numbers of the step made last, and of what it began with
  const turn = place(id, "turn");
  const two = place(id, "two");
  const room = () => { const box = make("div", { className: "room" }); two.append(box); return box; };
  const pic = picture(room(), { label: "The line and the example", x: [-1, 4], y: [-2, 8], xName: "x", yName: "y", shape: 0.8 });
  const past = picture(room(), { label: "The loss after each step", x: [0, 20], y: [-6, 2], xName: "steps", yName: "loss", shape: 0.8, log: true });
  const say = saying(id);
  const tools = place(id, "tools");
  const bars = place(id, "bars");
  const table = place(id, "lines");
  const check = place(id, "check");
  const begin = (changed) => { Object.assign(s, changed); losses = []; last = null; draw(); };
  const buttons = learning(tools, {
    step(how) {
      for (let i = 0; i < counted(how, 1, 5); i++) {
        const now = neuronStep(s);
        if (!Number.isFinite(now.loss)) break;
        if (!losses.length) [trace, worst] = [traceOf(), 0];
        else if (trace && trace.rate !== s.rate) trace = null; // another rate leads elsewhere
        last = { ...now, from: { ...s } };
        losses.push(now.loss);
        Object.assign(s, now.next);
        if (trace && losses.length < trace.steps.length) worst = Math.max(worst, apart([s.w, s.b], trace.steps[losses.length]));
      }
      draw();
      return losses.length < 200 && Number.isFinite(neuronStep(s).loss) && neuronStep(s).loss > 1e-12;
    },
    reset: () => begin(start),
    rates: [["too large a rate", () => begin({ ...start, rate: large })]],
  });
  const rate = slider(bars, { name: "learning rate", label: "", range: [0.001, 1], log: true, step: 0.01, get: () => s.rate, set: (v) => { s.rate = v; draw(); } });
  pic.handle({
    label: "the example: its x and its target", kind: "example", ways: "xy", at: () => [s.x, s.target],
    move: (x, y) => begin({ x, target: y, w: start.w, b: start.b }), value: () => s.target,
    said: () => `x = ${number(s.x)}, target ${number(s.target)}`,
  });
  const traceOf = () => (s.x === start.x && s.target === start.target ? DATA.neuron.traces.find((each) => each.rate === s.rate) : null);
  function compared() {
    if (!losses.length || !trace) return "";
    const [n, most, good] = [losses.length, trace.steps.length - 1, worst < 1e-6 ? "✓" : "✗"];
    if (n <= most) return `${good} step ${n}: w and b equal fbp's to ${tiny(worst)}`;
    return `${good} steps 1 to ${most}: w and b equal fbp's to ${tiny(worst)}. Later ones are this page's alone.`;
  }
  function draw() {
    const now = neuronStep(s);
    const shown = last || { ...now, from: { ...s } };
    const f = shown.from;
    turn.replaceChildren(
      make("span", {}, "loss "), make("b", { className: "loss" }, exact(shown.loss)), " → ",
      make("b", { className: last ? "loss" : "soft" }, last ? exact(now.loss) : "?"),
    );
    pic.draw(pic.curve((v) => s.w * v + s.b, "forward"), last ? pic.curve((v) => f.w * v + f.b, "soft dashed") : null, pic.line([[s.x, now.y], [s.x, s.target]], "loss wide"), pic.dot(s.x, now.y, "forward"));
    const all = [...losses, now.loss].map((v, i) => [i, Math.log10(Math.max(v, 1e-300))]);
    const most = Math.max(2, ...all.map(([, v]) => (Number.isFinite(v) ? v : 300)));
    const least = Math.max(-12, Math.min(-2, ...all.map(([, v]) => v)));
    past.ranges([0, Math.max(20, losses.length)], [Math.floor(least), Math.ceil(most)]);
    past.draw(past.line(all, "loss"), all.length < 40 ? all.map(([i, v]) => past.dot(i, v, "loss", 3)) : null);
    const line = (kind, name, text, value) => make("tr", {}, make("td", { className: kind }, make("b", {}, name)), make("td", { className: "mono" }, text), make("td", { className: "mono" }, `= ${value}`));
    const rows = [
      line("forward", "y", `w x + b = ${exact(f.w)} × ${exact(f.x)} + ${exact(f.b)}`, exact(shown.y)),
      line("loss", "loss", `(y − target)² = (${exact(shown.y)} − ${exact(f.target)})²`, exact(shown.loss)),
      line("backward", "dy", `2 (y − target) = 2 × (${exact(shown.y - f.target)})`, exact(shown.dy)),
      line("backward", "dw", `dy × x = ${exact(shown.dy)} × ${exact(f.x)}`, exact(shown.dw)),
      line("backward", "db", `dy × 1 = ${exact(shown.dy)} × 1`, exact(shown.db)),
      line("update", "new w", `w − rate × dw = ${exact(f.w)} − ${exact(f.rate)} × (${exact(shown.dw)})`, last ? exact(shown.next.w) : "?"),
      line("update", "new b", `b − rate × db = ${exact(f.b)} − ${exact(f.rate)} × (${exact(shown.db)})`, last ? exact(shown.next.b) : "?"),
    ];
    const caption = last ? `Step ${losses.length}, every number` : "The numbers of the first step";
    table.replaceChildren(make("table", {}, make("caption", {}, caption), make("tbody", {}, ...rows)));
    const grew = losses.length && now.loss > losses.at(-1);
    say(losses.length ? `After ${losses.length} ${losses.length > 1 ? "steps" : "step"} the loss is ${exact(now.loss)}. ` : `The loss is ${exact(now.loss)}. Press “one step”. `,
      !Number.isFinite(now.loss) ? make("b", {}, "It diverged: the loss is larger than any number that a computer can hold.")
        : grew ? make("b", {}, "The loss grew: each step is too large, and makes the next one larger still. This is to diverge.") : "");
    check.textContent = compared();
    rate();
  }
  return { draw, pics: [pic, past], state: s, buttons, losses: () => losses };
})();

// How far numbers are from others, at most, compared with their size where that is above 1.
function apart(mine, others) {
  let worst = 0;
  mine.forEach((v, i) => {
    const off = Math.abs(v - others[i]) / Math.max(1, Math.abs(others[i]));
    worst = Math.max(worst, Number.isNaN(off) ? Infinity : off);
  });
  return worst;
}
