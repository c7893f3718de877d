"""`python -m tests.chaos --seeds 10000`, or `--seed 123` for one of them, told in full."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.chaos.broken import VARIANTS, hunt
from tests.chaos.world import Outcome, simulate


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this seed, and tell all that happens")
    parser.add_argument("--seeds", type=int, default=300, help="play so many")
    parser.add_argument("--first", type=int, default=0, help="beginning with this one")
    parser.add_argument("--log", action="store_true", help="with --seed: the dispatchers' own log, too")
    parser.add_argument("--broken", action="store_true", help="show that each broken variant is caught")
    given = parser.parse_args(arguments)
    _quiet(logging.DEBUG if given.log else logging.CRITICAL)
    if given.broken:
        return _broken(given.seeds)

    if given.seed is not None:
        outcome = simulate(given.seed)
        print("\n".join(outcome.story))
        print(f"seed {outcome.seed}: trace {outcome.trace[:16]}, {dict(outcome.counts)}")
        return 1 if outcome.violation else 0
    return _many(range(given.first, given.first + given.seeds))


def _broken(seeds: int) -> int:
    escaped = 0
    for name in VARIANTS:
        number, outcome = hunt(name, range(seeds))
        found = outcome.violation if outcome is not None else None
        escaped += found is None
        print(f"{name:40} {number:4} {found.invariant if found else 'ESCAPED'}", flush=True)
    return 1 if escaped else 0


def _many(seeds: range) -> int:
    began_at, counts, failed = time.monotonic(), Counter[str](), list[Outcome]()
    with ProcessPoolExecutor(initializer=_quiet) as pool:
        for number, outcome in enumerate(pool.map(simulate, seeds, chunksize=10), start=1):
            counts += outcome.counts
            if number % 1000 == 0:
                print(f"{number} played, {len(failed)} failed", file=sys.stderr, flush=True)
            if outcome.violation is not None:
                failed.append(outcome)
                violation = outcome.violation
                print(f"seed {outcome.seed}: {violation.invariant}: {violation.words}", flush=True)
    took = time.monotonic() - began_at
    print(f"{len(seeds)} seeds in {took:.1f} s; {len(failed)} failed; {dict(counts)}")
    if failed:
        print(f"replay one: make chaos SEED={failed[0].seed}")
    return 1 if failed else 0


def _quiet(level: int = logging.CRITICAL) -> None:
    logging.basicConfig(level=level)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    sys.exit(main())
