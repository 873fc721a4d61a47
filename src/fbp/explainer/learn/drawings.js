// The two pictures of chapter 8: a curve with its bends, and two spirals with their regions.
fitted("curve", {
  axes: { label: "The points, and the curve that the network makes", x: [-2.2, 2.2], y: [-2, 2], xName: "x", yName: "y", shape: 0.72 },
  paint(pic, net) {
    const [w, b] = net.params;
    const at = (v) => forward(net.params, matrix(1, 1, Float64Array.of(v))).y.v[0];
    const bends = [...w.v].map((each, k) => -b.v[k] / each).filter((v) => Math.abs(v) <= 2.2);
    pic.draw(
      bends.map((v) => [pic.line([[v, -2], [v, at(v)]], "bending"), pic.dot(v, at(v), "past", 3.5)]),
      [...net.x.v].map((v, i) => pic.dot(v, net.target[i], "point", 3)),
      pic.curve(at, "forward"),
    );
  },
  words(net) {
    const [w, b] = net.params;
    const bends = [...w.v].filter((each, k) => Math.abs(b.v[k] / each) <= 2.2).length;
    return `Of its ${w.c} units, ${bends} bend the line inside this picture.`;
  },
  most: 3000, quick: 6, rates: [0.005, 0.5],
});

fitted("spiral", {
  axes: { label: "The two spirals, and which label the network gives each place", x: [-1.15, 1.15], y: [-1.15, 1.15], xName: "first number, x₁", yName: "second number, x₂", shape: "equal" },
  paint(pic, net) {
    const [w, b] = net.params;
    regions(pic.canvas, net);
    // Where w₁ x₁ + w₂ x₂ + b = 0, from edge to edge of the picture.
    const lines = [...Array(w.c).keys()].map((k) => {
      const [p, q, c] = [w.v[k], w.v[w.c + k], b.v[k]];
      const size = Math.hypot(p, q);
      const [px, py] = [(-c * p) / size ** 2, (-c * q) / size ** 2];
      const [dx, dy] = [(-q / size) * 4, (p / size) * 4];
      return pic.line([[px - dx, py - dy], [px + dx, py + dy]], "bending");
    });
    const points = [...net.target].map((label, i) => [net.x.v[2 * i], net.x.v[2 * i + 1], label]);
    pic.draw(lines, points.map(([p, q, label]) => (label ? pic.box(p, q, 3.2, "class1") : pic.dot(p, q, "class0", 3.6))));
  },
  words(net) {
    const { y } = forward(net.params, net.x);
    const right = net.target.filter((label, i) => (y.v[2 * i + 1] > y.v[2 * i] ? 1 : 0) === label).length;
    return `${right} of ${net.target.length} points have the right label.`;
  },
  most: 4000, quick: 6, rates: [0.02, 20],
});

// The probability of each label at each place, as colours.
function regions(canvas, net) {
  const size = 56;
  const at = (k) => ((k + 0.5) / size) * 2.3 - 1.15;
  const grid = matrix(size * size, 2);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) grid.v.set([at(j), -at(i)], 2 * (i * size + j));
  }
  const { y } = forward(net.params, grid);
  Object.assign(canvas, { width: size, height: size });
  const context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  const rgb = ["--class0", "--class1"].map((name) => css(name).split(",").map(Number));
  for (let i = 0; i < size * size; i++) {
    const p = 1 / (1 + Math.exp(y.v[2 * i] - y.v[2 * i + 1]));
    if (Number.isNaN(p)) continue;
    image.data.set([...rgb[p > 0.5 ? 1 : 0], 30 + 150 * Math.abs(2 * p - 1)], 4 * i);
  }
  context.putImageData(image, 0, 0);
}
