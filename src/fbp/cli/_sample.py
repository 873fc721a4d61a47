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
    """The folder of a run, as runs/gpt, or of a GPT-2 or a Llama."""
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
        import jax

        from fbp.text import Choice
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
        prompt = tokenizer.encode(self.prompt)
        if not len(prompt):
            raise InputError("expected --prompt to be a text of one token or more, got none")
        if model.context is not None and len(prompt) > model.context:
            raise InputError(
                f"expected --prompt of at most {model.context} tokens, got {len(prompt)}"
            )
        new = model.generate(params, prompt, self.tokens, jax.random.key(self.seed), choice)
        # The prompt as it was given: decoding its tokens may give another text.
        print(self.prompt + tokenizer.decode(new))
        return 0
