"""python tests/checkers [--seeds N] [--only REGEX] [--sizes tiny,real] [--checkers REGEX]
                         [--told] [--bugs] [--fast] [--workers N] [--limit S] [--json FILE]

About 8 hours on the 2 cores of a 2.6 GHz Xeon with five seeds and both sizes; with --fast (one
seed, tiny, torch's fast mode only) about 40 minutes; fbp alone on the bugs at one seed and tiny
sizes (--seeds 1 --sizes tiny --bugs --checkers '^fbp$') 10 minutes. Expected, at tiny sizes: of 466
bugs at one seed the first line, and of the first 341 of them with five seeds, 1,705 runs each (of
fbp, fast, with two), the others:

                     detected   leaf named   first line   warm, median
    fbp, 466 bugs      100.0 %      100.0 %       91.6 %         0.14 s
    fbp, fast           96.2 %       96.7 %                      0.05 s
    check_grads         86.3 %                                   0.02 s
    check_grads f64     89.9 %                                   0.02 s
    chex                66.3 %                                   0.02 s
    gradcheck           86.1 %                                   0.12 s
    gradcheck, fast     83.6 %                                   0.12 s

"First line" counts the bugs of which the first explanation on the card is true and names the cause,
as is written down beside each bug (`Bug.right`: before the card was seen, and completed where it
names the cause in other words), "term" those of which one of the first three does.

Gradient checkers beside each other: on rules with a planted bug (`planted.BUGS`), and on rules that
are right (`planted.CORRECT`, `alternatives.RULES`), where whatever is said is a false alarm. Each
has the same functions and the same random arguments:

    fbp                 fbp.check(f, *args), as it is and with budget="fast"
    check_grads         jax.test_util.check_grads with order=1, modes=("rev",) and its default
                        tolerances, in float32. (Its default modes need a forward derivative,
                        which a custom_vjp has not; order 2 differentiates twice.)
    check_grads f64     the same in float64, atol = rtol = 1e-6, eps = cbrt(2^-52) = 6e-6
    chex                chex.assert_numerical_grads(f, args, order=1, modes=("rev",)), float32
    gradcheck           torch.autograd.gradcheck at its defaults, in float64, of a Function that
                        calls the jitted f, and jax.vjp of it; and with fast_mode=True

The others are given f's float arguments alone; integers, keys and None are closed over. Detected
means that a checker says: the gradient is wrong. A checker that stops for another reason (a dtype,
a tracer, its own limits) counts under `error`; one that would take longer than --limit seconds, or
hold a Jacobian of more than 50 million numbers, under `slow`; neither is a detection. With --told
the bugs that show only at a special input or in a special use are given with it, to all alike.

Three rules that count as right raise alarms, which are true. Of `stats.norm.logcdf`, with the first
seed at tiny sizes in float32 (RANGE): deep in the tail jax 0.10.2's own derivative of log_ndtr,
which it takes, loses its digits: at -1500 it is 1595.6, and should be 1500.0. Of optax's
weighted_logsoftmax, and of safe_softmax_cross_entropy, which is made of it, at real sizes
(VARIANT): under `vmap` with one argument unbatched jaxlib 0.10.2 compiles them wrongly for a CPU,
and the gradient of all but the first of a batch is another one. With jaxlib 0.12.0, or with
XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type= , it is right.
"""

import argparse
import os
import warnings

import jax
from comparison import main

if __name__ == "__main__":
    os.environ.setdefault("PJRT_NPROC", "8")  # collectives of four devices on two cores
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description="Compares gradient checkers.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", metavar="REGEX", default="", help="names of rules")
    parser.add_argument("--sizes", default="tiny,real")
    parser.add_argument("--checkers", metavar="REGEX", default="")
    parser.add_argument("--told", action="store_true", help="bugs at their special inputs and uses")
    parser.add_argument("--bugs", action="store_true", help="no rules that are right")
    parser.add_argument("--fast", action="store_true", help="one seed, tiny, no slow gradcheck")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--part", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds for one gradcheck")
    parser.add_argument("--json", dest="json_file", metavar="FILE")
    print(main(**vars(parser.parse_args())))
