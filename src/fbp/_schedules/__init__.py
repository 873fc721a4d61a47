"""Schedules: how the arithmetic of a rule is divided and laid out, by the platform of a program.

A layer's file has its equations, for whole arrays. A schedule changes how long they take and how
much memory they need, never what they compute. `jax.lax.platform_dependent` chooses the schedule
when the program is lowered, by the platform that it is compiled for, not the one it is traced on.

    item                        in programs for  time without it / with it           file
                                                 T =    64  256  512  1,024
    blocks of causal queries    all              CPU   1.5  1.6  1.9  2.1            attention.py
                                        jax 0.12       1.5  1.5  1.4  1.3
    a few heads at a time       one CPU          CPU   1.2  2.1  2.4  1.8            attention.py
                                        jax 0.12       1.0  1.7  3.3  1.9
    sums of blocks by columns   all              CPU   0.95 1.1  1.5  1.35           attention.py
                                        jax 0.12       0.95 1.2  1.5  1.4
    attention kernels           CUDA, see below  H200 5.6 forward, 3.5 backward attention_kernels.py
    head padded to 128          CUDA and ROCm    not measured by itself              unembed.py
    chunks of tokens            all              memory: logits never exist whole    unembed.py
    heads before positions      all              the equations are of matrices       heads.py

So a program for a TPU has blocks of queries, whose parts of dk and dv are summed by columns, and
chunks of tokens; it takes all heads at once, and has no kernels and no padding. The optimizer
inside the backward has two schedules of its own: a few rows at a time in programs for one CPU
(`fbp/ports/_update.py`), and on a GPU a select where others have a branch (`_update_if.py`).

The figures are of attention, forward and backward, by the number of positions T: medians of 31
rounds of `python experiments/schedules.py`, which turns each item off, in float32 with jax 0.10.2
on 2 cores of an AMD EPYC; those of the kernels are in `fbp/bench/__init__.py`. Above 1, the item
helps; one that is near 1 at every T on the newest jax can be removed.

Two schedules depend on the process that traces the program, too. Kernels are used only if it has a
GPU, since `jax.export` cannot serialize them and importing Pallas is slow; without one, a program
for CUDA has blocks in their place. And "one CPU" is a process with one CPU device, whatever its
number of cores: a program for the CPU from one with several, whose arrays may be sharded, has the
schedule of a TPU.

Tracing a rule for two platforms costs two traces. It is traced once where both schedules are the
same: with few or small heads (`attention._a_few_heads`), and with few logits or sizes that need no
padding (`unembed._by_platform`). `tests/test_schedules.py` lowers programs for a TPU and for CUDA
on hosts with 1 and with 2 CPU devices, requires them to be equal, and runs every branch.
"""
