"""What keeping the best K of N does to a policy: divergence and win rate, in closed form or one integral."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mrtsim.errors import InputError


@dataclass(frozen=True)
class BestOfN:
    """The best K of N against a fresh response, by a reward without ties.

    Attributes:
        kl: divergence KL(kept || policy) of a kept response in nats.
        kl_bound: log(N/K), which it never exceeds.
        win_rate: the chance that a kept response has the larger reward than a fresh one.
    """

    kl: float
    kl_bound: float
    win_rate: float


def best_of_n(n_candidates: int, k: int = 1) -> BestOfN:
    """Divergence and win rate of the best K of N candidates.

    A kept response has the density N/K I_u(N - K, K) against the policy, u the reward's quantile (theory.md 5.1). For
    K = 1 KL = log N - (N - 1)/N and the win rate N/(N + 1); in general the win rate is (2N + 1 - K) / (2 (N + 1)).

    Raises:
        InputError: N below 1, or K not from 1 to N.
    """
    n, k = _whole("n_candidates", n_candidates), _whole("k", k)
    if k > n:
        raise InputError(f"k = {k} is more than n_candidates = {n}")
    bound = math.log(n / k)
    win = (2 * n + 1 - k) / (2 * (n + 1))
    if k == 1:
        return BestOfN(math.log(n) - (n - 1) / n, bound, win)
    if k == n:
        return BestOfN(0.0, 0.0, win)
    from scipy import integrate, special

    def integrand(w: float) -> float:
        density = n / k * float(special.betaincc(k, n - k, w))  # w = 1 - u, so that the best stay precise
        return density * math.log(density) if density > 0 else 0.0

    spread = math.sqrt(k * (n - k) / n) / n
    ends = np.clip([0.0, k / n - 5 * spread, k / n, k / n + 5 * spread, k / n + 15 * spread, 1.0], 0.0, 1.0)
    parts = [integrate.quad(integrand, a, b, epsabs=1e-13)[0] for a, b in pairwise(ends) if a < b]
    return BestOfN(min(math.fsum(parts), bound), bound, win)


def binary_best_of_n(success_rate: float, n_candidates: int) -> float:
    """KL(kept || policy) in nats of the best of N by a 0/1 reward with random ties, for a success rate p.

    The kept response succeeds with probability 1 - (1 - p)^N, and given success or failure is the policy's own.

    Raises:
        InputError: p outside [0, 1], or N below 1.
    """
    n, p = _whole("n_candidates", n_candidates), float(success_rate)
    if not 0 <= p <= 1:
        raise InputError(f"success_rate must lie between 0 and 1, not {success_rate!r}")
    if p in (0.0, 1.0):
        return 0.0
    failed = (1 - p) ** n
    kept = -math.expm1(n * math.log1p(-p))
    return kept * math.log(kept / p) + (failed * (n - 1) * math.log1p(-p) if failed else 0.0)


def _whole(name: str, value: int) -> int:
    if value != int(value) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
    return int(value)
