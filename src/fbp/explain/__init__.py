"""Tables of a model's layers: outputs, parameters and kept residuals."""

from fbp.explain._summary import Summary as Summary
from fbp.explain._summary import summary as summary
