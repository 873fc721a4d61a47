"""Why a gradient is wrong.

In: findings with the verdict WRONG, and the runs. Out: hints, the best first (`_diagnose`). Each
way to explain is a file: the gradient is a simple function of the reference (`_factors`,
`_patterns`, `_residuals`, `_slopes`, `_where`); the reference gives it when fed something else
(`_alterations`); it is the reference less one term of its program (`_terms`, by `_switches`).
`_scene` gathers what they look at. `_repro` writes a small program that shows it.
"""
