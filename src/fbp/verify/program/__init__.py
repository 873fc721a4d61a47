"""JAX programs (jaxprs) as data: read, evaluated, widened to float64, stripped of custom rules.

In: a function and its arguments, or a jaxpr. Out: jaxprs without custom rules (`_program`), in
float64 (`_wide`) or compiled (`_compiled`); an interpreter whose subclasses change how an equation
is evaluated (`_interpreter`), to record how close comparisons come to a tie (`_margins`) or to
change one thing (`_altered`); and properties of a program that a check depends on: its primitives,
loops, effects, longest sum (`_traits`), the constants it compares with (`_thresholds`, which
follows values without running the program: `_affine`).
"""
