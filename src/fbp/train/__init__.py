"""Training: data, steps, runs. The only room that reads and writes files."""

from fbp.train._batch_statistics import with_batch_statistics as with_batch_statistics
from fbp.train._clipped import Clipped as Clipped
from fbp.train._loop import batches as batches
from fbp.train._predict import predict as predict
from fbp.train._pretrained import Pretrained as Pretrained
from fbp.train._pretrained import load_language_model as load_language_model
from fbp.train._run import Run as Run
from fbp.train._step import State as State
from fbp.train._step import init_state as init_state
from fbp.train._step import make_step as make_step
from fbp.train._step import make_steps as make_steps
from fbp.train._step import state_of as state_of
from fbp.train._step import step_of as step_of
from fbp.train._step import steps_of as steps_of
from fbp.train._table import InputError as InputError
from fbp.train._tasks import TASKS as TASKS
from fbp.train._tasks import table_task as table_task
from fbp.train._text_model import TextModel as TextModel
from fbp.train._text_task import TEXT_TASKS as TEXT_TASKS
from fbp.train._text_task import Sizes as Sizes
from fbp.train._text_task import text_task as text_task
from fbp.train._text_task import tuning_task as tuning_task
from fbp.train._text_train import train_text as train_text
from fbp.train._train import Settings as Settings
from fbp.train._train import train as train
