"""Runs: from data and a task to a folder with weights.

In: a task, which is data and how to learn it (`_tasks`, `_table_task`, from tables/ and text/).
Out: `runs/<name>/` (`_run`): weights, metrics, a picture (`_picture`), read back by `_stored`.
`_loop` takes the steps. `_arrays` draws the batches of a table and measures on it, as
`fbp/text/_windows.py` and `text/_recipe` do of a text. `_opened` is what every run does beside its
steps. `_train` is the whole of a run for tables, `text/_train` that for text, `_made` that for a
model of the user's own; `_predict` uses a trained model.
"""

from fbp.train._arrays import batches as batches
from fbp.train._arrays import evaluator as evaluator
from fbp.train._fit import fit as fit
from fbp.train._loop import Fit as Fit
from fbp.train._made import Made as Made
from fbp.train._made import made_of as made_of
from fbp.train._made import train_made as train_made
from fbp.train._predict import predict as predict
from fbp.train._run import Run as Run
from fbp.train._settings import Settings as Settings
from fbp.train._stored import load as load
from fbp.train._stored import load_text as load_text
from fbp.train._table_task import table_task as table_task
from fbp.train._tasks import TASKS as TASKS
from fbp.train._train import train as train
from fbp.train.tables._table import InputError as InputError
from fbp.train.text._data import Beside as Beside
from fbp.train.text._model import TextModel as TextModel
from fbp.train.text._pretrained import Pretrained as Pretrained
from fbp.train.text._pretrained import load_language_model as load_language_model
from fbp.train.text._task import TEXT_TASKS as TEXT_TASKS
from fbp.train.text._task import Sizes as Sizes
from fbp.train.text._task import text_task as text_task
from fbp.train.text._task import tuning_task as tuning_task
from fbp.train.text._train import train_text as train_text
