"""Models: each a short function that reads top to bottom."""

from fbp.models._convnet import convnet as convnet
from fbp.models._mlp import mlp as mlp
from fbp.models._mlp import neuron as neuron
