"""Proof: hand-written rules against references, autodiff above all.

Names are imported when first used: the pytest plugin lives here and must not import jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fbp.verify._audit import audit as audit
    from fbp.verify._check import check as check
    from fbp.verify._cross_check import cross_check as cross_check
    from fbp.verify.registry._registry import register as register
    from fbp.verify.report._audit import AuditReport as AuditReport
    from fbp.verify.report._card import Hint as Hint
    from fbp.verify.report._card import LeafRow as LeafRow
    from fbp.verify.report._card import Report as Report
    from fbp.verify.report._cross_check import CrossCheck as CrossCheck
    from fbp.verify.report._cross_check import WrongGradientError as WrongGradientError

_FILES = {
    "_audit": ["audit"],
    "report._audit": ["AuditReport"],
    "report._card": ["Hint", "LeafRow", "Report"],
    "_check": ["check"],
    "_cross_check": ["cross_check"],
    "registry._registry": ["register"],
    "report._cross_check": ["CrossCheck", "WrongGradientError"],
}
_FILE_OF = {name: file for file, names in _FILES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _FILE_OF:
        raise AttributeError(f"module 'fbp.verify' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fbp.verify.{_FILE_OF[name]}"), name)
    globals()[name] = value
    return value
