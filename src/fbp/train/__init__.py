"""Training: data, steps, runs. The only room that reads and writes files."""

from fbp.train._step import State as State
from fbp.train._step import init_state as init_state
from fbp.train._step import make_step as make_step
from fbp.train._step import make_steps as make_steps
