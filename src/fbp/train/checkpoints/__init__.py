"""Checkpoints: the whole state of a run, on disk, again and again, and read back bit for bit.

    runs/<name>/steps/00000400/state.safetensors   every array of the state, by its path
                               manifest.json       what the state is, and the SHA-256 of each file

`_named` turns a state into arrays by name, and back. `_disk` writes files so that they are there
after a crash; `_write` makes one checkpoint of them, whole or not at all; `_saver` does so beside
the training, in a thread. `_read` finds the newest checkpoint that is whole.
"""

from fbp.train.checkpoints._disk import SaveError as SaveError
from fbp.train.checkpoints._read import Checkpoint as Checkpoint
from fbp.train.checkpoints._read import checkpoints_in as checkpoints_in
from fbp.train.checkpoints._read import newest_whole as newest_whole
from fbp.train.checkpoints._read import read_checkpoint as read_checkpoint
from fbp.train.checkpoints._saver import Saver as Saver
from fbp.train.checkpoints._write import folder_of as folder_of
