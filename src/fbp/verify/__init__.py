"""Proof: hand-written rules against references. The only room that uses autodiff."""

from fbp.verify._cross_check import cross_check as cross_check
from fbp.verify._report import CrossCheck as CrossCheck
from fbp.verify._report import WrongGradientError as WrongGradientError
