"""Checks of hand-written backward rules against references, chiefly autodiff.

The steps of one check, `fbp.check(f, *args)`, and the folders they live in:

    _check        reads the arguments
    _stages       calls the steps below in this order, until a `_deadline`
    rule/         1. f and its arguments become a `Subject`: a function of a list of arrays.
                  2. Its program is traced with the rule, and with the rule removed. Both are
                     compiled, in float64 and in the working dtype: the `Runs`. program/ reads
                     and rewrites the jaxprs.
    probe/        3. Inputs and cotangents are drawn, ordinary ones, then edge cases: `Probe`s.
    judge/        4. On each probe the rule's gradients are compared with the reference's, in
                     float64 (is the formula right?), then in the working dtype (is it precise?).
                     The tolerance, the error that rounding alone explains, is derived in
                     `judge/_bounds.py`.
    probe/        5. The rule is run under jit, vmap, scan, ..., and differentiated: `Variants`.
    diagnose/     6. A wrong gradient is explained: which leaf, which elements, which term.
    _summing_up   7. Rows, one verdict, and the smallest errors that would have been caught.
    _other_sizes  8. What is right is tried at other sizes.
    report/       9. The `Report`: a value that prints as a card.

`fbp.audit` (`_audit`, `_audit_site`) finds the rules of a program and what reaches them (sites/),
and takes each rule through steps 2 to 9. `fbp.cross_check` (`_cross_check`) compares the gradient
of a whole objective with `jax.grad`, `_at_numbers` one layer's rule with autodiff of that layer,
for `fbp.explain`. `fbp.register`, the command line and the pytest plugin name
the rules to check (registry/). mutate/ inserts bugs in a rule to see whether tests find them.

`domains` has ready domains, and needs none of these.

Each of these imports only from those before it: program, rule, probe, judge, diagnose, `_check`,
`_audit` and registry/. report/ imports none of them.

Names are imported on first use, since the pytest plugin lives here and must not import jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fbp.verify import domains as domains
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
    if name == "domains":
        return importlib.import_module("fbp.verify.domains")
    if name not in _FILE_OF:
        raise AttributeError(f"module 'fbp.verify' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fbp.verify.{_FILE_OF[name]}"), name)
    globals()[name] = value
    return value
