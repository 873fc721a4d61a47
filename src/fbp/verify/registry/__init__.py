"""Rules that are registered beside their code, and rules that are named on a command line.

In: `fbp.register(f, ...)`, or a name such as `pkg.module:f`. Out: `Rule` values, which pytest
(`_pytest_items`) and `fbp check` check; those of fbp itself are in `_own`. jax is imported only
when a rule is checked.
"""
