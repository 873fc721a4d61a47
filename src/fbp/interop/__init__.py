"""Conversion to and from the functions, models and weights of other libraries."""

from fbp.interop._config import expect as expect
from fbp.interop._config import expect_choice as expect_choice
from fbp.interop._config import read_config as read_config
from fbp.interop._files import FolderError as FolderError
from fbp.interop._from_jax import Autodiff as Autodiff
from fbp.interop._from_jax import from_jax as from_jax
from fbp.interop._from_jax import loss_from_jax as loss_from_jax
from fbp.interop._from_jax import objective_from_jax as objective_from_jax
from fbp.interop._safetensors import Tensors as Tensors
from fbp.interop._safetensors import read_tensors as read_tensors
from fbp.interop._to_jax import to_jax as to_jax
from fbp.interop._write import write_tensors as write_tensors
