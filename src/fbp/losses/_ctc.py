"""Connectionist temporal classification: a sequence of labels without their places."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from fbp._described import described
from fbp._gradients import at_least_float32, at_least_int32
from fbp._layer import Array, Loss
from fbp._require import require_float
from fbp.losses._alignments import States, backward, emitted_by, forward, moved, posterior
from fbp.losses._mean import count_examples, shares, unweighted, weighted_sum


@dataclasses.dataclass(frozen=True)
class CTC(Loss):
    """-log of the probability that frames spell a sequence of labels, over all alignments.

        p_t  = softmax(y_t)
        loss = -(1/n) sum_rows  log sum_paths prod_t p_t[path_t]

    A path has a class for each frame, and spells the labels once repetitions are merged and blanks
    then dropped. Between the labels stand blanks, l = (blank, l_1, blank, ..., l_L, blank), and a
    path moves along these states by 0 or 1, or by 2 from a label to a different one. With e_t(s) =
    log p_t[l_s], and logsumexp over the states s' that s may come from, or go to:

        alpha_t(s) = e_t(s) + logsumexp_s' alpha_{t-1}(s')             a path's start, up to t
        beta_t(s)  = logsumexp_s' (e_{t+1}(s') + beta_{t+1}(s'))       its rest, after t
        log P      = logsumexp of alpha_T over the last two states

    The probability of being in s at t, given the labels, is exp(alpha_t(s) + beta_t(s) - log P). d
    log P / d log p_t[c] is its sum over the states of class c, the posterior of c, and through the
    log-softmax, as for any mixture of products of softmaxes,

        dy_t[c] = (1/n) (p_t[c] - posterior_t[c])

    alpha and beta are shifted at each frame so that their largest is 0: their digits do not get
    lost in long sequences.

    Labels that cannot be spelled, since they are longer than the frames allow (a repeated label
    needs a blank between), have P = 0: the loss is +inf, whatever y is, and this row's gradient is
    taken as 0. So it is seen and does no harm to the other rows' gradients; to leave it out, give
    it the weight 0. The same holds where logits of -inf make P = 0.

    With `Weighted(target, weight)` each 1/n is replaced by weight / sum(weight). n is the number of
    rows: a row is not divided by its length.

    Shapes: y (..., T, C); target a dict of labels (..., L) and, where rows differ in length,
    label_lengths (...) and logit_lengths (...), all of integers. What is past a length is not read,
    and its dy is 0.

    Args:
      blank: the class of the blank.

    Raises:
      ValueError: shapes do not match; the target lacks labels or has other names; a label is
        outside 0..C-1 or the blank; a length is below 0 or too large. Inside `jit`, where values
        cannot be checked, such a label or length makes the loss NaN.
      TypeError: y is not a float array, or the target not of integers.

    Source: Graves et al., "Connectionist Temporal Classification", 2006; alpha and beta as in
    Rabiner, "A Tutorial on Hidden Markov Models", 1989 (beta without e_t).
    """

    blank: int = 0

    def value_and_grad(
        self, params: tuple[()], y: Array, target: Any
    ) -> tuple[Array, tuple[()], Array]:
        require_float(self, y, "y")
        target, weight = unweighted(target)
        batch, labels, label_lengths, logit_lengths = self._parts(y, target)
        z = at_least_float32(y).reshape(math.prod(batch), *y.shape[-2:])
        share = shares(self, weight, batch, z.dtype)
        share = self._allowed(share, y, labels, label_lengths, logit_lengths)
        share = jnp.broadcast_to(share, batch).reshape(-1)

        z = z - z.max(-1, keepdims=True)
        total = jnp.exp(z).sum(-1, keepdims=True)
        p, log_p = jnp.exp(z) / total, z - jnp.log(total)
        states = self._states(labels, label_lengths, logit_lengths, y.shape[-1])
        emitted = emitted_by(log_p, states)
        alpha, log_total = forward(emitted, states)
        share_of_class = posterior(alpha, backward(emitted, states), states, p)

        frame = jnp.arange(y.shape[-2]) < states.frames[:, None]
        counts = frame & (share != 0)[:, None] & (log_total != -jnp.inf)[:, None]
        dy = jnp.where(counts[..., None], share[:, None, None] * (p - share_of_class), 0)
        return weighted_sum(share, -log_total), (), dy.reshape(y.shape).astype(y.dtype)

    def weight(self, target: Any) -> Array:
        target, weight = unweighted(target)
        if weight is not None:
            return jnp.sum(weight)
        self._require_names(target)
        # One row of labels alone, (L,), is one example.
        return count_examples(self, jnp.zeros(jnp.shape(target["labels"])[:-1]))

    def _require_names(self, target: Any) -> None:
        optional = {"label_lengths", "logit_lengths"}
        if not isinstance(target, dict) or set(target) - optional != {"labels"}:
            raise ValueError(
                "CTC: expected target to be a dict of labels and, if rows differ in length, "
                f"label_lengths and logit_lengths, got {described(target)}"
            )

    def _parts(self, y: Array, target: Any) -> tuple[tuple[int, ...], Array, Array, Array]:
        """Returns the shape of the batch, and the labels and lengths of its rows, after checks."""
        self._require_names(target)
        target = {name: at_least_int32(jnp.asarray(a)) for name, a in target.items()}
        for name, a in target.items():
            if not jnp.issubdtype(a.dtype, jnp.integer):
                raise TypeError(f"CTC: expected {name} to be integers, got {a.dtype}")
        labels, batch = target["labels"], y.shape[:-2]
        if y.ndim < 2 or not y.shape[-1]:
            raise ValueError(f"CTC: expected y (..., T, C), got shape {y.shape}")
        if not 0 <= self.blank < y.shape[-1]:
            raise ValueError(
                f"CTC: expected blank in 0..{y.shape[-1] - 1}, a class of y, got {self.blank}"
            )
        if labels.shape[:-1] != batch or labels.ndim != len(batch) + 1:
            raise ValueError(
                f"CTC: expected labels of shape {(*batch, 'L')}, got shape {labels.shape}"
            )
        lengths = []
        for name, full in (("label_lengths", labels.shape[-1]), ("logit_lengths", y.shape[-2])):
            length = target.get(name, jnp.full(batch, full))
            if length.shape != batch:
                raise ValueError(f"CTC: expected {name} of shape {batch}, got shape {length.shape}")
            lengths.append(length.reshape(-1))
        return batch, labels.reshape(math.prod(batch), labels.shape[-1]), *lengths

    def _allowed(
        self, share: Array, y: Array, labels: Array, label_lengths: Array, logit_lengths: Array
    ) -> Array:
        """Returns the shares, NaN for rows whose labels or lengths cannot be, or raises. Rows of
        weight 0 may have any."""
        batch, classes = y.shape[:-2], y.shape[-1]
        counted = jnp.broadcast_to(share, batch).reshape(-1) != 0
        read = jnp.arange(labels.shape[1]) < label_lengths[:, None]
        wrong = (labels < 0) | (labels >= classes) | (labels == self.blank)
        wrong &= read & counted[:, None]
        rows = wrong.any(-1)
        for name, length, most in (
            ("label_lengths", label_lengths, labels.shape[1]),
            ("logit_lengths", logit_lengths, y.shape[-2]),
        ):
            outside = ((length < 0) | (length > most)) & counted
            rows |= outside
            if not isinstance(outside, jax.core.Tracer) and outside.any():
                raise ValueError(f"CTC: expected {name} in 0..{most}, got {length[outside][0]}")
        if not isinstance(wrong, jax.core.Tracer) and wrong.any():
            raise ValueError(
                f"CTC: expected labels in 0..{classes - 1} and not {self.blank}, the blank, "
                f"got {labels[wrong][0]}"
            )
        return jnp.where(rows.reshape(batch), jnp.nan, share)

    def _states(
        self, labels: Array, label_lengths: Array, logit_lengths: Array, classes: int
    ) -> States:
        rows, length = labels.shape
        read = jnp.arange(length) < label_lengths[:, None]
        # What is not read, or is refused, is any class there is.
        labels = jnp.where(read & (labels >= 0) & (labels < classes), labels, self.blank)
        of_state = jnp.full((rows, 2 * length + 1), self.blank, labels.dtype)
        of_state = of_state.at[:, 1::2].set(labels)
        s = jnp.arange(2 * length + 1)
        last = 2 * label_lengths[:, None]
        # Two blanks are the same class: only labels are skipped to.
        skip = of_state != moved(of_state, 2, -1)
        end = jnp.where((s == last) | (s == last - 1), 0.0, -jnp.inf)
        return States(of_state, skip, s <= last, end, logit_lengths)
