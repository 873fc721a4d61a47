"""Rules over four devices: data parallel and tensor parallel layers, with their sums over devices.

On a machine without them: XLA_FLAGS=--xla_force_host_platform_device_count=4.
"""

import jax
from jax import lax
from jax.sharding import PartitionSpec as P

from planted._bug import Family, NeedsDevices, normals, rule

DEVICES = 4


def over_devices(f, specs, out):
    """f on each of four devices, without jax's own check of what is replicated."""
    _need_devices()
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((DEVICES,), ("i",), axis_types=auto, devices=jax.devices()[:DEVICES])
    return jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)


def _need_devices():
    if jax.device_count() < DEVICES:
        raise NeedsDevices(f"needs {DEVICES} devices, there are {jax.device_count()}")


def data_parallel(x, w):
    """y = x w, the rows of x over the devices, w on each."""
    return over_devices(lambda x, w: x @ w, (P("i"), P()), P("i"))(x, w)


def data_parallel_rule(bug=""):
    def shard_backward(x, w, dy):
        dw = x.T @ dy
        if bug != "psum_missing":
            dw = lax.psum(dw, "i")
        if bug == "psum_twice":
            dw = lax.psum(dw, "i")
        if bug == "pmean":
            dw = dw / DEVICES
        return dy @ w.T, dw

    _need_devices()

    def backward(x, w, dy):
        return over_devices(shard_backward, (P("i"), P(), P("i")), (P("i"), P()))(x, w, dy)

    return rule(data_parallel, backward)


SHAPES = normals(((20, 7), (7, 3)), ((64, 128), (128, 32)))
DATA = Family("data_parallel", data_parallel, data_parallel_rule, SHAPES)
DATA_BUGS = [
    DATA.bug(
        "psum_missing",
        "w",
        ("term:psum|drop|dot_general", "cotangent", "input", "variant"),
        "dw is not summed over the devices.",
    ),
    DATA.bug("psum_twice", "w", ("factor:4",), "dw is summed over the devices twice."),
    DATA.bug("pmean", "w", ("factor:1/4|0.25",), "dw is a mean over the devices."),
]


def tensor_parallel(x, w):
    """y = x w, the columns of w over the devices, x on each."""
    return over_devices(lambda x, w: x @ w, (P(), P(None, "i")), P(None, "i"))(x, w)


def tensor_parallel_rule(bug=""):
    def shard_backward(x, w, dy):
        dx = dy @ w.T
        if bug != "psum_missing":
            dx = lax.psum(dx, "i")
        if bug == "psum_twice":
            dx = lax.psum(dx, "i")
        return dx, x.T @ dy

    _need_devices()

    def backward(x, w, dy):
        specs = (P(), P(None, "i"), P(None, "i"))
        return over_devices(shard_backward, specs, (P(), P(None, "i")))(x, w, dy)

    return rule(tensor_parallel, backward)


TENSOR = Family(
    "tensor_parallel",
    tensor_parallel,
    tensor_parallel_rule,
    normals(((5, 7), (7, 12)), ((64, 128), (128, 32))),
)
TENSOR_BUGS = [
    TENSOR.bug(
        "psum_missing",
        "x",
        ("term:psum|drop|dot_general", "cotangent", "input", "variant"),
        "dx is not summed over the devices.",
    ),
    TENSOR.bug("psum_twice", "x", ("factor:4",), "dx is summed over the devices twice."),
]

FAMILIES = [DATA, TENSOR]
BUGS = DATA_BUGS + TENSOR_BUGS
