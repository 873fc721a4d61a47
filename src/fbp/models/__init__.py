"""Models: each a short function that reads top to bottom."""

from fbp.interop._hugging_face import from_pretrained as from_pretrained
from fbp.interop._hugging_face import save_pretrained as save_pretrained
from fbp.models._char_lstm import char_lstm as char_lstm
from fbp.models._convnet import convnet as convnet
from fbp.models._gpt2 import gpt2 as gpt2
from fbp.models._head import NextToken as NextToken
from fbp.models._llama import llama as llama
from fbp.models._mlp import mlp as mlp
from fbp.models._mlp import neuron as neuron
from fbp.models._tuned import with_lora as with_lora
from fbp.models._tuned import without_lora as without_lora
