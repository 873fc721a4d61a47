"""What a rule is tried on.

In: the runs of a subject. Out: probes, each of them inputs and cotangents: those given, near ones,
and the ones that rules break at (`_probes`, whose numbers come from `_draws`); and the rule under
JAX's transformations, each beside what it should give there (`_transforms`, run by `_variants`).
"""
