"""How the work of a rule is cut and laid out: what XLA is given, and on which platform.

A layer's equations are in its own file, of all there is at once. What is here changes how fast they
are and how much memory they take, never what they compute. What a program is for decides, not the
process that writes it: `jax.lax.platform_dependent` chooses when the program is lowered.

    item                            in a program for   what it buys (time without it / with it)
    blocks of causal queries        all                CPU 1.5, 1.6, 1.9, 2.1     attention.py
    heads a few at a time           one CPU            CPU 1.2, 2.1, 2.4, 1.8     attention.py
    sums of blocks by columns       all                CPU 0.95, 1.1, 1.5, 1.35   attention.py
    attention in kernels            CUDA, see below    not measured anew          attention_kernels.py
    head and chunks rounded up      CUDA and ROCm      not measured anew          unembed.py
    chunks of tokens                all                memory: logits of a chunk  unembed.py
    heads in front of places        all                the equations need matrices   heads.py

So a TPU is given blocks of queries, chunks of tokens, and nothing else of this.

The figures are of `python experiments/schedules.py`, which turns each item off: of attention,
forward and backward, of 64, 256, 512 and 1,024 places, 8 heads of 32, in float32 with jax 0.10.2,
on 2 cores of an AMD EPYC; jax 0.12.0 gave 1.5, 1.5, 1.4, 1.3; 1.0, 1.7, 3.3, 1.9; and 0.95, 1.2, 1.5,
1.4. Where they come out near 1 on the jax of the day, the item is needless.

Kernels are the one thing that asks the process: it must have a GPU. `jax.export` cannot write them,
and Pallas takes a while to import. A program for CUDA from a process without a GPU, as from a CPU
host that compiles ahead of time, has blocks in their place.

Where both schedules are alike for the shapes at hand, nothing is dispatched or traced twice: heads
that are few or small (`attention._a_few_heads`), heads of a model that are small or already round
(`unembed._by_platform`). `tests/test_schedules.py` compares programs for a TPU and for CUDA from
hosts with 1 and 2 CPUs, and holds every branch to the others.
"""
