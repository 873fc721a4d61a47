"""The small GPT of the learn page: trained when the page is made, and one step of it explained."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fbp.explainer._explain import Explanation, explain
from fbp.explainer._learn_fits import letters
from fbp.explainer._text import proof_lines, rms
from fbp.explainer._traced import Event
from fbp.models import NextToken, gpt2
from fbp.step import state_of, steps_of
from fbp.text import CharTokenizer, generate, random_windows

WORDS = (
    *("one", "two", "three", "four", "five"),
    *("six", "seven", "eight", "nine", "ten"),
)
CONTEXT, WIDTH, BLOCKS, BATCH, RATE = 24, 16, 2, 16, 1e-2
# What is explained is a step on this text, of plain gradient descent at this rate.
READ, SMALL_RATE = "three, four, five, six.\nt", 0.01
# Half a context, and then parts of as many letters each: they are all written by one program.
PROMPT, WRITTEN = "four, five, ", 5 * (CONTEXT // 2 + 1)


def counting(sentences: int = 300) -> str:
    """Sentences that count: each begins anywhere, and goes on for 3 to 5 numbers."""
    rng = np.random.default_rng(0)
    starts, lengths = rng.integers(0, 8, sentences), rng.integers(3, 6, sentences)
    counted = (WORDS[i : i + n] for i, n in zip(starts, lengths, strict=True))
    return "".join(", ".join(words) + ".\n" for words in counted)


def small_gpt(steps: int, say: Callable[[str], None]) -> dict[str, Any]:
    """What the page says of it."""
    text = counting()
    tokenizer = CharTokenizer.of(text)
    model = gpt2(
        vocab=tokenizer.vocab,
        context=CONTEXT,
        width=WIDTH,
        heads=2,
        layers=BLOCKS,
        hidden=4 * WIDTH,
    )
    objective = NextToken(model)
    first = jax.jit(objective.init)(jax.random.key(0))
    size = sum(a.size for a in jax.tree.leaves(first))
    say(f"a GPT of {size:,} parameters: {steps:,} steps of training on sentences that count")
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))
    batches = random_windows(tokenizer.encode(text), BATCH, CONTEXT, seed=0)(0, steps)
    state, losses = steps_of(objective, optimizer)(state_of(first, optimizer), batches)

    def written(params: Any) -> str:
        prompt = jnp.asarray(tokenizer.encode(PROMPT))
        key = jax.random.key(1)
        return tokenizer.decode(
            np.asarray(generate(model, params, prompt, WRITTEN, key, context=CONTEXT))
        )

    before, after = written(first), written(state.params)
    say(f"one step of it explained, on {READ!r}")
    ids = tokenizer.encode(READ)
    batch = jnp.asarray(ids[None, :-1]), jnp.asarray(ids[None, 1:])
    step = explain(objective, state.params, batch, optimizer=optax.sgd(SMALL_RATE))
    update = step.update
    assert update is not None
    chances = jax.jit(lambda params: jax.nn.softmax(model.forward(params, batch[0])[0][0]))
    return {
        "sentences": text.splitlines()[:3],
        "size": size,
        "blocks": BLOCKS,
        "steps": steps,
        "losses": [round(float(v), 5) for v in losses],
        "prompt": PROMPT,
        "before": before,
        "after": after,
        "tokens": list(READ),
        "ids": ids[1:].tolist(),
        "characters": list(tokenizer.chars),
        "p": letters(chances(state.params)),
        "value": step.value,
        "rate": SMALL_RATE,
        "expected": update.foretold,
        "then": update.value,
        "events": [_event(step, event) for event in step.events],
        "proof": proof_lines(step),
        "wrong": list(step.wrong),
        "page": step.page(
            "a small GPT that counts",
            tuple(READ),
            optimizer=[f"gradient descent with the learning rate {SMALL_RATE:g}"],
        ),
    }


def _event(step: Explanation, event: Event) -> list[Any]:
    """Its kind, the layer's name, class and first sentence, and the size of what came out."""
    if event.kind == "loss":
        return [event.kind, "loss", "", step.loss.rule[0], step.value]
    layer = step.layers[event.layer]
    name = layer.path + (f" [{event.run}]" if len(layer.passes) > 1 else "")
    one = layer.passes[event.run]
    size = rms(one.dy if event.kind == "backward" else one.y)
    return [event.kind, name, type(layer.layer).__name__, (layer.rule or ("",))[0], size or 0.0]
