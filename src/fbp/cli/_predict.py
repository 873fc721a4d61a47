"""`fbp predict`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True)
class Predict:
    """Write a table with a trained network's predictions beside its rows."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a run, as in runs/digits."""
    data: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """A table with the columns the network was trained on."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: DATA-predictions.csv)"),
    ] = None
    """The .csv file to write; never one that is there already."""

    def run(self) -> int:
        """Writes the predictions, and returns the exit status."""
        from fbp.train import Run, predict

        # Of new.csv.gz too it is new-predictions.csv.
        stem = Path(self.data.stem).stem if self.data.suffix == ".gz" else self.data.stem
        out = self.out or Path(f"{stem}-predictions.csv")
        rows, quality, said = predict(Run(self.run_folder), self.data, out)
        for line in said:
            print(line)
        for line in quality.said(f"{quality.rows:,} rows with the target") if quality else ():
            print(line)
        print(f"{rows:,} predictions, beside their rows, in {out}")
        return 0
