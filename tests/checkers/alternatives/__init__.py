"""Rules that are right: a gradient checker must stay quiet on all of them.

They are those that libraries ship, and valid alternatives to what autodiff does: another formula,
another subgradient, tiled sums, float32 sums of bfloat16 inputs, kernels, integer and complex
arguments, rules inside other programs.
"""

from alternatives import (
    _attention,
    _complex,
    _elementwise,
    _jax,
    _jvp,
    _linear,
    _losses,
    _pallas_own,
    _pallas_shipped,
    _peers,
    _recurrent,
    _reductions,
    _structure,
    _subgradients,
    _transforms,
)
from alternatives._rule import Rule as Rule

_MODULES = [
    *(_elementwise, _subgradients, _reductions, _linear, _losses, _attention, _recurrent),
    *(_structure, _jvp, _complex, _transforms, _jax, _peers, _pallas_own, _pallas_shipped),
]
RULES: list[Rule] = [rule for module in _MODULES for rule in module.RULES]
