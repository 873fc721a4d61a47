"""Layers: one layer, or one family, per file."""

from fbp.layers._activations import Gelu as Gelu
from fbp.layers._activations import LeakyRelu as LeakyRelu
from fbp.layers._activations import Relu as Relu
from fbp.layers._activations import Sigmoid as Sigmoid
from fbp.layers._activations import Silu as Silu
from fbp.layers._activations import Softplus as Softplus
from fbp.layers._activations import Tanh as Tanh
from fbp.layers._affine import Bias as Bias
from fbp.layers._affine import Scale as Scale
from fbp.layers._batch_norm import BatchNorm as BatchNorm
from fbp.layers._batch_norm import FixedBatchNorm as FixedBatchNorm
from fbp.layers._conv import Conv2D as Conv2D
from fbp.layers._dense import Dense as Dense
from fbp.layers._dropout import Dropout as Dropout
from fbp.layers._flatten import Flatten as Flatten
from fbp.layers._flatten import Unflatten as Unflatten
from fbp.layers._group_norm import GroupNorm as GroupNorm
from fbp.layers._pool import AvgPool2D as AvgPool2D
from fbp.layers._pool import GlobalAvgPool2D as GlobalAvgPool2D
from fbp.layers._pool import MaxPool2D as MaxPool2D
from fbp.layers._softmax import LogSoftmax as LogSoftmax
from fbp.layers._softmax import Softmax as Softmax
