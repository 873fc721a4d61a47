"""The training step: forward, loss, backward and update as one compiled program.

In: an objective, an optimizer, a state, a batch. Out: the next state and the loss. `_step` has the
plain step and the scan of many. `_in_backward` puts an `Update` around each Stack of a model, so
that the optimizer runs inside the backward: `fbp/ports/_update.py` passes each gradient from
`Stack.walk_back` to it. `_clipped` bounds the gradient's norm for both; `_plan` chooses what a
Stack keeps by a budget of memory. `_scaled`, `_averaged` and `_spikes` wrap an optimizer;
`_in_turn` takes steps of several objectives on the same params. Pure: nothing here reads or writes
a file.
"""

from fbp.step._averaged import Averaged as Averaged
from fbp.step._batch_statistics import with_batch_statistics as with_batch_statistics
from fbp.step._clipped import Clipped as Clipped
from fbp.step._in_turn import only as only
from fbp.step._in_turn import state_in_turn as state_in_turn
from fbp.step._in_turn import step_in_turn as step_in_turn
from fbp.step._plan import Plan as Plan
from fbp.step._plan import plan as plan
from fbp.step._scaled import LossScaled as LossScaled
from fbp.step._spikes import SpikesSkipped as SpikesSkipped
from fbp.step._step import State as State
from fbp.step._step import state_of as state_of
from fbp.step._step import step_of as step_of
from fbp.step._step import steps_of as steps_of
