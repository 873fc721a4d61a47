"""Losses: each returns its value and dloss/dy, with which the backward pass starts."""

from fbp.losses._balance import LoadBalance as LoadBalance
from fbp.losses._classification import SigmoidCrossEntropy as SigmoidCrossEntropy
from fbp.losses._classification import SoftmaxCrossEntropy as SoftmaxCrossEntropy
from fbp.losses._ctc import CTC as CTC
from fbp.losses._divergence import NormalKLDivergence as NormalKLDivergence
from fbp.losses._divergence import SoftmaxKLDivergence as SoftmaxKLDivergence
from fbp.losses._losses import Losses as Losses
from fbp.losses._mean import Weighted as Weighted
from fbp.losses._metric import Contrastive as Contrastive
from fbp.losses._metric import Triplet as Triplet
from fbp.losses._regression import Huber as Huber
from fbp.losses._regression import MeanAbsoluteError as MeanAbsoluteError
from fbp.losses._regression import MeanSquaredError as MeanSquaredError
from fbp.losses._regression import Quantile as Quantile
from fbp.losses._unembed import UnembedCrossEntropy as UnembedCrossEntropy
