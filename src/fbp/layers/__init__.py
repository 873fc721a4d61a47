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
from fbp.layers._dense import Dense as Dense
from fbp.layers._gru import GRUCell as GRUCell
from fbp.layers._lstm import LSTMCell as LSTMCell
from fbp.layers._lstm import LSTMState as LSTMState
from fbp.layers._softmax import LogSoftmax as LogSoftmax
from fbp.layers._softmax import Softmax as Softmax
