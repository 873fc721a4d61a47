"""What a model is made of: a table of its layers, their outputs, parameters and kept residuals."""

from fbp.explain._summary import Summary as Summary
from fbp.explain._summary import summary as summary
