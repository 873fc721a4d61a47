"""Models, each a short function that composes layers."""

from typing import TYPE_CHECKING, Any

from fbp.models._char_lstm import char_lstm as char_lstm
from fbp.models._convnet import convnet as convnet
from fbp.models._cross_attention import cross_attention as cross_attention
from fbp.models._documents import with_documents as with_documents
from fbp.models._gpt2 import gpt2 as gpt2
from fbp.models._head import NextToken as NextToken
from fbp.models._llama import llama as llama
from fbp.models._llama import mistral as mistral
from fbp.models._llama import qwen2 as qwen2
from fbp.models._llama import qwen3 as qwen3
from fbp.models._mlp import mlp as mlp
from fbp.models._mlp import neuron as neuron
from fbp.models._tuned import with_lora as with_lora
from fbp.models._tuned import without_lora as without_lora

if TYPE_CHECKING:
    from fbp.interop._hugging_face import from_pretrained as from_pretrained
    from fbp.interop._hugging_face import save_pretrained as save_pretrained

_OF_INTEROP = ("from_pretrained", "save_pretrained")


def __getattr__(name: str) -> Any:
    # The readers of pretrained weights are imported only when they are used.
    if name in _OF_INTEROP:
        from fbp.interop import _hugging_face

        return getattr(_hugging_face, name)
    raise AttributeError(f"module 'fbp.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_INTEROP})
