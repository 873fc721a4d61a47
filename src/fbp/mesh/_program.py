"""What a compiled program does on one device, read from its text: FLOPs, and what it sends."""

import dataclasses
import functools
import math
import re
from typing import Any

# Bytes of an element, by XLA's names.
_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
}
SENDS = "all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute"
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')
_CHANNEL = re.compile(r"channel_id=(\d+)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)"
    r"|branch_computations=\{([^}]*)\}"
)


@dataclasses.dataclass(frozen=True)
class Sent:
    """One instruction that sends.

    Attributes:
      kind: "all-gather", "reduce-scatter", "all-reduce", "all-to-all" or "collective-permute".
      bytes: of its larger side, on one device.
      times: how often it runs in a call of the program.
      channel: its number; of one that is spread over several instructions, to hide it behind
        products, these have the same.
    """

    kind: str
    bytes: int
    times: int
    channel: int | None = None


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device does in a call of a program.

    Attributes:
      flops: of its matrix products and convolutions, loops counted by their trips.
      sent: every instruction that sends.
    """

    flops: int
    sent: tuple[Sent, ...]

    def moved(self, kind: str | None = None) -> int:
        """The bytes sent in a call, of one kind or of all."""
        return sum(one.bytes * one.times for one in self.sent if kind in (None, one.kind))


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    kind: str
    rest: str


def work_of(compiled: Any) -> Work:
    """Returns what one device does in a call of a compiled program.

    XLA's own cost analysis counts the body of a loop once. A loop whose trips are not known in the
    text counts once here too; of branches the one with the most work counts.

    Args:
      compiled: `jax.jit(f).lower(...).compile()`, or its text.
    """
    bodies, entry = _parsed(compiled if isinstance(compiled, str) else compiled.as_text())
    shapes = {name: {one.name: one.shape for one in body} for name, body in bodies.items()}

    @functools.cache
    def of(name: str) -> Work:
        flops, sent = 0, []
        for one in bodies[name]:
            if one.kind == "dot":
                flops += _dot(one, shapes[name])
            elif one.kind == "convolution":
                flops += _convolution(one, shapes[name])
            kind = one.kind.removesuffix("-start")
            if name.startswith("all-reduce-scatter"):  # so a TPU's programs call theirs
                kind = kind.replace("all-reduce", "reduce-scatter")
            if kind in SENDS:
                channel = _CHANNEL.search(one.rest)
                number = int(channel[1]) if channel else None
                sent.append(Sent(kind, _sent(one, shapes[name]), 1, number))
            called = [n for n in _called(one) if n in bodies]
            if one.kind == "conditional":
                called = sorted(called, key=lambda n: of(n).flops)[-1:]
            trips = _TRIPS.search(one.rest) if one.kind == "while" else None
            times = int(trips[1]) if trips else 1
            for inner in map(of, called):
                flops += times * inner.flops
                sent += [dataclasses.replace(s, times=times * s.times) for s in inner.sent]
        return Work(flops, tuple(_once(sent)))

    return of(entry)


def _once(sent: list[Sent]) -> list[Sent]:
    """Each channel once."""
    seen: dict[Any, Sent] = {}
    for i, one in enumerate(sent):
        key = ("of no channel", i) if one.channel is None else one.channel
        if key not in seen or one.times * one.bytes > seen[key].times * seen[key].bytes:
            seen[key] = one
    return list(seen.values())


def _parsed(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    bodies: dict[str, list[_Instruction]] = {}
    entry, body = "", []
    for line in text.splitlines():
        if not line.startswith(" ") and (head := _HEAD.match(line)):
            body = bodies[head[2]] = []
            entry = head[2] if head[1] else entry
        elif found := _LINE.match(line):
            body.append(_Instruction(*found.groups()))
    return bodies, entry


def _called(one: _Instruction) -> list[str]:
    names = []
    for single, several in _CALLED.findall(one.rest):
        names += [single] if single else [n.strip().lstrip("%") for n in several.split(",")]
    return names


def _dims(shape: str) -> list[int]:
    found = _SHAPE.search(shape)
    return [int(n) for n in found[2].split(",") if n] if found else []


def _size(shape: str) -> int:
    """The bytes of an array, or of all arrays of a tuple."""
    return sum(
        _BYTES.get(dtype, 4) * math.prod(int(n) for n in dims.split(",") if n)
        for dtype, dims in _SHAPE.findall(shape)
    )


def _operands(one: _Instruction, shapes: dict[str, str]) -> list[str]:
    """The shapes of what an instruction takes."""
    inside = one.rest.split("), ")[0]
    return [shapes[name] for name in re.findall(r"%?([\w.\-]+)", inside) if name in shapes]


def _dot(one: _Instruction, shapes: dict[str, str]) -> int:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
    lhs = _dims(_operands(one, shapes)[0])
    sums = [lhs[int(n)] for n in contracted[1].split(",") if n] if contracted else []
    return 2 * math.prod(_dims(one.shape)) * math.prod(sums)


def _convolution(one: _Instruction, shapes: dict[str, str]) -> int:
    labels = re.search(r"dim_labels=\w+_(\w+)->", one.rest)
    kernel = _dims(_operands(one, shapes)[1])
    each = [
        n for n, label in zip(kernel, labels[1] if labels else "", strict=False) if label != "o"
    ]
    return 2 * math.prod(_dims(one.shape)) * math.prod(each)


def _sent(one: _Instruction, shapes: dict[str, str]) -> int:
    return max(_size(one.shape), sum(map(_size, _operands(one, shapes))))
