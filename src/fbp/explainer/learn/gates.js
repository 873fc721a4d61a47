// Chapter 7: three units with ReLU, whose gates open and close as x moves.
CHAPTERS.gates = (() => {
  const id = "gates";
  const start = () => ({
    x: 0.6, target: 2.4, c: -0.5, rate: 0.03,
    units: [{ w: 1, b: 1.5, v: 1 }, { w: 1, b: -0.2, v: -1.8 }, { w: 1, b: -1.6, v: 2.4 }],
  });
  const s = start();
  let before = null; // the units as they were before the last step
  const pic = picture(place(id, "room"), { label: "A line that bends where a gate opens", x: [-3, 3], y: [-2.5, 4], xName: "x", yName: "y" });
  const say = saying(id);
  const tools = place(id, "tools");
  const gates = place(id, "gates");
  const bars = place(id, "bars");
  // Forward and backward through all units, by the same rules as any other layer.
  function pass() {
    const units = s.units.map((u) => {
      const z = u.w * s.x + u.b;
      return { ...u, z, h: z > 0 ? z : 0, open: z > 0 };
    });
    const y = s.c + units.reduce((total, u) => total + u.v * u.h, 0);
    const dy = 2 * (y - s.target);
    for (const u of units) {
      u.dh = dy * u.v;
      u.dz = u.open ? u.dh : 0;
      [u.dw, u.db, u.dv] = [u.dz * s.x, u.dz, dy * u.h];
    }
    return { units, y, dy, loss: (y - s.target) ** 2 };
  }
  const value = (x) => s.c + s.units.reduce((total, u) => total + u.v * Math.max(0, u.w * x + u.b), 0);
  const set = (changed) => { Object.assign(s, changed); before = null; draw(); };
  const buttons = learning(tools, {
    step(how) {
      for (let i = 0; i < counted(how, 1, 2); i++) {
        const { units, dy } = pass();
        before = s.units;
        s.units = units.map((u) => ({ w: u.w - s.rate * u.dw, b: u.b - s.rate * u.db, v: u.v - s.rate * u.dv }));
        s.c -= s.rate * dy;
      }
      draw();
      return pass().loss > 1e-9;
    },
    reset() { set(start()); },
  });
  const sliders = [slider(bars, { name: "x", label: "the input", range: [-3, 3], step: 0.05, get: () => s.x, set: (x) => set({ x }) })];
  s.units.forEach((_, k) => {
    const bend = () => -s.units[k].b / s.units[k].w;
    const move = (x) => { s.units[k].b = -s.units[k].w * x; before = null; draw(); };
    sliders.push(slider(bars, { name: `bend ${k + 1}`, label: "where its gate opens", range: [-3, 3], step: 0.05, get: bend, set: move }));
    pic.handle({
      label: `where gate ${k + 1} opens`, kind: `bend unit${k}`, ways: "x", at: () => [bend(), -2],
      move, value: bend, said: () => `gate ${k + 1} opens at x = ${number(bend())}`,
    });
  });
  pic.handle({
    label: "the example: its x and its target", kind: "example", ways: "xy", at: () => [s.x, s.target],
    move: (x, target) => set({ x, target }), value: () => s.x, said: () => `x = ${number(s.x)}, target ${number(s.target)}`,
  });
  function draw() {
    const { units, y, dy, loss } = pass();
    pic.draw(
      units.map((u, k) => {
        const at = -u.b / u.w;
        return [
          u.w > 0 ? pic.area([at, 9], [-2.12 - 0.12 * k, -2.04 - 0.12 * k], `open unit${k}`) : pic.area([-9, at], [-2.12 - 0.12 * k, -2.04 - 0.12 * k], `open unit${k}`),
          pic.line([[at, -2], [at, value(at)]], "soft dashed"), pic.dot(at, value(at), "past", 4),
          pic.text(at, -2, String(k + 1), "", [-4, -14]),
        ];
      }),
      pic.curve(value, "forward"), pic.line([[s.x, y], [s.x, s.target]], "loss wide"), pic.line([[s.x, -2.5], [s.x, y]], "soft"), pic.dot(s.x, y, "forward"),
    );
    const cell = (text, kind = "") => make("td", { className: kind }, text);
    const rows = units.map((u, k) => make("tr", { className: u.open ? "" : "closed" },
      make("th", { scope: "row" }, String(k + 1)), cell(number(u.z), "mono"), cell(u.open ? "open" : "closed", "gate"), cell(number(u.h), "mono"),
      cell(`${number(u.dh)} × ${u.open ? 1 : 0}`, "mono"), cell(number(u.dw), "mono")));
    const heads = ["unit", "z = w x + b", "gate", "forward", "backward", "dw"];
    gates.replaceChildren(make("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": "The gates, in numbers" },
      make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))), make("tbody", {}, ...rows))));
    const shut = units.flatMap((u, k) => (u.open ? [] : [k + 1]));
    say(`At x = ${number(s.x)} the network gives y = ${number(y)}; the target is ${number(s.target)}, the loss ${number(loss)}. `,
      shut.length === 3 ? make("b", {}, "All gates are closed: no gradient goes through, and only the number added at the end can learn.")
        : shut.length ? `${shut.length > 1 ? "Gates" : "Gate"} ${shut.join(" and ")} ${shut.length > 1 ? "are" : "is"} closed: ${shut.length > 1 ? "those units do" : "that unit does"} not learn from this example. ` : "All gates are open: every unit learns. ",
      before && shut.length ? "The step left the bends of closed units where they were." : "");
    for (const each of sliders) each();
    return dy;
  }
  return { draw, pic, state: s, buttons, pass };
})();
