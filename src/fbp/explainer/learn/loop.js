// Chapter 8: two networks of two layers, trained here, each step compared with fbp's own.
const FITS = {};

function network(name) {
  const fit = DATA.fits[name];
  const [n, hidden, outputs] = fit.sizes;
  const shapes = [[n, hidden], [1, hidden], [hidden, outputs], [1, outputs]];
  const size = shapes.reduce((total, [r, c]) => total + r * c, 0);
  const all = floats(fit.steps);
  const target = floats(fit.target);
  const given = floats(fit.x);
  const x = matrix(given.length / n, n, Float64Array.from(given));
  const lossOf = (y, wanted) => (name === "spiral" ? softmaxCrossEntropy(y, wanted) : meanSquaredError(y, wanted));
  // What fbp had after step k: its numbers one after the other.
  const traced = (k) => all.subarray(k * size, (k + 1) * size);
  const steps = all.length / size - 1;
  const net = {
    name, fit, x, target, size, steps, params: [], losses: [], rate: fit.rate, worst: 0, own: true,
    reset() {
      let at = 0;
      net.params = shapes.map(([r, c]) => matrix(r, c, Float64Array.from(traced(0).subarray(at, (at += r * c)))));
      Object.assign(net, { losses: [], rate: fit.rate, worst: 0, own: true });
    },
    step() {
      const { loss, params } = trainStep(net.params, x, target, lossOf, net.rate);
      net.own = net.own && net.rate === fit.rate; // another rate leads elsewhere
      net.params = params;
      net.losses.push(loss);
      if (net.own && net.losses.length <= steps) {
        const off = apart(net.params.flatMap((p) => [...p.v]), traced(net.losses.length));
        net.worst = Math.max(net.worst, off, apart([loss], [fit.losses[net.losses.length - 1]]));
      }
    },
    loss: () => lossOf(forward(net.params, x).y, target).loss,
    said() {
      const [k, off] = [net.losses.length, tiny(net.worst)];
      const good = net.worst < 1e-6 ? "✓" : "✗";
      if (!k) return `${size} parameters, the same as fbp's at the start.`;
      if (!net.own) return `Another learning rate than fbp's ${fit.rate}: nothing to compare with.`;
      if (k <= steps) return `${good} step ${k}: parameters equal fbp's to ${off}`;
      return `${good} steps 1 to ${steps}: parameters equal fbp's to ${off}. Later ones are this page's alone.`;
    },
  };
  net.reset();
  return net;
}

// The stage of one network: its picture, its losses, its buttons.
function fitted(name, { axes, paint, words, most, quick, rates }) {
  const id = name;
  const net = (FITS[name] = network(name));
  const two = place(id, "two uneven");
  const room = () => { const box = make("div", { className: "room" }); two.append(box); return box; };
  const pic = picture(room(), axes);
  const past = picture(room(), { label: "The loss, step by step", x: [0, 100], y: [-3, 1], xName: "steps", yName: "loss", log: true, shape: 1 });
  const say = saying(id);
  const check = place(id, "check");
  const tools = place(id, "tools");
  const bars = place(id, "bars");
  const buttons = learning(tools, {
    step(how) {
      for (let i = 0; i < counted(how, quick, 20 * quick) && net.losses.length < most; i++) {
        if (!Number.isFinite(net.loss())) break;
        net.step();
      }
      draw();
      return net.losses.length < most && Number.isFinite(net.loss());
    },
    reset() { net.reset(); draw(); },
    pause: 40,
    rates: [["too large a rate", () => { net.reset(); net.rate = rates[1]; draw(); }]],
  });
  const rate = slider(bars, { name: "learning rate", label: "", range: rates, log: true, step: 0.01, get: () => net.rate, set: (v) => { net.rate = v; draw(); } });
  function draw() {
    const loss = net.loss();
    const all = [...net.losses, loss];
    const few = Math.ceil(all.length / 300); // no more points than can be seen
    const points = all.map((v, i) => [i, Math.log10(v)]).filter(([i], k) => k % few === 0 || i === all.length - 1);
    const heights = points.map(([, v]) => v).filter(Number.isFinite);
    past.ranges([0, Math.max(50, all.length)], [Math.floor(Math.min(-1, ...heights)), Math.ceil(Math.max(0.5, ...heights))]);
    past.draw(past.line(points, "loss"));
    paint(pic, net);
    rate();
    check.textContent = net.said();
    say(net.losses.length ? `After ${net.losses.length.toLocaleString("en")} steps the loss is ${rounded(loss)}. ` : `Before the first step the loss is ${rounded(loss)}. `,
      !Number.isFinite(loss) ? make("b", {}, "It diverged: the learning rate is too large. Reset it.") : words(net));
  }
  CHAPTERS[name] = { draw, pics: [pic, past], net, buttons };
}
