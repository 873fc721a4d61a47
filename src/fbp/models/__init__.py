"""Models: each a short function that reads top to bottom."""

from fbp.models._char_lstm import char_lstm as char_lstm
from fbp.models._mlp import mlp as mlp
from fbp.models._mlp import neuron as neuron
