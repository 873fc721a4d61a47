"""Explains why a gradient is wrong.

In: findings with the verdict WRONG, and the runs. Out: hints, the best first (`_diagnose`), each
tried on other probes and on fresh draws (`_draws`, `_supported`). There is a file for each kind of
explanation: the gradient is not linear in the cotangent, or takes rows of it not at all or twice
(`_invariants`); it is a simple function of the reference and of what the function computes on its
way (`_factors` with `_made`, `_patterns`, `_residuals`, `_slopes`, `_where`); the reference with
another cotangent or input reproduces it (`_alterations`); the reference with one part of its
program changed reproduces it (`_terms`, by the switches in `_switches`, `_masks` and `_loops`);
`_searched` runs both. `_scene` collects the arrays that they compare. `_repro` writes a small
program that shows the error.
"""
