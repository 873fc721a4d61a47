"""The planted bugs are bugs, and the right rules beside them are right.

The reference is autodiff of the primal, without any rule, in float64. Every sixtieth
bug and right rule is tried always, every sixth among the slow tests, all with `-m exhaustive` too.
"""

import functools
import inspect
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest

BUGS = {bug.name: bug for bug in planted.BUGS}
CORRECT = {rule.name: rule for rule in planted.CORRECT}
KINDS = """zero sign factor transpose roll swap subset mask constant along row_scale slope precision
    term cotangent input nonfinite random structure variant"""
VERDICTS = "WRONG CONVENTION PRECISION RANGE NONDETERMINISTIC VARIANT STRUCTURE"


def some(names):
    """Every sixtieth name always, every sixth among the slow tests, all when asked for."""

    def marks(i):
        if not i % 60:
            return []
        return [pytest.mark.slow] if not i % 6 else [pytest.mark.slow, pytest.mark.exhaustive]

    return [pytest.param(name, marks=marks(i)) for i, name in enumerate(names)]


def with_first_verdict(*verdicts):
    return [name for name, bug in BUGS.items() if bug.verdicts[0] in verdicts]


def floats(args):
    """Path of a leaf -> place among the leaves, for the leaves that have a gradient."""
    return {
        tuple(str(getattr(key, "key", getattr(key, "idx", ""))) for key in keys): i
        for i, (keys, leaf) in enumerate(jax.tree.flatten_with_path(args)[0])
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    }


def leaf_names(f, args):
    """What a checker calls the leaves that have a gradient: x, params.w."""
    names = list(inspect.signature(f).parameters)
    return [".".join([names[int(first)], *rest]) for first, *rest in floats(args)]


def gradients(f, args):
    """The gradient of each float leaf, for one random cotangent."""
    leaves, tree = jax.tree.flatten(args)
    places = list(floats(args).values())

    def of_floats(*values):
        merged = list(leaves)
        for place, value in zip(places, values, strict=True):
            merged[place] = value
        return f(*jax.tree.unflatten(tree, merged))

    y, vjp = jax.vjp(of_floats, *(leaves[place] for place in places))
    rng = np.random.default_rng(1)
    return vjp(jax.tree.map(lambda a: rng.standard_normal(a.shape).astype(a.dtype), y))


def arguments(args, dtype=np.float64):
    """Tiny arguments, their floats in this dtype."""
    args = args(np.random.default_rng(0), "tiny")
    return jax.tree.map(lambda a: a.astype(dtype) if a.dtype == np.float32 else a, args)


@functools.cache
def reference(primal, args_of, within):
    args = arguments(args_of)
    return args, gradients(within(primal) if within else primal, args)


def differing(rule, args_of, within=None):
    """The leaves whose gradient is not the reference's; all of them where there is none."""
    args, right = reference(rule.primal, args_of, within)
    names = leaf_names(rule.primal, args)
    f = rule.make()
    try:
        ours = gradients(within(f) if within else f, args)
    except ValueError as error:
        if not within or "callback" not in str(error).lower():
            raise
        return set(names)
    return {name for name, a, b in zip(names, ours, right, strict=True) if not same(a, b)}


def same(a, b):
    """Equal to 1e-10 of an element, or to 1e-13 of the largest where terms cancel."""
    assert np.isfinite(b).all(), "the reference is not finite"
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    return (np.abs(a - b) <= 1e-10 * np.abs(b) + 1e-13 * np.abs(b).max(initial=0)).all()


@pytest.mark.parametrize("name", some(CORRECT))
def test_the_right_rule_is_right(name, x64):
    rule = CORRECT[name]
    try:
        assert differing(rule, rule.args) == set()
    except planted.NeedsDevices as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(
    "name", some(with_first_verdict("WRONG", "CONVENTION", "PRECISION", "RANGE", "VARIANT"))
)
def test_the_bug_is_wrong_in_the_leaves_it_names_and_in_no_other(name, x64):
    bug = BUGS[name]
    try:
        if bug.at or bug.within:
            assert differing(bug, bug.args) == set()
        assert differing(bug, bug.at or bug.args, bug.within) == set(bug.leaves)
    except planted.NeedsDevices as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", with_first_verdict("STRUCTURE"))
def test_the_form_of_the_bug_is_not_that_of_the_right_rule(name):
    bug = BUGS[name]
    args = arguments(bug.args, np.float32)
    right = CORRECT[name.split("/")[0]].make()
    assert form(bug.make(), args) != form(right, args)


def form(f, args):
    """What a rule's two halves hand back, apart from the gradients' values."""
    y, res = f.fwd(*args)
    bwd = jax.make_jaxpr(f.bwd, return_shape=True)
    jaxpr, gradients = bwd(res, y)
    shapes, tree = jax.tree.flatten(gradients)
    return np.asarray(y).tolist(), bool(jaxpr.effects), tree, [(s.shape, s.dtype) for s in shapes]


@pytest.mark.parametrize("name", with_first_verdict("NONDETERMINISTIC"))
def test_the_random_bug_differs_between_runs_in_the_leaves_it_names(name):
    bug = BUGS[name]
    args, f = arguments(bug.args, np.float32), bug.make()
    first, different = gradients(f, args), set()
    for _ in range(5):
        pairs = zip(leaf_names(bug.primal, args), first, gradients(f, args), strict=True)
        different |= {name for name, a, b in pairs if (a != b).any()}
    assert different == set(bug.leaves)


@pytest.mark.slow
def test_the_bugs_on_four_devices():
    flags = "--xla_force_host_platform_device_count=4"
    command = [sys.executable, "-m", "pytest", __file__, "-o", "addopts=", "-k", "parallel"]
    done = subprocess.run(
        command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True
    )
    assert re.search(r"\b7 passed", done.stdout), done.stdout


def test_what_the_lists_say():
    assert len(BUGS) == len(planted.BUGS) >= 466
    assert len(CORRECT) == len(planted.CORRECT)
    for name, bug in BUGS.items():
        assert name.split("/")[0] in CORRECT, name
        assert set(bug.verdicts) <= set(VERDICTS.split()), name
        assert bug.says.endswith("."), name
        assert bug.right, name
        for hint in bug.right:
            kind, _, pattern = hint.partition(":")
            assert kind in KINDS.split(), name
            re.compile(pattern)


@pytest.mark.parametrize("size", ["tiny", "real"])
def test_arguments_are_float32_integers_and_booleans(size):
    kinds = {np.dtype(t) for t in (np.float32, np.int32, np.uint32, np.bool_)}
    for bug in planted.BUGS:
        for args_of in filter(None, (bug.args, bug.at)):
            args = args_of(np.random.default_rng(0), size)
            assert {np.asarray(leaf).dtype for leaf in jax.tree.leaves(args)} <= kinds, bug.name
            names = leaf_names(bug.primal, args)
            if bug.verdicts[0] != "STRUCTURE":
                assert set(bug.leaves) <= set(names), bug.name
