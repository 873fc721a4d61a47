"""`fbp plan`."""

import dataclasses
from typing import Annotated, Any

import tyro

from fbp._columns import align, size

# Layers, width, heads, and for llama heads of keys, numbers inside the feed-forward part, ids.
GPT2 = {
    "gpt2-124m": (12, 768, 12),
    "gpt2-355m": (24, 1024, 16),
    "gpt2-774m": (36, 1280, 20),
    "gpt2-1.5b": (48, 1600, 25),
}
LLAMA = {
    "llama-1b": (16, 2048, 32, 8, 8192, 128_256),
    "llama-7b": (32, 4096, 32, 32, 11_008, 32_000),
    "llama-13b": (40, 5120, 40, 40, 13_824, 32_000),
    "llama-70b": (80, 8192, 64, 8, 28_672, 32_000),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """Say what a training step would take on devices that are not here: memory, FLOPs, time.

    The step is compiled for simulated devices from shapes alone, so that no model is too large. It
    is that of AdamW, computed in bfloat16 with float32 parameters, and keeps only the input of each
    block.
    """

    model: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="{" + ",".join((*GPT2, *LLAMA)) + "}")
    ]
    """A GPT-2 or a Llama of this size."""
    mesh: Annotated[str | None, tyro.conf.arg(metavar="AXES", help_behavior_hint="")] = None
    """The devices, as data=2,fsdp=8,tensor=1."""
    devices: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Instead of --mesh: try every mesh of N devices."""
    chip: Annotated[str, tyro.conf.arg(metavar="{v5e,v5p,h100,h200}")] = "h100"
    """What the devices are."""
    batch: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: one a device)")
    ] = None
    """Sequences a step."""
    context: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: 1024 or 2048)")
    ] = None
    """Tokens a sequence."""
    in_backward: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Whether each layer is updated within the backward pass."""

    def run(self) -> int:
        """Prints the table, and returns 1 if no mesh that was tried fits, else 0."""
        from fbp._errors import InputError
        from fbp.mesh._planned import CHIPS, meshes_of

        self._require()
        chip = CHIPS[self.chip]
        n = self.devices or _product(str(self.mesh))
        self._simulate(n)
        meshes = [self.mesh] if self.mesh is not None else list(meshes_of(n))
        objective, context = self._objective()
        batch = self.batch or n
        head = (
            f"{self.model}: {batch:,} sequences of {context:,} tokens a step on {n:,} x {self.chip}"
        )
        print(f"{head}; a device:")
        rows, best = [], None
        for mesh in meshes:
            try:
                found = self._planned(objective, str(mesh), batch, context)
            except InputError as error:
                if self.mesh is not None:
                    raise
                print(f"not {mesh}: {error}")
                continue
            products, sending = found.seconds(chip)
            fits = found.memory <= chip.memory
            rows.append(
                [
                    str(mesh),
                    size(found.state),
                    size(found.temporaries),
                    "fits" if fits else f"needs {size(found.memory)}",
                    f"{found.work.flops / 1e12:.1f}",
                    f"{found.work.moved() / 1e9:.2f}",
                    f"{products:.3g}",
                    f"{sending:.3g}",
                    f"{100 * found.share(chip):.0f} %",
                ]
            )
            longest = max(products, sending)
            if fits and (best is None or longest < best[0]):
                best = longest, str(mesh), found.params
        if not rows:
            return 1
        columns = "mesh", "state", "temporaries", "memory", "TFLOP", "GB sent", "s products"
        print(align([[*columns, "s sending", "of peak"], *rows]))
        print("s: at the chip's best; of peak: if what is sent and the products hide each other")
        if best is None:
            print(f"none fits {size(int(chip.memory))}")
            return 1
        seconds, mesh, params = best
        print(
            f"{params / 1e9:.2f} billion parameters; the fastest that fits: --mesh {mesh}, "
            f"{batch * context / seconds:,.0f} tokens a second at best"
        )
        return 0

    def _require(self) -> None:
        from fbp._errors import InputError
        from fbp.mesh._planned import CHIPS

        known = (*GPT2, *LLAMA)
        if self.model not in known:
            raise InputError(f"{self.model}: expected one of {', '.join(known)}")
        if self.chip not in CHIPS:
            raise InputError(f"--chip {self.chip}: expected one of {', '.join(CHIPS)}")
        if (self.mesh is None) == (self.devices is None):
            got = "none" if self.mesh is None else "both"
            raise InputError(f"expected --mesh or --devices, got {got}")
        for name in ("devices", "batch", "context"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"expected --{name} to be 1 or more, got {value}")

    def _simulate(self, n: int) -> None:
        """Makes this process one of n devices, before JAX looks for any."""
        import jax

        from fbp._errors import InputError

        if n > 1024:
            raise InputError(f"expected at most 1,024 devices to be simulated, got {n:,}")
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", n)

    def _objective(self) -> tuple[Any, int]:
        """The model's objective, and the tokens of a sequence."""
        from fbp import Stack, map_layers, mixed_precision
        from fbp.models import NextToken, gpt2, llama

        if self.model in GPT2:
            layers, width, heads = GPT2[self.model]
            context = self.context or 1024
            model = gpt2(vocab=50_257, context=context, width=width, heads=heads, layers=layers)
        else:
            layers, width, heads, kv_heads, hidden, vocab = LLAMA[self.model]
            context = self.context or 2048
            model = llama(
                vocab=vocab,
                width=width,
                heads=heads,
                kv_heads=kv_heads,
                layers=layers,
                hidden=hidden,
            )

        def sparing(layer: Any) -> Any:
            return dataclasses.replace(layer, keep="inputs") if isinstance(layer, Stack) else layer

        return NextToken(mixed_precision(map_layers(sparing, model))), context

    def _planned(self, objective: Any, mesh: str, batch: int, context: int) -> Any:
        import jax
        import optax

        from fbp.mesh import Layout
        from fbp.mesh._planned import planned

        ids = jax.ShapeDtypeStruct((batch, context), "int32")
        layout = Layout(objective, mesh)
        options = {"in_backward": self.in_backward}
        return planned(objective, optax.adamw(1e-3), layout, (ids, ids), **options)


def _product(mesh: str) -> int:
    """The number of devices of a mesh in words; what is wrong with them is said later."""
    n = 1
    for part in mesh.split(","):
        size = part.partition("=")[2].strip()
        n *= int(size) if size.isdecimal() and int(size) else 1
    return n
