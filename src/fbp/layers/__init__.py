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
from fbp.layers._attention import Attention as Attention
from fbp.layers._dense import Dense as Dense
from fbp.layers._dropout import Dropout as Dropout
from fbp.layers._embedding import Embedding as Embedding
from fbp.layers._embedding import Positions as Positions
from fbp.layers._embedding import Unembed as Unembed
from fbp.layers._gated import SwiGLU as SwiGLU
from fbp.layers._heads import MergeHeads as MergeHeads
from fbp.layers._heads import SplitHeads as SplitHeads
from fbp.layers._norms import LayerNorm as LayerNorm
from fbp.layers._norms import RMSNorm as RMSNorm
from fbp.layers._rope import Llama3Scaling as Llama3Scaling
from fbp.layers._rope import Rope as Rope
from fbp.layers._softmax import LogSoftmax as LogSoftmax
from fbp.layers._softmax import Softmax as Softmax
