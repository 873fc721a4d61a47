"""The training step beside autodiff's and every peer's, measured in one process."""

from fbp.bench._contenders import CONTENDERS as CONTENDERS
from fbp.bench._contenders import Contender as Contender
from fbp.bench._measure import Figures as Figures
from fbp.bench._measure import measure as measure
from fbp.bench._sizes import WORKLOADS as WORKLOADS
from fbp.bench._sizes import GPTSizes as GPTSizes
