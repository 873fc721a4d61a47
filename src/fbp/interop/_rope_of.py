"""The rotary positions of a config.json, as layers and back."""

import math
from typing import Any

from fbp.interop._config import CONFIG, expect
from fbp.interop._files import FolderError
from fbp.layers import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    YarnScaling,
)
from fbp.layers._rope_scaling import Scaling, yarn_magnitude

Config = dict[str, Any]
_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
# The older name of the same type.
_SAME = {"su": "longrope"}


def rope_of(config: Config) -> tuple[float, Scaling | None]:
    """The base and the scaling of a config.

    Raises:
      FolderError: the type is none of these, or a value is missing or wrong.
    """
    # Newer folders have one object, older ones a number and a separate object for the scaling.
    rope = expect(config, "rope_parameters", dict, None)
    rope = rope or expect(config, "rope_scaling", dict, None) or {}
    base = expect({**config, **rope}, "rope_theta", float, 10_000.0, at_least=1)
    for place in (config, rope):
        if place.get("partial_rotary_factor", 1.0) not in (None, 1.0):
            got = place["partial_rotary_factor"]
            raise FolderError(f"{CONFIG}: expected partial_rotary_factor to be 1, got {got!r}")
    return base, _scaling(config, rope)


def _scaling(config: Config, rope: Config) -> Scaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    kind = _SAME.get(kind, kind) if isinstance(kind, str) else kind
    if kind not in _TYPES:
        known = ", ".join(_TYPES)
        raise FolderError(f"{CONFIG}: expected rope_type to be one of {known}, got {kind!r}")
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(expect(rope, "factor", float))
    if kind == "dynamic":
        longest = expect(config, "max_position_embeddings", int, at_least=1)
        return DynamicScaling(expect(rope, "factor", float), longest)
    context = _context(config, rope)
    if kind == "llama3":
        return Llama3Scaling(
            factor=expect(rope, "factor", float),
            low=expect(rope, "low_freq_factor", float),
            high=expect(rope, "high_freq_factor", float),
            context=context,
        )
    given = expect(rope, "attention_factor", float, None)
    if kind == "longrope":
        if given is None:
            factor = _factor(config, rope, context)
            given = math.sqrt(1 + math.log(factor) / math.log(context)) if factor > 1 else 1.0
        short, long = (_factors(rope, name) for name in ("short_factor", "long_factor"))
        return LongRopeScaling(short, long, context, given)
    factor = _factor(config, rope, context)
    return YarnScaling(
        factor,
        context,
        expect(rope, "beta_fast", float, None) or 32.0,
        expect(rope, "beta_slow", float, None) or 1.0,
        _yarn_magnitude(rope, factor) if given is None else given,
        expect(rope, "truncate", bool, True),
    )


def _factor(config: Config, rope: Config, context: int) -> float:
    """How many times the original context the longest sequence is."""
    factor = expect(rope, "factor", float, None)
    if factor is None:
        return expect(config, "max_position_embeddings", int, at_least=1) / context
    return factor


def _context(config: Config, rope: Config) -> int:
    """The original context: of the config, of its rope, or its longest sequence."""
    name = "original_max_position_embeddings"
    for place in (config, rope):
        found = expect(place, name, int, None, at_least=1)
        if found is not None:
            return found
    if config.get("max_position_embeddings") is None:
        return expect(rope, name, int, at_least=1)
    return expect(config, "max_position_embeddings", int, at_least=1)


def _yarn_magnitude(rope: Config, factor: float) -> float:
    some, every = (expect(rope, name, float, None) for name in ("mscale", "mscale_all_dim"))
    if some and every:
        return yarn_magnitude(factor, some) / yarn_magnitude(factor, every)
    return yarn_magnitude(factor)


def _factors(rope: Config, name: str) -> tuple[float, ...]:
    return tuple(expect({name: value}, name, float) for value in expect(rope, name, list))


def rope_config(base: float, scaling: Scaling | None) -> Config:
    """What a config.json says of these: `rope_of` backwards.

    Newer versions of transformers read `rope_parameters`, older ones the other two.
    """
    kind, more = _described(scaling)
    rope = {"rope_type": kind, **more}
    found: Config = {
        "rope_parameters": {**rope, "rope_theta": base},
        "rope_theta": base,
        "rope_scaling": None if scaling is None else rope,
    }
    if isinstance(scaling, DynamicScaling):
        found["max_position_embeddings"] = scaling.context
    return found


def _described(scaling: Scaling | None) -> tuple[str, Config]:
    if scaling is None:
        return "default", {}
    if isinstance(scaling, LinearScaling):
        return "linear", {"factor": scaling.factor}
    if isinstance(scaling, DynamicScaling):
        return "dynamic", {"factor": scaling.factor}
    if isinstance(scaling, Llama3Scaling):
        return "llama3", {
            "factor": scaling.factor,
            "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high,
            "original_max_position_embeddings": scaling.context,
        }
    if isinstance(scaling, YarnScaling):
        return "yarn", {
            "factor": scaling.factor,
            "beta_fast": scaling.fast,
            "beta_slow": scaling.slow,
            "attention_factor": scaling.magnitude,
            "truncate": scaling.whole,
            "original_max_position_embeddings": scaling.context,
        }
    if isinstance(scaling, LongRopeScaling):
        return "longrope", {
            "short_factor": list(scaling.short),
            "long_factor": list(scaling.long),
            "attention_factor": scaling.magnitude,
            "original_max_position_embeddings": scaling.context,
        }
    raise ValueError(f"save_pretrained: expected a scaling that transformers has, got {scaling!r}")
