"""The benchmark's GPT in PyTorch, with its fused attention and fused AdamW."""

import contextlib
import os
from typing import Any

import numpy as np

from fbp.bench._sizes import GPTSizes

LR, WEIGHT_DECAY = 3e-4, 0.1


def torch_step(sizes: GPTSizes, params: Any, compiled: bool, bfloat16: bool) -> Any:
    """Returns `run(batches) -> losses`, and `peak()`, the most GPU bytes held in the first run."""
    import torch
    from torch.nn import functional

    # Subtracted from the peak: memory that PyTorch already holds for earlier contenders.
    held = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    most = 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    # The precision of XLA's default on the same device.
    torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    leaves: list[Any] = []

    def parameter(array: Any) -> Any:
        made = torch.tensor(np.asarray(array), device=device)
        leaves.append(torch.nn.Parameter(made))
        return leaves[-1]

    def dense(p: Any, i: int) -> Any:
        # Stored as (out, in), the layout of `functional.linear`.
        return parameter(np.ascontiguousarray(p["w"][i].T)), parameter(p["b"][i])

    embed, positions = parameter(params["embed"]["w"]), parameter(params["positions"]["w"])
    last = parameter(params["norm"]["w"]), parameter(params["norm"]["b"])
    blocks = []
    for i in range(sizes.layers):
        attention, feed_forward = params["blocks"]["attention"], params["blocks"]["feed_forward"]
        block = {"norm1": [parameter(attention["norm"][n][i]) for n in "wb"]}
        block |= {"norm2": [parameter(feed_forward["norm"][n][i]) for n in "wb"]}
        block |= {name: dense(attention[name], i) for name in ("qkv", "out")}
        block |= {name: dense(feed_forward[name], i) for name in ("up", "down")}
        blocks.append(block)

    def loss_of(ids: Any, labels: Any) -> Any:
        x = functional.embedding(ids, embed) + positions
        for p in blocks:
            normed = functional.layer_norm(x, (sizes.width,), *p["norm1"])
            qkv = functional.linear(normed, *p["qkv"]).split(sizes.width, -1)
            q, k, v = (a.view(*a.shape[:2], sizes.heads, -1).transpose(1, 2) for a in qkv)
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + functional.linear(y.transpose(1, 2).reshape(x.shape), *p["out"])
            hidden = functional.linear(
                functional.layer_norm(x, (sizes.width,), *p["norm2"]), *p["up"]
            )
            x = x + functional.linear(functional.gelu(hidden, approximate="tanh"), *p["down"])
        logits = functional.linear(functional.layer_norm(x, (sizes.width,), *last), embed)
        return functional.cross_entropy(logits.view(-1, sizes.vocab).float(), labels.view(-1))

    optimizer = torch.optim.AdamW(leaves, lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
    forward = torch.compile(loss_of) if compiled else loss_of
    cast = torch.autocast(device, torch.bfloat16) if bfloat16 else contextlib.nullcontext()

    def run(batches: Any) -> list[float]:
        nonlocal most
        if device == "cuda" and not most:
            torch.cuda.reset_peak_memory_stats()
        losses = []
        for ids, labels in zip(*batches, strict=True):
            ids, labels = (
                torch.from_numpy(np.asarray(a, np.int64)).to(device) for a in (ids, labels)
            )
            optimizer.zero_grad()
            with cast:
                loss = forward(ids, labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        if device == "cuda" and not most:
            most = torch.cuda.max_memory_allocated() - held
        return [float(loss) for loss in losses]

    def peak() -> int | None:
        return most if device == "cuda" else None

    return run, peak
