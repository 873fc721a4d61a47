"""Plants bugs in every rule of fbp, one at a time, and runs fbp's tests on each.

`equivalent.toml` has the mutants that no test can tell from the rule, each with its reason. All of
them takes an hour of a core or two; a sample of 30 less than two minutes on two.
"""

import argparse
import os
import random
import sys
import time
import tomllib
from pathlib import Path

from fbp.verify.mutate import Mutant, MutateError, Result, mutants_in, places_of
from fbp.verify.mutate._score import row_of
from fbp.verify.mutate._trial import Trial

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
ROOMS = ("layers", "combinators", "ports", "losses")
# What rules of other files are made of.
SHARED = ["fbp._objective", "fbp._microbatch", "fbp._gradients:add", "fbp._gradients:like"]
SHARED += ["fbp._gradients:at_least_float32", "fbp._gradients:at_least_int32"]
SHARED += ["fbp._cell", "fbp._gradients:product_over_batch"]
SHARED += [f"fbp.layers._standardize:{name}" for name in ("standardize", "dstandardize")]
CONVOLUTION = ("correlate", "spread", "weight_gradient", "transposed", "_one_batch")
SHARED += [f"fbp.layers._convolution:{name}" for name in CONVOLUTION]
SHARED += [f"fbp.losses._mean:{name}" for name in ("shares", "weighted_sum", "unweighted")]
ATTEND = ("attend", "gradients", "blocks_of", "causal_blocks", "_places", "_summed")
ATTEND += ("_a_few_heads", "_kernels")
SHARED += [f"fbp._schedules.attention:{name}" for name in ATTEND]
CHUNKS = ("value", "value_and_grad", "chunks_of", "_sizes", "_by_platform", "_aligned", "_up")
SHARED += [f"fbp._schedules.unembed:{name}" for name in CHUNKS]
SHARED += ["fbp._schedules.attention_kernels", "fbp._schedules.attention_kernels:fits"]
BLOCKS = ("run", "scores", "dscores", "window.fget", "keys_of", "queries_of")
SHARED += [f"fbp._schedules.kernel_blocks:Blocks.{name}" for name in BLOCKS]
SHARED += [f"fbp._schedules.kernel_blocks:{name}" for name in ("unseen", "_quotient", "padded")]
SHARED += ["fbp.layers._attention_inputs:unpacked", "fbp.layers._activations:sigmoid_and_slope"]
SHARED += ["fbp._platform:has_several_cpus"]
HEADS = ("by_head", "by_place", "queries_a_key", "of_heads")
SHARED += [f"fbp._schedules.heads:{name}" for name in HEADS]
SHARED += [f"fbp.ports._update:{name}" for name in ("_update_in_scan", "_rewrite", "summed")]
SHARED += ["fbp.ports._part:Part.update", "fbp.ports._update:pieces_of"]
SHARED += [f"fbp.ports._squares:{name}" for name in ("sum_of_squares", "no_squares")]
SHARED += ["fbp.ports._update_if:update_if"]
FILES = ["contract", "losses", "combinators", "elementwise_reference", "step", "mutants_killed"]
FILES += ["unembed", "conv", "recurrent", "ports", "sequences", "in_backward", "fused_attention"]
FILES += ["convolutions", "trees", "time", "mixture"]
FILES += ["graph", "objective", "ctc", "metric_losses", "divergence"]
TESTS = [*(f"tests/test_{name}.py" for name in FILES), "-m", "not slow and not torch"]
NEAR = {
    "layers": [
        "contract",
        "elementwise_reference",
        "mutants_killed",
        "conv",
        "convolutions",
        "trees",
        "time",
        "mixture",
        "sequences",
        "recurrent",
    ],
    "combinators": ["combinators", "contract", "mutants_killed", "recurrent", "in_backward"],
    "ports": ["contract", "ports", "mutants_killed", "in_backward"],
    "losses": [
        *("losses", "elementwise_reference", "step", "mutants_killed", "unembed", "mixture")
    ],
    # Of files that few others are about.
    "_ctc.py": ["ctc"],
    "_metric.py": ["metric_losses", "losses"],
    "_length.py": ["metric_losses"],
    "_divergence.py": ["divergence"],
    "_losses.py": ["objective"],
    "_graph.py": ["graph", "contract"],
    "_parts.py": ["graph", "contract"],
    "_join.py": ["graph", "contract"],
    "_node.py": ["graph", "contract"],
    "attention_kernels.py": ["fused_attention"],
    "kernel_blocks.py": ["fused_attention"],
    **{
        f"_{name}.py": ["in_backward", "mutants_killed"]
        for name in ("update", "elementwise", "squares", "update_if")
    },
    "_unembed.py": ["unembed", "contract", "mutants_killed"],
    "unembed.py": ["unembed", "schedules"],
    **{
        f"{name}.py": ["sequences", "contract", "mutants_killed", "fused_attention", "schedules"]
        for name in ("_attention", "_attention_inputs", "attention", "heads")
    },
    "_platform.py": ["sequences", "in_backward", "schedules"],
    "_microbatch.py": ["objective", "step", "mutants_killed", "in_backward"],
    "_objective.py": ["objective", "step", "mutants_killed", "in_backward"],
    "_cell.py": ["contract", "recurrent", "mutants_killed"],
    "_gradients.py": ["contract", "losses", "step", "mutants_killed", "sequences"],
}
# What the tests call a class or a function where it is not its own name.
ATTENTION = ["attention", "heads", "blocks", "query", "scores"]
HEAD = ["unembed", "chunks", "loss_of_all", "rows", "aligned", "schedule", "vocabulary"]
SOFTMAX = ["softmax", "soft", "label", "classes", "ignored", "parts"]
CALLED = {
    **{"MeanSquaredError": ["mse"], "MeanAbsoluteError": ["mae"], "Elementwise": ["mse", "weight"]},
    **{"SigmoidCrossEntropy": ["sigmoid"], "SoftmaxCrossEntropy": SOFTMAX},
    **{"Microbatch": ["parts", "part"], "Objective": ["value_and_grad", "in_backward"]},
    **dict.fromkeys(("Attention", "unpacked", "_summed", "_places", "_kernels"), ATTENTION),
    **dict.fromkeys(("attend", "gradients", "blocks_of", "causal_blocks"), ATTENTION),
    "_a_few_heads": [*ATTENTION, "schedule"],
    **dict.fromkeys(("value", "value_and_grad", "chunks_of", "_sizes", "_by_platform"), HEAD),
    **{"_are_labels": SOFTMAX, "Freeze": ["freeze", "frozen"], "LoRA": ["lora"]},
    **{"shares": ["weight", "count"], "weighted_sum": ["weight", "count"]},
    **{"unweighted": ["weight"], "broadcast_weight": ["weight", "refused"]},
    **{"at_least_int32": [*SOFTMAX, "few_bits"]},
    **{"add": ["residual"], "like": ["trees_shapes"], "at_least_float32": ["bfloat16"]},
    **{name: ["conv"] for name in ("Convolution", *CONVOLUTION)},
    **{"Conv1D": ["conv1d", "causal"], "ConvTranspose2D": ["conv_transpose", "convolutions"]},
    **{
        "Sample": ["sample", "variance"],
        "Sinusoidal": ["sinus", "time"],
        "SegmentSum": ["segment"],
    },
    **{"Gather": ["gather", "segment", "outside"], "_rows": ["segment", "gather", "outside"]},
    **{"_gathered": ["segment", "gather"], "_added": ["segment", "gather"]},
    **{"LinearRecurrence": ["recurrence", "time"], "_earlier": ["recurrence", "time"]},
    **{"TopKRouter": ["router", "mixture"], "_at": ["router", "mixture"]},
    **{"SoftmaxKLDivergence": ["divergence"], "NormalKLDivergence": ["divergence"]},
    **{"CTC": ["ctc"], "Graph": ["graph"], "Losses": ["objective", "loss", "key"]},
    **{name: ["graph", "again", "part"] for name in ("Add", "Concat", "Each", "On", "Pick")},
    **{"LoadBalance": ["mixture"], "_scan": ["recurrence", "time"]},
    **{"Upsample2D": ["upsampl"], "MaxPool2D": ["max_pool"], "AvgPool2D": ["avg_pool"]},
    **{"GlobalAvgPool2D": ["global_avg"], "GroupNorm": ["group_norm"], "Sum": ["sum"]},
    **{"Update": ["in_backward"], "SquaredNorm": ["in_backward"], "Part": ["in_backward"]},
    **{"sum_of_squares": ["in_backward"], "no_squares": ["in_backward"]},
    **{"update_if": ["in_backward"]},
    **{"_update_in_scan": ["in_backward"], "_rewrite": ["in_backward"], "summed": ["in_backward"]},
    **{"pieces_of": ["in_backward", "pieces"]},
    **{"Stack": ["stack", "in_backward"], "_part": ["stack", "in_backward"]},
    **{"BatchNorm": ["batch_norm"], "FixedBatchNorm": ["fixed_batch"], "Rope": ["rope"]},
    **{"LayerNorm": ["layer_norm", "norms"], "RMSNorm": ["rms_norm", "norms"]},
    **{"SplitHeads": ["split_heads"], "MergeHeads": ["merge_heads"]},
    **{"Recurrent": ["lstm"], "UnembedCrossEntropy": ["unembed"]},
    **{"standardize": ["norm"], "dstandardize": ["norm"], "turned": ["rope"]},
    **{"_with": ["tie"], "_elements": ["max_pool"]},
    **{"_constants": ["batch_norm", "statistics"], "_batch_axes": ["batch_norm"]},
    **{"LSTMCell": ["lstm"], "GRUCell": ["gru"], "Cell": ["cell"]},
    **{"product_over_batch": ["cell", "dense"], "_window": ["pool"], "_pad": ["pool"]},
    **{"_product": ["attention"], "by_head": ["attention"], "by_place": ["attention"]},
    **{"queries_a_key": ["attention"]},
    **{name: ["fused_attention"] for name in ("FusedAttention", "Blocks", "padded", "_quotient")},
    **{name: ["fused_attention"] for name in ("_attend", "_by_queries", "_by_keys")},
    **{name: ["fused_attention"] for name in ("unseen", "fits")},
    **{
        "of_heads": ["few_heads"],
        "has_several_cpus": ["cpus"],
        "_aligned": ["rows"],
        "_up": ["rows", "vocabulary", "aligned"],
    },
    **{"sigmoid_and_slope": ["sigmoid", "silu", "gelu_tanh"]},
    **{"_first_larger": ["max_pool"], "_window_sums": ["avg_pool"], "_mean": ["norm"]},
    **{"_tanh_argument": ["gelu_tanh"], "_near": ["gelu_tanh"], "_normal_cdf": ["gelu_erf"]},
}


def targets() -> list[str]:
    """Every file of rules, and the functions they share."""
    files = [file for room in ROOMS for file in (ROOT / "src/fbp" / room).glob("_[a-z]*.py")]
    names = [".".join(file.relative_to(ROOT / "src").with_suffix("").parts) for file in files]
    return [*sorted(names), *SHARED]


def all_places() -> list:
    found = {}
    for target in targets():
        try:
            places = places_of(target, helpers=True)
        except MutateError:
            continue  # a file without a rule
        found.update({(place.file, place.node.lineno): place for place in places})
    return [found[key] for key in sorted(found)]


def near(mutant: Mutant) -> tuple[list[str], list[str]]:
    """The files of tests about a mutant's function, and what they call it."""
    name = mutant.function.partition(".")[0]
    called = CALLED.get(name, [name])
    path = Path(mutant.file).relative_to(ROOT / "src/fbp")
    about = NEAR.get(path.name) or NEAR.get(path.parts[0], NEAR["_objective.py"])
    files = [f"tests/test_{file}.py" for file in about]
    return [file for file in files if Path(file).exists()], [
        *(word.lower() for word in called),
        "test_mutants_killed",
    ]


def known_equivalents(mutants: list[Mutant]) -> tuple[dict[Mutant, str], list[str]]:
    """The mutants that are listed, with their reasons, and what is listed and is no mutant."""
    by_change: dict[tuple[str, ...], Mutant] = {}
    for m in mutants:
        file = str(Path(m.file).relative_to(ROOT))
        by_change.setdefault((file, m.function, m.before, m.after), m)
    reasons, stale = {}, []
    for entry in tomllib.loads(EQUIVALENT.read_text()).get("equivalent", []):
        afters = entry["after"] if isinstance(entry["after"], list) else [entry["after"]]
        for after in afters:
            mutant = by_change.get((entry["file"], entry["function"], entry["before"], after))
            if mutant is None:
                stale.append(f"{entry['file']} {entry['function']}: {entry['before']} -> {after}")
            else:
                reasons[mutant] = entry["reason"]
    return reasons, stale


def say(result: Result, done: int, of: int) -> None:
    if result.status == "survived" or "--verbose" in sys.argv:
        where, change, what = row_of(result)
        print(f"{where}  {result.mutant.function}  {change}  {what}", flush=True)
    elif sys.stdout.isatty():
        print(f"\r{done} of {of} ", end="", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="only functions with one of these in their names")
    parser.add_argument("--sample", type=int, metavar="N", help="only N mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--list", action="store_true", help="list the mutants, run nothing")
    parser.add_argument("--near", action="store_true", help="run only the tests of a rule's name")
    parser.add_argument("--verbose", action="store_true", help="say what kills each")
    args = parser.parse_args()
    os.chdir(ROOT)
    started = time.monotonic()
    places = all_places()
    mutants = mutants_in(places)
    reasons, stale = known_equivalents(mutants)
    for entry in stale:
        print(f"scripts/mutants: {EQUIVALENT.name} lists what is no mutant: {entry}")
    if args.names:
        mutants = [m for m in mutants if any(name in m.function for name in args.names)]
    if args.list:
        for m in mutants:
            print(f"{m.operator:10} {m.function}  {m}{'  EQUIVALENT' * (m in reasons)}")
        print(f"{len(mutants)} mutants, {len(reasons)} of them equivalent")
        return 1 if stale else 0
    live = [mutant for mutant in mutants if mutant not in reasons]
    if args.sample is not None and args.sample < len(live):
        live = random.Random(args.seed).sample(live, args.sample)
    tests = [test for test in TESTS if not test.startswith("tests/") or Path(test).exists()]
    with Trial(places, tests, args.workers) as trial:
        trial.near = near
        if args.sample is None and not args.names and not args.near:
            trial.check_baseline()
        score = trial.score(live, say, args.near)
        equivalent = [m for m in mutants if m in reasons]
        wrong = []
        if args.sample is None:
            # What a test can kill is not equivalent.
            wrong = trial.score(equivalent, near_only=True).killed
    for r in wrong:
        print(f"scripts/mutants: {EQUIVALENT.name} lists what is {r}: {r.mutant}")
    if args.sample is None:
        for m in equivalent:
            print(f"equivalent  {m.function}  {m}\n    {reasons[m]}")
    seconds = time.monotonic() - started
    print(
        f"{score.summary()}: {len(score.killed)} killed, {len(equivalent)} equivalent, "
        f"{len(score.survived)} survived in {seconds:.0f} s"
    )
    return 0 if score.ok and not stale and not wrong else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MutateError as error:
        print(f"scripts/mutants: {error}", file=sys.stderr)
        sys.exit(2)
