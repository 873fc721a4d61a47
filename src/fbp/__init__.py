"""Functional backprop for JAX: layers with their chain rule written by hand.

Names are imported when first used, so that `import fbp` and the command line stay instant.
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fbp import mesh as mesh
    from fbp import models as models
    from fbp import text as text
    from fbp._cell import Cell as Cell
    from fbp._layer import Layer as Layer
    from fbp._layer import Loss as Loss
    from fbp._layer import split as split
    from fbp._microbatch import Microbatch as Microbatch
    from fbp._objective import Objective as Objective
    from fbp._objective import ObjectiveParams as ObjectiveParams
    from fbp._objective import input_grad as input_grad
    from fbp._value_and_grad import value_and_grad as value_and_grad
    from fbp.combinators import Add as Add
    from fbp.combinators import Concat as Concat
    from fbp.combinators import Each as Each
    from fbp.combinators import Graph as Graph
    from fbp.combinators import On as On
    from fbp.combinators import Parallel as Parallel
    from fbp.combinators import Pick as Pick
    from fbp.combinators import Recurrent as Recurrent
    from fbp.combinators import Remat as Remat
    from fbp.combinators import Repeat as Repeat
    from fbp.combinators import Residual as Residual
    from fbp.combinators import Serial as Serial
    from fbp.combinators import Stack as Stack
    from fbp.combinators import Sum as Sum
    from fbp.combinators import map_layers as map_layers
    from fbp.explainer import Explanation as Explanation
    from fbp.explainer import explain as explain
    from fbp.explainer import summary as summary
    from fbp.interop import from_jax as from_jax
    from fbp.interop import loss_from_jax as loss_from_jax
    from fbp.interop import objective_from_jax as objective_from_jax
    from fbp.interop import to_jax as to_jax
    from fbp.layers import Attention as Attention
    from fbp.layers import AvgPool2D as AvgPool2D
    from fbp.layers import BatchNorm as BatchNorm
    from fbp.layers import Bias as Bias
    from fbp.layers import Conv1D as Conv1D
    from fbp.layers import Conv2D as Conv2D
    from fbp.layers import ConvTranspose2D as ConvTranspose2D
    from fbp.layers import Dense as Dense
    from fbp.layers import Dropout as Dropout
    from fbp.layers import DynamicScaling as DynamicScaling
    from fbp.layers import Embedding as Embedding
    from fbp.layers import FixedBatchNorm as FixedBatchNorm
    from fbp.layers import Flatten as Flatten
    from fbp.layers import Gather as Gather
    from fbp.layers import Gelu as Gelu
    from fbp.layers import GlobalAvgPool2D as GlobalAvgPool2D
    from fbp.layers import GroupNorm as GroupNorm
    from fbp.layers import GRUCell as GRUCell
    from fbp.layers import LayerNorm as LayerNorm
    from fbp.layers import LeakyRelu as LeakyRelu
    from fbp.layers import LinearRecurrence as LinearRecurrence
    from fbp.layers import LinearScaling as LinearScaling
    from fbp.layers import Llama3Scaling as Llama3Scaling
    from fbp.layers import LogSoftmax as LogSoftmax
    from fbp.layers import LongRopeScaling as LongRopeScaling
    from fbp.layers import LSTMCell as LSTMCell
    from fbp.layers import LSTMState as LSTMState
    from fbp.layers import MaxPool2D as MaxPool2D
    from fbp.layers import MergeHeads as MergeHeads
    from fbp.layers import Positions as Positions
    from fbp.layers import Relu as Relu
    from fbp.layers import RMSNorm as RMSNorm
    from fbp.layers import Rope as Rope
    from fbp.layers import Sample as Sample
    from fbp.layers import Scale as Scale
    from fbp.layers import SegmentSum as SegmentSum
    from fbp.layers import Sigmoid as Sigmoid
    from fbp.layers import Silu as Silu
    from fbp.layers import Sinusoidal as Sinusoidal
    from fbp.layers import Softmax as Softmax
    from fbp.layers import Softplus as Softplus
    from fbp.layers import SplitHeads as SplitHeads
    from fbp.layers import SwiGLU as SwiGLU
    from fbp.layers import Tanh as Tanh
    from fbp.layers import TopKRouter as TopKRouter
    from fbp.layers import Unembed as Unembed
    from fbp.layers import Unflatten as Unflatten
    from fbp.layers import Upsample2D as Upsample2D
    from fbp.layers import YarnScaling as YarnScaling
    from fbp.losses import CTC as CTC
    from fbp.losses import Contrastive as Contrastive
    from fbp.losses import Huber as Huber
    from fbp.losses import LoadBalance as LoadBalance
    from fbp.losses import Losses as Losses
    from fbp.losses import MeanAbsoluteError as MeanAbsoluteError
    from fbp.losses import MeanSquaredError as MeanSquaredError
    from fbp.losses import NormalKLDivergence as NormalKLDivergence
    from fbp.losses import Quantile as Quantile
    from fbp.losses import SigmoidCrossEntropy as SigmoidCrossEntropy
    from fbp.losses import SoftmaxCrossEntropy as SoftmaxCrossEntropy
    from fbp.losses import SoftmaxKLDivergence as SoftmaxKLDivergence
    from fbp.losses import Triplet as Triplet
    from fbp.losses import UnembedCrossEntropy as UnembedCrossEntropy
    from fbp.losses import Weighted as Weighted
    from fbp.ports import Cast as Cast
    from fbp.ports import Freeze as Freeze
    from fbp.ports import LoRA as LoRA
    from fbp.ports import Tie as Tie
    from fbp.ports import Update as Update
    from fbp.ports import axes as axes
    from fbp.ports import freeze as freeze
    from fbp.ports import mixed_precision as mixed_precision
    from fbp.ports import trainable as trainable
    from fbp.step import Averaged as Averaged
    from fbp.step import Clipped as Clipped
    from fbp.step import LossScaled as LossScaled
    from fbp.step import SpikesSkipped as SpikesSkipped
    from fbp.step import State as State
    from fbp.step import only as only
    from fbp.step import plan as plan
    from fbp.step import state_in_turn as state_in_turn
    from fbp.step import state_of as state_of
    from fbp.step import step_in_turn as step_in_turn
    from fbp.step import step_of as step_of
    from fbp.step import steps_of as steps_of
    from fbp.step import with_batch_statistics as with_batch_statistics
    from fbp.verify import Report as Report
    from fbp.verify import WrongGradientError as WrongGradientError
    from fbp.verify import audit as audit
    from fbp.verify import check as check
    from fbp.verify import cross_check as cross_check
    from fbp.verify import register as register

_ROOMS = {
    "_cell": ["Cell"],
    "_layer": ["Layer", "Loss", "split"],
    "_microbatch": ["Microbatch"],
    "_objective": ["input_grad", "Objective", "ObjectiveParams"],
    "_value_and_grad": ["value_and_grad"],
    "combinators": [
        *["Add", "Concat", "Each", "Graph", "map_layers", "On", "Parallel", "Pick"],
        *["Recurrent", "Remat", "Repeat", "Residual", "Serial", "Stack", "Sum"],
    ],
    "explainer": ["explain", "Explanation", "summary"],
    "interop": ["from_jax", "loss_from_jax", "objective_from_jax", "to_jax"],
    "layers": [
        *["Attention", "AvgPool2D", "BatchNorm", "Bias"],
        *["Conv1D", "Conv2D", "ConvTranspose2D", "Dense"],
        *["Dropout", "DynamicScaling", "Embedding", "FixedBatchNorm", "Flatten"],
        *["Gather", "Gelu", "GlobalAvgPool2D", "GroupNorm"],
        *["GRUCell", "LayerNorm", "LeakyRelu", "LinearRecurrence", "LinearScaling"],
        *["Llama3Scaling", "LogSoftmax", "LongRopeScaling", "LSTMCell", "LSTMState"],
        *["MaxPool2D", "MergeHeads", "Positions", "Relu"],
        *["RMSNorm", "Rope", "Sample", "Scale"],
        *["SegmentSum", "Sigmoid", "Silu", "Sinusoidal"],
        *["Softmax", "Softplus", "SplitHeads", "SwiGLU"],
        *["Tanh", "TopKRouter", "Unembed", "Unflatten"],
        *["Upsample2D", "YarnScaling"],
    ],
    "losses": [
        *["Contrastive", "CTC", "Huber", "LoadBalance"],
        *["Losses", "MeanAbsoluteError", "MeanSquaredError", "NormalKLDivergence"],
        *["Quantile", "SigmoidCrossEntropy", "SoftmaxCrossEntropy", "SoftmaxKLDivergence"],
        *["Triplet", "UnembedCrossEntropy", "Weighted"],
    ],
    "mesh": [],
    "models": [],
    "ports": [
        *["axes", "Cast", "Freeze", "freeze", "LoRA", "mixed_precision", "Tie", "trainable"],
        *["Update"],
    ],
    "step": [
        *["Averaged", "Clipped", "LossScaled", "only", "plan", "SpikesSkipped", "State"],
        *["state_in_turn"],
        *["state_of", "step_in_turn", "step_of", "steps_of", "with_batch_statistics"],
    ],
    "text": [],
    "train": [],
    "verify": ["audit", "check", "cross_check", "register", "Report", "WrongGradientError"],
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

# What to use in the place of older names, which will go.
_DEPRECATED = {
    "init_state": "fbp.state_of(fbp.Objective(model, loss).init(key), optimizer)",
    "make_step": "fbp.step_of(fbp.Objective(model, loss), optimizer)",
    "make_steps": "fbp.steps_of(fbp.Objective(model, loss), optimizer)",
}

__version__ = "0.1.0"
__all__ = [*_ROOM_OF, "mesh", "models", "text"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"fbp.{name}")
    if name in _ROOM_OF:
        value = getattr(importlib.import_module(f"fbp.{_ROOM_OF[name]}"), name)
        globals()[name] = value
        return value
    if name in _DEPRECATED:
        cure = f"fbp.{name} is deprecated: use {_DEPRECATED[name]}"
        warnings.warn(cure, DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module("fbp.step._deprecated"), name)
    raise AttributeError(f"module 'fbp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
