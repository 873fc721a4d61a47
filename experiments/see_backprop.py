"""One step of backpropagation through the README's own run, as a page, and as two pictures.

    python experiments/see_backprop.py

About half a minute on 2 CPU cores. Trains the handwritten digits as `fbp train` does, takes one
step of it apart, early in the run, and leaves in runs/see_backprop/ a page to walk through it with,
step.html, and the sizes of its gradients, gradients.svg, beside the answers of the run,
answers.svg. Expected: each layer's own rule is what autodiff of its forward says at these numbers,
to some units of rounding; the step on 8 rows changes their loss by about what its gradient
foretells; and the page, of about 0.7 megabytes, computes all its sums again where its address
ends in #selftest.
"""

from pathlib import Path

from fbp.cli import main as run_command
from fbp.train import Run
from fbp.train.checkpoints import checkpoints_in


def main(steps: int = 2000, rows: int = 8, runs: Path = Path("runs")) -> tuple[Path, bool]:
    """Returns the folder of the page and the pictures, and whether every rule is right."""
    run = Run.create(runs, None, "digits").folder
    run.rmdir()  # a name that is free
    command = ["train", "digits", "--steps", str(steps), "--runs", str(runs), "--name", run.name]
    if run_command([*command, "--save-every", "1e-9", "--keep", "100"]):
        raise SystemExit("the training did not end well")
    saved = [path.name for path in checkpoints_in(run / "steps")]
    early = min(saved, key=lambda name: abs(int(name) - steps / 10))
    folder = Run.create(runs, None, "see_backprop").folder
    step = ["--rows", str(rows), "--step", early]
    wrong = run_command(["explain", str(run), *step, "--html", str(folder / "step.html")])
    for what in ("gradients", "answers"):
        shown = ["--what", what, "--out", str(folder / f"{what}.svg")]
        run_command(["plot", str(run), *(step if what == "gradients" else ()), *shown])
    return folder, not wrong


if __name__ == "__main__":
    print(f"in {main()[0]}")
