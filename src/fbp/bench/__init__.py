"""Compares fbp's training step with autodiff's and with other libraries', in one process.

The workload gpt2 in bfloat16, in rounds of 4 steps on one NVIDIA H200 with jax 0.11.2 and torch
2.11 (GPT-2 124M, 8 texts of 1,024 tokens, float32 masters; a product of 8,192^3 alone reaches 710
TFLOP/s; the two rows of fbp were measured on another day, on a card of the same kind):

                                    ms/step   temporaries, MiB   TFLOP/s
    jax.grad                           54.1             14,830       122
    jax.grad, remat: dots              44.7              3,924       148
    jax.grad, remat: nothing           44.3              2,772       149
    jax.grad, cuDNN attention          31.2              7,962       212
    PyTorch eager                      43.9                          151
    PyTorch, torch.compile             20.2                          328
    fbp                                25.6              2,194       258
    fbp, unrolled                      22.5              3,449       293

On the same card fbp's attention alone, with 96 heads, 1,024 positions and head width 64, took 74 us
forward and 235 us backward; cuDNN's took 103 and 172; plain products took 413 and 832.

The workload gpt in float32 on the 2 cores of a 2.6 GHz Xeon, with jax 0.10.2 and torch 2.13, by
`fbp bench gpt --products` in 7 rounds of 2 steps. The slowest round of a row took 1.15 times the
fastest, in the median of the rows. ms/step is the median, then the minimum; `of rate` is the time
of fbp's matrix products alone in XLA over the time of the step, the median over rounds:

                                             ms/step      temporaries, MiB   of rate
    jax.grad                                 2076  1924   961                0.35
    jax.grad, remat: dots                    1995  1814   287                0.36
    jax.grad, remat: nothing                 1971  1928   195                0.37
    jax.grad, remat: dots, loss in chunks    2081  1957   287                0.35
    flax nnx                                 1848  1787   884                0.40
    equinox                                  2510  2452   885                0.29
    PyTorch eager                             729   629                      0.99
    PyTorch, torch.compile                    726   668                      1.00
    fbp                                       844   798   177                0.83
    fbp, unrolled                             852   830   279                0.85
    fbp, keep=inputs                          974   911    83                0.72
    fbp, in backward                          926   854   167                0.80
    fbp, in backward, keep=inputs            1006   963    75                0.73
    matrix products alone                     730   672                      1.00

On this machine the products of fbp's step alone, in XLA, take as long as PyTorch's whole step,
which computes its products with a faster library.

The same on the 2 cores of a 2.6 GHz EPYC (Zen 4), in 7 rounds (slowest over fastest 1.21). All rows
but two were measured again, in 7 rounds (1.13), with MALLOC_ARENA_MAX=1
MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 in the environment, so that
glibc keeps freed memory. By default it returns large arrays to Linux, which then spends 0.8 s per
step of jax.grad and 0.1 s per step of fbp on allocating them again:

                                     ms/step  of rate   keeping memory: ms/step  of rate
    jax.grad                            1569     0.33                      1041     0.48
    jax.grad, remat: dots               1429     0.38                      1066     0.50
    jax.grad, remat: nothing            1494     0.35                      1100     0.45
    flax nnx                            1420     0.38                       887     0.57
    equinox                             1778     0.31                      1155     0.44
    PyTorch eager                        626     0.80                       598     0.84
    PyTorch, torch.compile               674     0.83                       598     0.85
    fbp                                  633     0.85                       589     0.84
    fbp, unrolled                        659     0.83                       583     0.87
    fbp, keep=inputs                     712     0.72
    fbp, in backward                     622     0.85                       596     0.88
    fbp, in backward, keep=inputs        740     0.76
    matrix products alone                522     1.00                       507     1.00

The workload deep, 12 layers of width 512, in 7 rounds on the Xeon (1.29) and on the EPYC (1.17).
Params and the state of AdamW take 437 MiB in addition to the temporaries:

                                     ms/step: Xeon   EPYC   temporaries, MiB
    jax.grad                                   784    568                410
    jax.grad, remat: dots                      761    532                222
    jax.grad, remat: nothing                   826    597                178
    fbp                                        618    480                229
    fbp, in backward                           698    458                 86
    fbp, in backward, keep=inputs              814    519                 32

The other workloads on the EPYC, as jax.grad's time over fbp's: vocab 1.29 (7 rounds, slowest over
fastest 1.26), t1024 4.5 (4 rounds, 1.21), t2048 5.5 (3 rounds of one step, 1.29), t4096 8.3 (2
rounds of one step, 1.10). The temporaries of vocab are 620 MiB with jax.grad, 302 MiB with fbp, and
290 MiB with fbp and the optimizer in the backward.
"""

from fbp.bench._contenders import CONTENDERS as CONTENDERS
from fbp.bench._contenders import Contender as Contender
from fbp.bench._measure import Figures as Figures
from fbp.bench._measure import measure as measure
from fbp.bench._sizes import WORKLOADS as WORKLOADS
from fbp.bench._sizes import GPTSizes as GPTSizes
