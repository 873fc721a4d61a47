"""Seeing what a network does and keeps."""

from fbp.explain._summary import Summary as Summary
from fbp.explain._summary import summary as summary
