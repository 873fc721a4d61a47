"""How the work of a rule is cut and laid out: what XLA is given, and on which platform.

A layer's equations are in its own file, of all there is at once. What is here changes how long they
take and how much memory, never what they compute. What a program is for decides, not the process
that writes it: `jax.lax.platform_dependent` chooses when the program is lowered.

    item                         in programs for  without it, times as long     file
    blocks of causal queries     all              CPU 1.5  1.6  1.9  2.1        attention.py
                                      jax 0.12:       1.5  1.5  1.4  1.3
    a few heads at a time        one CPU          CPU 1.2  2.1  2.4  1.8        attention.py
                                      jax 0.12:       1.0  1.7  3.3  1.9
    sums of blocks by columns    all              CPU 0.95 1.1  1.5  1.35       attention.py
                                      jax 0.12:       0.95 1.2  1.5  1.4
    attention in kernels         CUDA, see below  H200 5.6 forward, 3.5 back    attention_kernels.py
    head's axes rounded up       CUDA and ROCm    not measured by itself        unembed.py
    chunks of tokens             all              in memory: all logits         unembed.py
    heads in front of places     all              the equations are of matrices heads.py

So a TPU is given blocks of queries, whose parts of dk and dv are summed by columns, and chunks of
tokens; all heads at once, no kernels, and no axis rounded up.

The figures are of attention, forward and backward, of 64, 256, 512 and 1,024 places: medians of 31
rounds of `python experiments/schedules.py`, which turns each item off, in float32 with jax 0.10.2
on 2 cores of an AMD EPYC; those of the kernels are in `fbp/bench/__init__.py`. An item whose
figures are near 1 on the newest jax is needless.

Kernels are the one thing that asks the process, which must have a GPU: `jax.export` cannot write
them, and Pallas takes a while to import. A program for CUDA that a process without a GPU writes, to
compile it ahead of time, has blocks in their place.

Where both schedules are alike for the shapes at hand, there is no choice and nothing is traced
twice: of few or small heads (`attention._a_few_heads`), of few logits and of sizes that are round
(`unembed._by_platform`). `tests/test_schedules.py` compares the programs for a TPU and for CUDA of
hosts with 1 and with 2 CPUs, and runs every branch.
"""
