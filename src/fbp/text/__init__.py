"""Text: tokenizers, where texts end, corpora, files of tokens, training windows, and generation."""

from fbp.text._choose import choose as choose
from fbp.text._corpus import Corpus as Corpus
from fbp.text._corpus import read_text as read_text
from fbp.text._corpus import stdlib_text as stdlib_text
from fbp.text._generate import Choice as Choice
from fbp.text._generate import generate as generate
from fbp.text._marks import Marks as Marks
from fbp.text._packing import Packing as Packing
from fbp.text._packing import pack as pack
from fbp.text._packing import packed_windows as packed_windows
from fbp.text._tokenizer import ByteTokenizer as ByteTokenizer
from fbp.text._tokenizer import CharTokenizer as CharTokenizer
from fbp.text._tokenizer import FileTokenizer as FileTokenizer
from fbp.text._tokenizer import Tokenizer as Tokenizer
from fbp.text._tokenizer import text_after as text_after
from fbp.text._tokenizer import tokenizer_from_json as tokenizer_from_json
from fbp.text._tokenizer import tokenizer_of as tokenizer_of
from fbp.text._tokens import open_tokens as open_tokens
from fbp.text._tokens import write_tokens as write_tokens
from fbp.text._train_tokenizer import named_tokenizer as named_tokenizer
from fbp.text._train_tokenizer import train_bpe as train_bpe
from fbp.text._windows import fixed_windows as fixed_windows
from fbp.text._windows import random_windows as random_windows
