"""The training step beside autodiff's and every peer's, measured in one process.

The workload gpt2 in bfloat16 took, in rounds of 4 steps on one NVIDIA H200 with jax 0.11.2 and
torch 2.11 (GPT-2 124M, 8 texts of 1,024 tokens, masters in float32; 710 TFLOP/s in a product of
8,192^3 alone; the two rows of fbp on another day than the others, on a card of the same kind):

                                    ms/step   temporaries, MiB   TFLOP/s
    jax.grad                           54.1             14,830       122
    jax.grad, remat: dots              44.7              3,924       148
    jax.grad, remat: nothing           44.3              2,772       149
    jax.grad, cuDNN attention          31.2              7,962       212
    PyTorch eager                      43.9                          151
    PyTorch, torch.compile             20.2                          328
    fbp                                25.6              2,194       258
    fbp, unrolled                      22.5              3,449       293

There fbp's attention alone, 96 heads of 1,024 places and size 64, took 74 us forward and 235 us
backward; cuDNN's 103 and 172; plain products 413 and 832.

And for the workload gpt in float32 on the 2 cores of a 2.6 GHz Xeon, jax 0.10.2 and torch 2.13,
3 rounds of 2 steps, in the median and at best:

                                             ms/step      temporaries, MiB
    jax.grad                                 2237  2221   961
    jax.grad, remat: dots                    2118  2058   287
    jax.grad, remat: dots, loss in chunks    2134  2104   287
    flax nnx                                 2024  1935   884
    equinox                                  2681  2540   885
    PyTorch eager                             723   644
    PyTorch, torch.compile                    828   765
    fbp                                       934   869   186
    fbp, unrolled                             900   838   327
    fbp, keep=inputs                         1030   988    91
    fbp, in backward                          985   898   171

The matrix products of fbp's step alone took 685 ms in XLA, nearly PyTorch's whole step.
"""

from fbp.bench._contenders import CONTENDERS as CONTENDERS
from fbp.bench._contenders import Contender as Contender
from fbp.bench._measure import Figures as Figures
from fbp.bench._measure import measure as measure
from fbp.bench._sizes import WORKLOADS as WORKLOADS
from fbp.bench._sizes import GPTSizes as GPTSizes
