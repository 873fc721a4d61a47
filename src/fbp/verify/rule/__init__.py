"""Brings a rule into one form, and builds the two programs that a check runs.

In: the function with rules, layer, loss or objective given to `fbp.check`, and its arguments. Out:
a `Subject`, which is a function of a list of named arrays (`_subject`, made by `_subject_of`), once
it is known to have a usable rule (`_rule`); and its `Runs` (`_runs`), compiled once and kept
(`_cache`): the rule and its reference, autodiff of the function without rules (`_plain`), in
float64 and in the working dtype. One run returns a `Pair` (`_pair`). `_derived` makes further
programs of them when a check asks for one; `_callbacks` deals with functions that raise at run
time.
"""
