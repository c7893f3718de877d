"""Published rates, as token buckets of an account in a region.

"Request throttling for the Amazon ECS API": cluster resource modify actions (RunTask, StopTask) 40 a second
and 100 at once, cluster resource read actions (DescribeTasks, ListTasks) 20 and 100. "AWS Fargate throttling
quotas": 20 launches a second and 100 at once, on-demand and Spot each.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limit:
    per_second: float
    burst: float


PUBLISHED = {
    "RunTask": ("modify", Limit(40, 100)),
    "StopTask": ("modify", Limit(40, 100)),
    "DescribeTasks": ("read", Limit(20, 100)),
    "ListTasks": ("read", Limit(20, 100)),
    "FARGATE": ("FARGATE", Limit(20, 100)),
    "FARGATE_SPOT": ("FARGATE_SPOT", Limit(20, 100)),
}


@dataclass
class Limits:
    """Tokens that are left in each bucket."""

    enabled: bool = True
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Bucket → tokens, and when that was."""

    def take(self, name: str, now: float) -> bool:
        """Take a token; False if there is none."""
        if not self.enabled:
            return True
        bucket, limit = PUBLISHED[name]
        tokens, at = self._left.get(bucket, (limit.burst, now))
        tokens = min(limit.burst, tokens + (now - at) * limit.per_second)
        # Unix time has steps of 0.24 µs, which a burst of a hundred adds up: that dust must not turn away who
        # waited exactly as long as it must.
        allowed = tokens >= 1 - 1e-3
        self._left[bucket] = (tokens - 1 if allowed else tokens, now)
        return allowed
