"""The training step beside autodiff's and every peer's, measured in one process.

`measure` gave for the workload gpt2 in bfloat16, 5 to 7 rounds of 4 steps, on one NVIDIA H200 with
jax 0.11.2 and torch 2.11 (GPT-2 124M, 8 texts of 1,024 tokens, masters in float32; 710 TFLOP/s in
a product of 8,192^3 alone):

                                    ms/step   temporaries, MiB   TFLOP/s
    jax.grad                           54.1             14,830       122
    jax.grad, remat: dots              44.7              3,924       148
    jax.grad, remat: nothing           44.3              2,772       149
    jax.grad, cuDNN attention          31.2              7,962       212
    PyTorch eager                      43.9                          151
    PyTorch, torch.compile             20.2                          328
    fbp                                41.5              2,698       159
    fbp, keep=inputs                   44.4              1,471       149
    fbp, in backward                   42.4              2,590       156
    fbp, in backward, keep=inputs      47.3              1,137       140
    fbp, cuDNN attention               27.3              2,318       243

And for the workload gpt in float32 on the 2 cores of a 2.6 GHz Xeon, jax 0.10.2 and torch 2.13,
4 rounds of 2 steps, with other programs beside (the fastest round in brackets):

                              ms/step         temporaries, MiB
    jax.grad                  2522 (2211)     961
    jax.grad, remat: dots     2388 (2284)     287
    flax nnx                  2147 (1948)     884
    equinox                   2985 (2674)     885
    PyTorch eager              754  (747)
    PyTorch, torch.compile     755  (719)
    fbp                       1009  (977)     226
"""

from fbp.bench._contenders import CONTENDERS as CONTENDERS
from fbp.bench._contenders import Contender as Contender
from fbp.bench._measure import Figures as Figures
from fbp.bench._measure import measure as measure
from fbp.bench._sizes import WORKLOADS as WORKLOADS
from fbp.bench._sizes import GPTSizes as GPTSizes
