"""One neuron, one example, every number of one step of learning.

    python experiments/one_neuron.py

About 2 seconds on any CPU. Expected: the loss 3.61, the gradients -7.98 and -3.80, and after one
step with learning rate 0.01 the loss 2.87 (2.87106 in full).
"""

import jax
import jax.numpy as jnp

import fbp

X, TARGET, RATE = jnp.float32(2.1), jnp.float32(4.0), 0.01


def main() -> list[float]:
    model, loss = fbp.models.neuron(), fbp.MeanSquaredError()
    params = model.init(jax.random.key(0))
    w, b = params["w"], params["b"]

    print("1. A network is an optimization problem: which w has the least error?")
    for trial in (0.5, 1.0, 1.5, 1.9, 2.5):
        y, _ = model.forward({"w": jnp.float32(trial), "b": b}, X)
        print(f"     w = {trial:.1f}   loss {loss.value((), y, TARGET):.2f}")

    print("2. Forward, keeping what the backward needs")
    wx, res_w = model.layers[0].forward(w, X)
    y, res_b = model.layers[1].forward(b, wx)
    print(f"     w*x     = {w:.1f} * {X:.1f} = {wx:.2f}")
    print(f"     y = + b = {wx:.2f} + {b:.1f} = {y:.2f}")
    kept = fbp.summary(model, X)
    print(f"     kept: {kept.input_bytes} bytes, x itself, and {kept.kept_bytes} beside it")

    print("3. Loss: how wrong is y?")
    value, _, dy = loss.value_and_grad((), y, TARGET)
    print(f"     mean squared error  ({y:.1f} - {TARGET:.1f})^2 = {value:.2f}")
    for other in (fbp.MeanAbsoluteError(), fbp.Huber()):
        print(f"     {type(other).__name__:19} {other.value((), y, TARGET):.3f}")

    print("4. The chain rule: upstream times local, from the loss back to each parameter")
    db, dwx = model.layers[1].backward(b, wx, res_b, dy)
    dw, dx = model.layers[0].backward(w, X, res_w, dwx)
    print(f"     dloss/dy              = 2 * ({y:.1f} - {TARGET:.1f})  = {dy:.2f}")
    print(f"     dloss/db = dloss/dy * dy/db = {dy:.2f} * 1   = {db:.2f}")
    print(f"     dloss/dw = dloss/dy * dy/dw = {dwx:.2f} * {X:.1f} = {dw:.2f}")
    print(f"     dloss/dx = dloss/dy * dy/dx = {dwx:.2f} * {w:.1f} = {dx:.2f}")
    nudge = 0.001
    nudged, _ = model.forward({"w": w + nudge, "b": b}, X)
    moved = loss.value((), nudged, TARGET) - value
    print(f"     and indeed: w + {nudge} moves the loss by {moved:.5f} (dw * {nudge} = ", end="")
    print(f"{dw * nudge:.5f})")

    print(f"5. Gradient descent: against the gradient, by the learning rate {RATE}")
    print(f"     w = {w:.1f} - {RATE} * {dw:.2f} = {w - RATE * dw:.4f}")
    print(f"     b = {b:.1f} - {RATE} * {db:.2f} = {b - RATE * db:.4f}")

    print("6. The loop: forward, loss, backward, update")
    step = jax.jit(fbp.value_and_grad(model, loss))
    losses = []
    for i in range(51):
        value, dparams = step(params, (X, TARGET))
        losses.append(float(value))
        if i < 3 or i % 10 == 0:
            print(f"     step {i:2}   loss {value:.2f}  ({value:.5f} in full)")
        params = jax.tree.map(lambda p, d: p - RATE * d, params, dparams)
    return losses


if __name__ == "__main__":
    main()
