"""What a model is made of: a table of its layers, their outputs, parameters and kept residuals."""

from fbp.explainer._summary import Summary as Summary
from fbp.explainer._summary import summary as summary
