"""The peak memory of a process that trains with one contender."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from fbp.bench._contenders import CONTENDERS, Contender
from fbp.bench._measure import measure
from fbp.bench._sizes import WORKLOADS


def peak_of(contender: Contender, workload: str, dtype: str, steps: int) -> int | str:
    """The most bytes held by a process that compiles and trains some steps, or why it failed.

    These are the bytes on the device if the framework counts them, as on a GPU; else the resident
    memory of the process, with Python, its libraries and the compiler.
    """
    arguments = [workload, dtype, str(steps), contender.name]
    command = [sys.executable, "-m", "fbp.bench._peak", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode < 0:
        return f"ended by signal {-ended.returncode}"
    if ended.returncode:
        return (ended.stderr.strip().splitlines() or [f"ended with {ended.returncode}"])[-1]
    return int(ended.stdout.splitlines()[-1])


def _main(workload: str, dtype: str, steps: str, name: str) -> None:
    chosen = [c for c in CONTENDERS if c.name == name]
    figures, notes = measure(
        chosen, WORKLOADS[workload], dtype=jnp.dtype(dtype), rounds=1, chunk=int(steps)
    )
    if not figures:
        sys.exit(notes[0])
    counted = figures[0].peak or (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    print(counted or _resident())


def _resident() -> int:
    # On Linux `getrusage` includes the memory of the parent at the fork.
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return 1024 * int(line.split()[1])
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    _main(*sys.argv[1:])
