"""The recipe of tables: from a linear model, as several networks, and no worse than the line."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp.cli import main
from fbp.train import Settings, predict, table_task, train
from fbp.train._members import MeanOfMembers, Members
from fbp.train._picture import draw_run
from fbp.train._predict import answering
from fbp.train._recipe import network
from fbp.train._table_task import recipe
from fbp.train._tasks import build_model
from fbp.train.tables._folds import folds
from fbp.train.tables._line import PENALTIES, _path, best_line
from fbp.train.tables._start import linear_start

MLP = fbp.models.mlp((3, 5, 2))


@pytest.mark.slow
def test_members_and_their_mean_have_right_gradients():
    params = Members(MLP, 4).init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (6, 4, 3))
    fbp.check(Members(MLP, 4), params, x).raise_if_wrong()
    fbp.check(MeanOfMembers(MLP, 4), params, x[:, 0]).raise_if_wrong()


def test_each_member_sees_its_own_rows_and_their_mean_is_the_answer():
    params = Members(MLP, 4).init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (6, 4, 3))
    y, _ = Members(MLP, 4).forward(params, x)
    alone = [MLP.forward(jax.tree.map(lambda p, i=i: p[i], params), x[:, i])[0] for i in range(4)]
    np.testing.assert_allclose(y, np.stack(alone, 1), rtol=1e-5, atol=1e-6)
    same = jnp.broadcast_to(x[:, :1], x.shape)
    mean, _ = MeanOfMembers(MLP, 4).forward(params, x[:, 0])
    y, _ = Members(MLP, 4).forward(params, same)
    np.testing.assert_allclose(mean, y.mean(1), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"expected x of shape \(\.\.\., 4, n_in\)"):
        Members(MLP, 4).forward(params, x[:, :3])


@pytest.mark.parametrize(("rows", "members"), [(100, 5), (103, 5), (10, 5), (100, 1), (11, 1)])
def test_no_member_is_measured_by_what_it_has_seen(rows, members):
    x = np.arange(rows, dtype=np.float32)[:, None]
    target = np.random.default_rng(0).normal(size=(rows, 1)).astype(np.float32)
    (tx, ty), (lx, ly) = folds(x, target, members, 0)
    for i in range(members):
        seen, left = tx[:, i, 0].astype(int), lx[:, i, 0].astype(int)
        assert not set(seen) & set(left)
        assert len(set(seen)) == len(seen)
        assert rows - 1 <= len(seen) + len(left) + (members > 1) * 1 <= rows + 1
        np.testing.assert_array_equal(ty[:, i], target[seen])
        np.testing.assert_array_equal(ly[:, i], target[left])
    if members > 1:
        everywhere = lx[:, :, 0].ravel()
        assert len(set(everywhere)) == len(everywhere) >= rows - rows % 5
    other = folds(x, target, members, 1)[1][0]
    assert rows < 20 or not np.array_equal(other, lx)


def test_rows_far_outside_are_never_left_out():
    x = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    x[[3, 50], 1] = 40
    target = np.arange(100, dtype=np.float32)[:, None]
    (seen, _), (left, _) = folds(x, target, 5, 0)
    assert (seen[..., 1] == 40).sum(0).tolist() == [2] * 5
    assert left.max() < 40
    x[:20, 0] = 40  # so many are not outside
    assert folds(x, target, 5, 0)[1][0].max() == 40


def test_every_part_has_every_class_of_some_size():
    target = np.array([0] * 90 + [1] * 10, np.int32)
    (_, seen), (_, left) = folds(np.zeros((100, 1), np.float32), target, 5, 0)
    assert seen.sum(0).tolist() == [8] * 5
    assert left.sum(0).tolist() == [2] * 5


def both(x, target):
    """One fold whose rows left out are those to train on."""
    rows = x[:, None].astype(np.float32), target[:, None]
    return rows, rows


def test_a_line_is_the_least_squares():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)) + 3
    target = (x @ [1, -2, 0.5, 0] + 7 + 0.1 * rng.normal(size=200))[:, None].astype(np.float32)
    w, b, penalty = best_line(*both(x, target), 0)
    assert penalty == PENALTIES[-1]
    centered = x - x.mean(0)
    shrunk = np.linalg.solve(
        centered.T @ centered / 200 + penalty * np.eye(4), centered.T @ target / 200
    )
    np.testing.assert_allclose(w[0], shrunk, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(b[0], target.mean(0) - x.mean(0) @ shrunk, rtol=1e-4)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_line_between_classes_is_where_the_slope_is_zero(classes):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3)).astype(np.float32) + 1
    z = x @ rng.normal(size=(3, classes)) + rng.gumbel(size=(300, classes))
    target = z.argmax(1).astype(np.int32)
    w, b, penalty = best_line(*both(x, target), classes)
    z = jnp.asarray(x @ w[0] + b[0])
    _, _, dz = fbp.SoftmaxCrossEntropy().value_and_grad((), z, jnp.asarray(target))
    # The penalty's slope is the other way; what is left is what the last step would have moved.
    np.testing.assert_allclose(x.T @ dz + penalty * w[0], 0, atol=2e-4)
    np.testing.assert_allclose(dz.sum(0), 0, atol=2e-4)


def test_the_error_of_each_row_by_the_model_of_all_others():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 3)) + 2
    target = x[:, :1] + rng.normal(size=(30, 1))
    for (_, _, alone), penalty in zip(_path(x, target, 0), PENALTIES, strict=True):
        errors = []
        for i in range(30):
            others = np.arange(30) != i
            a, t = x[others], target[others]
            # The same penalty of the sum of squares, around the mean of all rows.
            centered = np.c_[np.ones(29), a - x.mean(0)]
            ridge = centered.T @ centered + 30 * penalty * np.diag([0, 1, 1, 1])
            w = np.linalg.solve(ridge, centered.T @ t)
            errors.append(target[i] - np.r_[1, x[i] - x.mean(0)] @ w)
        np.testing.assert_allclose(alone, np.mean(np.square(errors)), rtol=1e-6)


def test_a_last_layer_of_zeros_adds_nothing():
    """As constants of the program, these zeros came out of XLA's CPU as 1e32 or NaN."""
    spec = {"kind": "mlp", "sizes": [19, 64, 64, 2], "activation": "relu", "members": 5}
    model = build_model(spec)
    params = model.init(jax.random.key(0))
    params["network"]["dense_3"] = jax.tree.map(jnp.zeros_like, params["network"]["dense_3"])
    x = np.random.default_rng(0).normal(size=(476, 19)).astype(np.float32)
    line, _ = MeanOfMembers(model.layer.layers[0], 5).forward(params["linear"], x)
    np.testing.assert_allclose(answering(model, params)(x), line, rtol=1e-4, atol=1e-5)


def test_of_noise_the_strongest_penalty_is_best():
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(60, 30)), rng.normal(size=(60, 1)).astype(np.float32)
    w, _, penalty = best_line(*folds(x, target, 5, 0), 0)
    assert penalty == PENALTIES[0]
    assert np.abs(w).max() < 0.1


@pytest.mark.parametrize("classes", [0, 3])
def test_training_starts_at_the_line(classes):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4)).astype(np.float32)
    target = rng.integers(0, 3, 50).astype(np.int32) if classes else x[:, :1] * 2
    spec = {"kind": "mlp", "sizes": [4, 8, 8, classes or 1], "activation": "relu", "members": 5}
    seen, left = folds(x, target, 5, 0)
    params = build_model(spec, side_by_side=True).init(jax.random.key(0))
    params = linear_start(params, seen, left, classes, jax.random.key(1))
    w, b, _ = best_line(seen, left, classes)
    y, _ = build_model(spec).forward(params, x)
    np.testing.assert_allclose(y, x @ w.mean(0) + b.mean(0), rtol=1e-4, atol=1e-5)
    # The first layer has its kinks at many places, and the line does not decay.
    assert np.std(params["network"]["dense_1"]["b"]) > 0.5
    marks = network(params)
    assert not any(jax.tree.leaves(marks["linear"]))
    assert all(jax.tree.leaves(marks["network"]))


@pytest.mark.parametrize("rows", [1, 9, 10, 100, 1000, 10_000, 10_001, 10**6])
def test_a_recipe_for_every_number_of_rows(rows):
    got = recipe(rows)
    assert got["members"] == (None if rows < 10 else 5 if rows <= 10_000 else 1)
    assert 0 < got["weight_decay"] <= 1
    assert 1000 <= got["steps"] <= 5000
    assert recipe(rows + 1)["weight_decay"] <= got["weight_decay"]


class Silent:
    def say(self, text):
        self.said = [*getattr(self, "said", []), text]

    def table(self, rows):
        pass

    def progress(self, step, steps, metrics):
        pass


def write(path, header, *columns):
    lines = [header, *(",".join(map(str, row)) for row in zip(*columns, strict=True))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def trained(tmp_path, header, *columns, seed=0):
    task = table_task(write(tmp_path / "t.csv", header, *columns), "y")
    report = Silent()
    run, fit = train(task, Settings(seed=seed, runs=tmp_path / "runs"), report)
    return json.loads((run.folder / "scores.json").read_text()), fit, report.said, run, task


def least_squares(task):
    """The R2 of the best line on the held-out rows."""
    (x, y), (held_x, held_y) = task.train, task.held_out
    w = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    left = held_y - np.c_[held_x, np.ones(len(held_x))] @ w
    return 1 - (left**2).mean() / held_y.var()


@pytest.mark.slow
def test_on_a_noisy_line_it_is_as_good_as_the_line(tmp_path):
    """150 rows, 8 inputs, more noise than line: where a network alone over-fits."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 8)).round(4)
    y = (x @ rng.normal(size=8) + 4 * rng.normal(size=150)).round(4)
    scores, fit, said, _, task = trained(tmp_path, "a,b,c,d,e,f,g,h,y", *x.T, y)
    assert scores["r2"] > least_squares(task) - 0.05
    assert fit.last_step < task.steps  # it was stopped early
    assert any("R2 " in line and "always" in line for line in said)


def test_on_a_curve_it_is_much_better_than_the_line(tmp_path):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-3, 3, (2, 400)).round(4)
    y = (np.sin(2 * a) + b**2 / 4 + 0.05 * rng.normal(size=400)).round(4)
    scores, _, _, run, task = trained(tmp_path, "a,b,y", a, b, y)
    assert least_squares(task) < 0.2
    assert scores["r2"] > 0.9
    # What was saved is what was measured.
    model, params, encoding = fbp.train.load(run)
    x, target = task.held_out
    left = np.asarray(model.forward(params, x)[0]) - target
    assert np.sqrt((left**2).mean()) * encoding.scale == pytest.approx(scores["rmse"], rel=1e-4)


@pytest.mark.slow
def test_classes_that_noise_alone_decides(tmp_path):
    """Nothing can be learned, and that is said."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5)).round(4)
    labels = np.where(rng.uniform(size=120) < 0.9, "often", "rare")
    scores, _, said, _, _ = trained(tmp_path, "a,b,c,d,e,y", *x.T, labels)
    assert scores["accuracy"] >= scores["baseline"] - 0.05
    if scores["accuracy"] <= scores["baseline"]:
        assert any(line.startswith("WARNING: held out: no better") for line in said)


def test_what_is_decided_by_the_held_out_rows(tmp_path):
    """Nothing: other targets there leave the same weights."""
    rng = np.random.default_rng(0)
    a, y = rng.normal(size=(2, 60)).round(4)
    task = table_task(write(tmp_path / "t.csv", "a,y", a, y), "y")
    x, target = task.held_out
    other = dataclasses.replace(task, held_out=(x, target[::-1] * 3))
    weights = []
    for i, t in enumerate((task, other)):
        settings = Settings(steps=40, check=False, name=f"r{i}", runs=tmp_path / "runs")
        run, _ = train(t, settings, Silent())
        weights.append(fbp.train.load(run)[1])
    jax.tree.map(np.testing.assert_array_equal, *weights)


@pytest.mark.parametrize("rows", [5, 9, 11, 13, 26])
def test_few_rows(tmp_path, rows, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a = np.arange(rows) % 7 + 0.5
    write(tmp_path / "t.csv", "a,y", a, a * 2 + 1 + np.sin(np.arange(rows)))
    assert main(["train", "--data", "t.csv", "--target", "y", "--steps", "10"]) == 0
    assert main(["predict", "runs/t", "--data", "t.csv"]) == 0
    assert f"{rows} predictions" in capsys.readouterr().out


@pytest.mark.parametrize("classes", [2, 12, 30])
def test_pictures_of_what_was_answered(tmp_path, classes, monkeypatch):
    drawn = []
    import fbp.train._picture as picture

    for name in ("draw_confusion", "draw_predicted"):
        draw = getattr(picture, name)

        def spy(ax, *args, name=name, draw=draw):
            draw(ax, *args)
            drawn.append((name, ax.get_xlabel(), len(ax.texts)))

        monkeypatch.setattr(picture, name, spy)
    rows = classes * 8
    labels = [f"c{i % classes}" for i in range(rows)]
    a, b = np.random.default_rng(0).normal(size=(2, rows)).round(3)
    task = table_task(write(tmp_path / "t.csv", "a,b,y", a, b, labels), "y")
    eye = np.eye(classes, dtype=np.float32)
    metrics = [{"step": 0, "loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}]
    png = draw_run(task, metrics, lambda x: eye[np.arange(len(x)) % classes]).bytes()
    assert png[:4] == b"\x89PNG"
    assert drawn == [("draw_confusion", "predicted", classes**2 if classes <= 12 else 0)]
    task = table_task(write(tmp_path / "u.csv", "a,b,y", a, b, a * 2 + b**2), "y")
    draw_run(task, [{"step": 0, "loss": 1.0, "val_loss": 1.0}], lambda x: x[:, :1])
    assert drawn[1][:2] == ("draw_predicted", "y, actual")


def test_a_run_of_before_members_still_loads():
    spec = {"kind": "mlp", "sizes": [3, 4, 2], "activation": "relu"}
    x = jnp.ones((5, 3))
    assert build_model(spec).forward(build_model(spec).init(jax.random.key(0)), x)[0].shape == (
        5,
        2,
    )


def test_the_line_it_began_with_is_said_where_it_stays(tmp_path):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 160)).round(4)
    labels = np.where(a + rng.normal(size=160) > 0, "up", "down")
    task = table_task(write(tmp_path / "t.csv", "a,b,y", a, b, labels), "y")
    report = Silent()
    settings = Settings(lr=10.0, steps=100, check=False, runs=tmp_path / "runs")
    run, fit = train(task, settings, report)
    assert fit.step == 0
    assert any("the linear models that they began with are kept" in line for line in report.said)
    # The answers that were scored are those of the line: a last layer of zeros changes nothing.
    _, params, _ = fbp.train.load(run)
    x, target = task.held_out
    linear = params["linear"]
    right = ((x @ linear["w"].mean(0) + linear["b"].mean(0)).argmax(1) == target).mean()
    scores = json.loads((run.folder / "scores.json").read_text())
    assert scores["accuracy"] == pytest.approx(right)
    assert right > scores["baseline"]
    _, quality, _ = predict(run, tmp_path / "t.csv", tmp_path / "out.csv")
    everything = np.concatenate([task.train[0], x]), np.concatenate([task.train[1], target])
    answers = (everything[0] @ linear["w"].mean(0) + linear["b"].mean(0)).argmax(1)
    assert quality.accuracy == pytest.approx((answers == everything[1]).mean())
