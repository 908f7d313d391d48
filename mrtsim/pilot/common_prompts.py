"""Sums of two models over the prompts that both have, in one order of prompts; pairs of responses matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mrtsim.errors import InputError
from mrtsim.pilot.sums import PromptSums, copies, finite_losses
from mrtsim.pilot.sums import codes as label_codes
from mrtsim.tables.values import shown

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Rows:
    losses: Floats
    prompts: NDArray[Any]
    per_prompt: int = (
        1  # rows that one label of a group stands for: the responses, where losses are two-dimensional
    )


@dataclass(frozen=True)
class CommonPrompts:
    """Sums over the responses of each model to each common prompt, in one order of prompts; with pairs of d too."""

    a: PromptSums
    b: PromptSums
    pair: PromptSums | None
    names: NDArray[Any]
    dropped: int

    @property
    def samples(self) -> tuple[PromptSums, ...]:
        """The independent samples of responses: both models, or the pairs."""
        return (self.a, self.b) if self.pair is None else (self.pair,)

    @property
    def differences(self) -> Floats:
        """Difference of the mean losses, per prompt."""
        return self.a.means - self.b.means if self.pair is None else self.pair.means


def _rows(losses: ArrayLike, prompts: ArrayLike | None, model: str) -> _Rows:
    if np.size(losses) == 0:
        raise InputError(f"losses_{model} is empty: give the losses of two or more prompts")
    loss = finite_losses(losses, f"losses_{model}")
    if prompts is None:
        if loss.ndim != 2:
            raise InputError(
                f"give prompts_{model}, one per loss, or losses_{model} of shape (prompts, responses)"
            )
        each = loss.shape[1]
        return _Rows(loss.ravel(), np.repeat(np.arange(loss.shape[0]), each), each)
    labels = np.asarray(prompts)
    if loss.ndim != 1 or labels.shape != loss.shape:
        raise InputError(
            f"losses_{model} has shape {loss.shape}, prompts_{model} {labels.shape}: give one per loss"
        )
    return _Rows(loss, labels)


def common_prompts(
    model_a: tuple[ArrayLike, ArrayLike | None],
    model_b: tuple[ArrayLike, ArrayLike | None],
    pairs: Any,
    groups: Any,
) -> CommonPrompts:
    """The sums of both models over the prompts that both have; see `compare_models` for the arguments.

    Args:
        model_a: losses of model A and their prompts.
        model_b: of model B.
        pairs: names of pairs, or None.
        groups: groups of prompts, or None.

    Raises:
        InputError: as `compare_models`.
    """
    a, b = _rows(*model_a, "a"), _rows(*model_b, "b")
    codes, names = _codes((a.prompts, b.prompts), "prompts")
    in_a, in_b = (np.bincount(c, minlength=names.size) > 0 for c in codes)
    both = in_a & in_b
    if both.sum() < 2:
        raise InputError(
            f"the models have {both.sum()} prompts in common (A has {in_a.sum()}, B {in_b.sum()}), and two at least "
            "are needed: are the prompts' ids written in the same way?"
        )
    kept = [both[c] for c in codes]
    place, starts = np.cumsum(both) - 1, None
    if groups is not None:
        place, starts = _group_order(_two(groups, a, b, "groups"), codes, both, names)
    ordered = np.empty(int(both.sum()), names.dtype)
    ordered[place[both]] = names[both]
    prompts = [place[c[k]] for c, k in zip(codes, kept, strict=True)]
    losses = [rows.losses[k] for rows, k in zip((a, b), kept, strict=True)]
    pair = None
    if pairs is not None:
        if pairs is True:
            pairs = np.arange(a.losses.size)
        labels, pair_names = _codes(_two(pairs, a, b, "pairs"), "pairs")
        labels = [label[k] for label, k in zip(labels, kept, strict=True)]
        left, right = _matched(prompts, labels, ordered, pair_names)
        pair = _sums(losses[0][left] - losses[1][right], prompts[0][left], ordered.size, starts)
    of_a, of_b = (_sums(loss, p, ordered.size, starts) for loss, p in zip(losses, prompts, strict=True))
    return CommonPrompts(of_a, of_b, pair, ordered, int((~both).sum()))


def _two(labels: Any, a: _Rows, b: _Rows, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels of the rows of A and of B, given as two arrays or as one for both."""
    sizes = a.losses.size, b.losses.size
    if not hasattr(labels, "__len__") or isinstance(labels, str):
        raise InputError(f"{name} must be labels, one per row, not {labels!r}")
    if len(labels) == 2 and all(np.ndim(part) == 1 for part in labels):
        both = np.asarray(labels[0]), np.asarray(labels[1])
    else:
        both = np.asarray(labels), np.asarray(labels)
    if name == "groups":
        parts = zip(both, (a, b), strict=True)
        one, two = (
            np.repeat(x, m.per_prompt) if x.size * m.per_prompt == m.losses.size else x for x, m in parts
        )
        both = one, two
    if (both[0].shape, both[1].shape) != ((sizes[0],), (sizes[1],)):
        raise InputError(
            f"give {name} as two arrays of {sizes[0]} and {sizes[1]} labels, one per row of A and of B"
            + (", or as one array for both" if sizes[0] == sizes[1] else "")
        )
    return both


def _codes(parts: Sequence[NDArray[Any]], name: str) -> tuple[list[Ints], NDArray[Any]]:
    """Labels of both models as integers 0, 1, ... in order of first appearance, and the label of each."""
    codes, names = label_codes(np.concatenate(parts), sum(p.size for p in parts), name, "loss")
    return np.split(codes, [parts[0].size]), np.asarray(names.to_pylist(), object)


def _group_order(
    groups: Sequence[NDArray[Any]], codes: Sequence[Ints], both: NDArray[np.bool_], names: NDArray[Any]
) -> tuple[Ints, Ints]:
    """The place of each common prompt where the prompts of a group stand side by side, and where groups start."""
    labels, group_names = _codes(groups, "groups")
    row_group, row_prompt = np.concatenate(labels), np.concatenate(codes)
    group_of = np.empty(both.size, np.int64)
    group_of[row_prompt[::-1]] = row_group[::-1]
    strays = np.flatnonzero((group_of[row_prompt] != row_group) & both[row_prompt])
    if strays.size:
        stray = strays[0]
        raise InputError(
            f"prompt {shown(names[row_prompt[stray]])} is in group {shown(group_names[row_group[stray]])} and in "
            f"{shown(group_names[group_of[row_prompt[stray]]])}: a prompt belongs to one group"
        )
    common = np.flatnonzero(both)
    order = np.argsort(group_of[common], kind="stable")
    place = np.empty(both.size, np.int64)
    place[common[order]] = np.arange(common.size)
    starts = np.flatnonzero(np.diff(group_of[common[order]], prepend=-1))
    if starts.size < 2:
        raise InputError("all common prompts are in one group: the difference needs at least two groups")
    if starts.size == common.size:
        raise InputError("every group has one prompt, so groups change nothing: leave them out")
    return place, starts


def _matched(
    prompts: Sequence[Ints], labels: Sequence[Ints], names: NDArray[Any], pair_names: NDArray[Any]
) -> tuple[Ints, Ints]:
    """The rows of A and of B in one order of pairs.

    Raises:
        InputError: a pair is double, or one of its rows is missing.
    """
    keys = [p * pair_names.size + label for p, label in zip(prompts, labels, strict=True)]

    def named(key: int) -> str:
        return f"pair {shown(pair_names[key % pair_names.size])} of prompt {shown(names[key // pair_names.size])}"

    orders = [np.argsort(key, kind="stable") for key in keys]
    for key, order, model in zip(keys, orders, "AB", strict=True):
        again = np.flatnonzero(np.diff(key[order]) == 0)
        if again.size:
            raise InputError(
                f"{named(int(key[order][again[0]]))} has two rows of model {model}: one is needed"
            )
    missing = np.setxor1d(*keys, assume_unique=True)
    if missing.size:
        model = "B" if missing[0] in keys[0] else "A"
        raise InputError(
            f"{named(int(missing[0]))} has no row of model {model} ({missing.size} such pairs): complete it, leave it "
            "out, or leave out the pairs where responses are independent"
        )
    return orders[0], orders[1]


def _sums(losses: Floats, prompts: Ints, n_prompts: int, starts: Ints | None) -> PromptSums:
    """Sums per prompt; what differs by rounding alone does not differ."""
    counts = np.bincount(prompts, minlength=n_prompts).astype(np.float64)
    centre = float(losses.mean())
    means = np.bincount(prompts, weights=losses - centre, minlength=n_prompts) / counts
    residuals = losses - centre - means[prompts]
    within = np.bincount(prompts, weights=residuals**2, minlength=n_prompts).astype(np.float64)
    within[within <= counts * rounding(np.abs(losses).max())] = 0.0
    return PromptSums(counts, means + centre, within, starts, copies=copies(losses, prompts))


def rounding(largest: float) -> float:
    """The largest square of what rounding makes of equal losses."""
    return float((8 * np.finfo(float).eps * largest) ** 2)
