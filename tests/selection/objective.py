"""The GRADES objective by the book: gains from its values, and the best subset by enumeration."""

import itertools

import numpy as np

from mrtsim.selection.facility_location import facility_location


def marginal_gains(similarity, chosen, quality=None, weights=None):
    """F(chosen + {j}) - F(chosen) for every candidate j, of one pool or of many with the same leading axes."""

    def value(chosen):
        return facility_location(similarity, chosen, quality, weights=weights)

    before = value(chosen)
    candidates = np.arange(similarity.shape[-1])
    after = [
        value(np.concatenate([chosen, np.full_like(chosen[..., :1], j)], -1))
        if chosen.shape[-1]
        else value(np.full((*similarity.shape[:-2], 1), j))
        for j in candidates
    ]
    return np.stack(after, axis=-1) - before[..., None]


def best_subset(similarity, k, quality=None, weights=None):
    """The subset of size k of one pool with the largest F, the first of equals, and its value."""
    subsets = np.array(list(itertools.combinations(range(len(similarity)), k)))
    pools = np.broadcast_to(similarity, (len(subsets), *similarity.shape))
    quality, weights = (
        None if given is None else np.broadcast_to(given, (len(subsets), len(given)))
        for given in (quality, weights)
    )
    values = facility_location(pools, subsets, quality, weights=weights)
    best = int(np.argmax(values))
    return subsets[best], float(values[best])
