// The rules by which this page trains, each written by hand: the equations of fbp's layers and losses.

// One neuron y = w x + b with the squared error, all numbers of one step by name.
function neuronStep({ w, b, x, target, rate }) {
  const wx = w * x;
  const y = wx + b;
  const loss = (y - target) ** 2;
  const dy = 2 * (y - target);
  const [dw, db] = [dy * x, dy * 1]; // upstream × local
  return { wx, y, loss, dy, dw, db, next: { w: w - rate * dw, b: b - rate * db } };
}

// Rows and columns of numbers; a row is an example.
const matrix = (r, c, v = new Float64Array(r * c)) => ({ r, c, v });

// Dense: y = x w + b.
function dense(x, w, b) {
  const y = matrix(x.r, w.c);
  for (let i = 0; i < x.r; i++) {
    for (let o = 0; o < w.c; o++) {
      let total = b.v[o];
      for (let p = 0; p < x.c; p++) total += x.v[i * x.c + p] * w.v[p * w.c + o];
      y.v[i * w.c + o] = total;
    }
  }
  return y;
}
// dw = xᵀ dy, db = the sum of dy over the examples, dx = dy wᵀ.
function denseBackward(x, w, dy) {
  const [dw, db, dx] = [matrix(w.r, w.c), matrix(1, w.c), matrix(x.r, x.c)];
  for (let i = 0; i < x.r; i++) {
    for (let o = 0; o < w.c; o++) {
      const d = dy.v[i * w.c + o];
      db.v[o] += d;
      for (let p = 0; p < x.c; p++) {
        dw.v[p * w.c + o] += x.v[i * x.c + p] * d;
        dx.v[i * x.c + p] += d * w.v[p * w.c + o];
      }
    }
  }
  return { dw, db, dx };
}

// Relu: y = max(x, 0); dx = dy where x > 0, else 0.
const relu = (x) => matrix(x.r, x.c, x.v.map((v) => (v <= 0 ? 0 : v)));
const reluBackward = (x, dy) => matrix(x.r, x.c, dy.v.map((d, i) => (x.v[i] <= 0 ? 0 : d)));

// MeanSquaredError: (1/n) Σ (y − target)²; dy = (2/n) (y − target).
function meanSquaredError(y, target) {
  const n = y.v.length;
  let loss = 0;
  const dy = y.v.map((v, i) => {
    loss += (v - target[i]) ** 2 / n;
    return (2 / n) * (v - target[i]);
  });
  return { loss, dy: matrix(y.r, y.c, dy) };
}

// SoftmaxCrossEntropy: −(1/n) Σ log p of the right label; dy = (1/n) (p − q), q is 1 there, else 0.
function softmaxCrossEntropy(y, label) {
  const dy = matrix(y.r, y.c);
  let loss = 0;
  for (let i = 0; i < y.r; i++) {
    const row = y.v.subarray(i * y.c, (i + 1) * y.c);
    const largest = Math.max(...row);
    const exps = row.map((z) => Math.exp(z - largest));
    const total = exps.reduce((p, q) => p + q, 0);
    loss -= (row[label[i]] - largest - Math.log(total)) / y.r;
    exps.forEach((e, c) => { dy.v[i * y.c + c] = (e / total - (c === label[i] ? 1 : 0)) / y.r; });
  }
  return { loss, dy };
}

// A network of two layers with ReLU between them; its parameters are w and b of each.
function forward([w1, b1, w2, b2], x) {
  const z = dense(x, w1, b1);
  const h = relu(z);
  return { z, h, y: dense(h, w2, b2) };
}
// The loss, and the parameters after one step of gradient descent.
function trainStep(params, x, target, lossOf, rate) {
  const [, , w2] = params;
  const { z, h, y } = forward(params, x);
  const { loss, dy } = lossOf(y, target);
  const last = denseBackward(h, w2, dy);
  const first = denseBackward(x, params[0], reluBackward(z, last.dx));
  const gradients = [first.dw, first.db, last.dw, last.db];
  const moved = params.map((p, k) => matrix(p.r, p.c, p.v.map((v, i) => v - rate * gradients[k].v[i])));
  return { loss, params: moved };
}
