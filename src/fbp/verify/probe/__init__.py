"""The inputs, cotangents and transformations that a rule is tried on.

In: the runs of a subject. Out: probes, which hold inputs and cotangents: the given ones, similar
ones and edge cases (`_probes`, with numbers from `_draws`); and the rule under JAX's
transformations, each with the gradients expected there (`_transforms`, run by `_variants`), and
differentiated once more (`_second`).
"""
