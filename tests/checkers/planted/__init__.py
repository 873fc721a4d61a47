"""Gradient bugs planted on purpose, to compare gradient checkers on.

`BUGS` are wrong rules and `CORRECT` the same families with the right rule. Both were fixed before
any checker was tuned on them.
"""

import importlib

from planted._bug import Bug as Bug
from planted._bug import Correct as Correct
from planted._bug import NeedsDevices as NeedsDevices

_NAMES = [
    *("_linear", "_products", "_norms", "_batch", "_softmax", "_activations", "_units", "_losses"),
    *(
        "_regression",
        "_attention",
        "_masks",
        "_heads",
        "_conv",
        "_pooling",
        "_recurrent",
        "_reductions",
    ),
    *("_indexing", "_order", "_jvp", "_cotangents", "_nested", "_variants", "_structure"),
    *("_random", "_sharded"),
    *("_nonlinear", "_singular", "_blocks", "_infeasible"),
    *("_windows", "_reverse", "_normalisers", "_iterations"),
]
_MODULES = [importlib.import_module(f"planted.{name}") for name in _NAMES]
BUGS: list[Bug] = [bug for module in _MODULES for bug in module.BUGS]
CORRECT: list[Correct] = [family.correct for module in _MODULES for family in module.FAMILIES]
