"""A rule in one form, and the two programs that a check runs of it.

In: what `fbp.check` was given: a function with rules, a layer, a loss or an objective, and its
arguments. Out: a `Subject`, which is a function of a list of arrays with a name for each
(`_subject`, made by `_subject_of`); that it has a rule at all (`_rule`); and its `Runs` (`_runs`),
compiled once and kept (`_cache`): the rule and its reference, side by side, in float64 and in the
working dtype. One run gives a `Pair` (`_pair`).
"""
