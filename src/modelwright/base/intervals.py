"""How sure is a share? One formula for every count out of a total that is reported."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) of the true share where `successes` of `n` trials succeeded (Wilson 1927).

    It stays within [0, 1] and is honest at 0 % and at 100 %, where the usual formula claims certainty.
    Of no trials it says that nothing is known: (0, 1).
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} trials succeeded: expected from 0 to {n}.")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high
