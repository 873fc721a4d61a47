"""Decides whether the gradients of a rule are right.

In: probes, and the results of the runs on them. Out: findings, each a verdict on a leaf and the
probe that showed it, and a record of each leaf (`_findings`). `_examine` decides which probes
count; `_outputs` and `_gradients` compare in float64, `_narrow` in the working dtype. `_bounds`
derives the error that rounding may cause, `_leeways` what else may be off in a right gradient.
Where the gradient is not unique, `_limits` computes gradients around the point and `_hull` decides;
`_singularity` judges gradients that are not finite. Where autodiff has no reverse mode,
`_differences` replaces it. `_structure` checks that the rule returns the form of a gradient,
`_power` computes which errors would have been caught. `_measure` is for `fbp.cross_check`.
"""
