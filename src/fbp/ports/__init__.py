"""Ports: wrappers that change the parameters a layer takes, and what is returned as their gradient.

A combinator passes params down and dparams up without inspecting them. So a wrapper may take other
params than its layer, and return something else in place of dparams: a sum of two gradients,
gradients in another dtype, zeros, or updated params.
"""

from fbp.ports._cast import Cast as Cast
from fbp.ports._cast import mixed_precision as mixed_precision
from fbp.ports._freeze import Freeze as Freeze
from fbp.ports._freeze import freeze as freeze
from fbp.ports._lora import LoRA as LoRA
from fbp.ports._tie import Tie as Tie
from fbp.ports._trainable import axes as axes
from fbp.ports._trainable import trainable as trainable
from fbp.ports._update import Update as Update
from fbp.ports._update import UpdateParams as UpdateParams
