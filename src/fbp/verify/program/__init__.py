"""Programs of JAX as data: read, evaluated, widened, freed of their rules.

In: a function and its arguments, or a jaxpr. Out: jaxprs without custom rules (`_program`), in
float64 (`_wide`) or compiled (`_compiled`); an interpreter whose subclasses change what an equation
means (`_interpreter`), one of which notes how near comparisons come to a tie (`_margins`); and what
a check has to know of a program: its primitives, loops, effects, longest sum (`_traits`), the
constants it compares with (`_thresholds`).
"""
