"""Whether what a rule gives is right.

In: probes, and what the runs give on them. Out: findings, each a verdict on a leaf and where it
showed, and a record of each leaf (`_findings`). `_examine` decides which probes count; `_outputs`
and `_gradients` compare; `_narrow` does so in the working dtype. How far rounding may take a right
gradient is derived in `_bounds`. Where the gradient is a choice or has no finite limit, `_limits`
looks around the point and `_hull` decides; where autodiff has no reverse mode, `_differences`
stands in. `_structure` asks whether the rule's answer has the form of a gradient, `_power` which
errors would have been caught. `_measure` is for `fbp.cross_check`.
"""
