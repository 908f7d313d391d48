"""The GRADES objective by the book: gains from its values, and the best subset by enumeration."""

import itertools

import numpy as np

from mrtsim.selection.facility_location import facility_location


def marginal_gains(similarity, chosen, quality=None):
    """F(chosen + {j}) - F(chosen) for every candidate j, of one pool or of many with the same leading axes."""
    before = facility_location(similarity, chosen, quality)
    candidates = np.arange(similarity.shape[-1])
    after = [
        facility_location(similarity, np.concatenate([chosen, np.full_like(chosen[..., :1], j)], -1), quality)
        if chosen.shape[-1]
        else facility_location(similarity, np.full((*similarity.shape[:-2], 1), j), quality)
        for j in candidates
    ]
    return np.stack(after, axis=-1) - before[..., None]


def best_subset(similarity, k, quality=None):
    """The subset of size k of one pool with the largest F, the first of equals, and its value."""
    subsets = np.array(list(itertools.combinations(range(len(similarity)), k)))
    pools = np.broadcast_to(similarity, (len(subsets), *similarity.shape))
    qualities = None if quality is None else np.broadcast_to(quality, (len(subsets), len(quality)))
    values = facility_location(pools, subsets, qualities)
    best = int(np.argmax(values))
    return subsets[best], float(values[best])
