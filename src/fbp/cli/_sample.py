"""`fbp sample`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

_OF_ALL = "(default: all)"


@dataclasses.dataclass(frozen=True)
class Sample:
    """Write on from a prompt with a language model, of a run or of a Hugging Face folder."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_FOLDER")]
    """The folder of a run, as runs/gpt, or of a GPT-2, Llama, Mistral, Qwen2 or Qwen3."""
    prompt: Annotated[str, tyro.conf.arg(metavar="TEXT")]
    """What to go on from."""
    tokens: Annotated[int, tyro.conf.arg(metavar="N")] = 200
    """How many tokens to write."""
    temperature: Annotated[float, tyro.conf.arg(metavar="X")] = 0.8
    """0 takes the likeliest token; 1 draws from the model's own distribution."""
    top_k: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_OF_ALL)] = None
    """Draw from the likeliest N tokens only."""
    top_p: Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint=_OF_ALL)] = None
    """Draw from the fewest tokens whose probabilities reach this."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """The same seed writes the same."""

    def run(self) -> int:
        """Prints the prompt and the new text, and returns the exit status."""
        import sys

        import jax

        from fbp.text import Choice, text_after
        from fbp.train import InputError, load_language_model

        if self.tokens < 1:
            raise InputError(f"expected --tokens to be 1 or more, got {self.tokens}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"expected --seed to be from 0 to {2**32 - 1}, got {self.seed}")
        model, params, tokenizer = load_language_model(self.folder)
        try:
            choice = Choice(self.temperature, self.top_k, self.top_p, tokenizer.vocab)
        except ValueError as error:
            raise InputError(str(error)) from None
        ids = tokenizer.encode(self.prompt)
        prompt = tokenizer.marks.before(ids)
        if not len(prompt):
            raise InputError(
                "expected --prompt to be a text of one token or more, got none: this tokenizer has "
                "no token to begin with"
            )
        if model.context is not None and len(prompt) > model.context:
            print(
                f"the prompt has {len(prompt):,} tokens; "
                f"the model reads the last {model.context:,}",
                file=sys.stderr,
            )
            prompt = prompt[-model.context :]
        key, stops = jax.random.key(self.seed), tokenizer.marks.stops
        new = model.generate(params, prompt, self.tokens, key, choice, stops)
        # The prompt as it was given: its tokens may say another text.
        print(self.prompt + text_after(tokenizer, ids, new))
        return 0
