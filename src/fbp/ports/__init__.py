"""Ports: wrappers that change which parameters a layer takes, and what comes back for them.

A combinator passes params down and hands dparams up without looking at either. So a wrapper may
take other params than its layer, and return something else in the place of dparams: a sum of two
gradients, gradients of another dtype, nothing at all.
"""

from fbp.ports._cast import Cast as Cast
from fbp.ports._cast import mixed_precision as mixed_precision
from fbp.ports._freeze import Freeze as Freeze
from fbp.ports._lora import LoRA as LoRA
from fbp.ports._tie import Tie as Tie
from fbp.ports._trainable import trainable as trainable
from fbp.ports._update import Update as Update
from fbp.ports._update import UpdateParams as UpdateParams
