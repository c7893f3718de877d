"""`python -m stacks.plan --stack prod [--format text|markdown|json]`: render a stack for review.

Neither an engine nor credentials nor a network is needed: the stack's program runs against stand-ins.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stacks.errors import StackError
from stacks.plan.base import changes, exported, graph_at, imported
from stacks.plan.configured import environment
from stacks.plan.policies import Facts, violations
from stacks.plan.recording import record, reviews_of
from stacks.plan.render import FORMATS, text
from stacks.plan.sections import Against, document

GRAPH = "graph"
"""Format that one revision gives another to compare with."""

POLICY_BROKEN = 3
"""Exit status of a plan that a policy refuses. It was rendered all the same."""

CHECKOUT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m stacks.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stack", default="local", help="the stack, a file stacks/Pulumi.<stack>.yaml")
    formats = [*FORMATS, GRAPH]
    parser.add_argument("--format", default="text", choices=formats, help="of the output")
    parser.add_argument("--base", help="compare with this revision of the repository, such as main")
    arguments = parser.parse_args()
    try:
        about = environment(CHECKOUT, arguments.stack)
        graph, plan = record(about)
        reviews = reviews_of(about)
        facts = Facts.of(graph, reviews.values(), throwaway=about.config.throwaway)
        if arguments.format == GRAPH:
            sys.stdout.write(exported(graph, CHECKOUT))
            return 0
        against = None
        if arguments.base:
            here = imported(exported(graph, CHECKOUT), graph.project, graph.stack)
            commit, before = graph_at(CHECKOUT, arguments.base, arguments.stack)
            against = Against(f"{arguments.base} ({commit[:10]})", changes(before, here))
        broken = violations(facts, about.config.policy_exceptions)
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    made = document(plan, facts, reviews, broken, against)
    if arguments.format == "text":
        sys.stdout.write(text(made, colour=sys.stdout.isatty()))
    else:
        sys.stdout.write(FORMATS[arguments.format](made))
    refused = [one for one in broken if not one.justification]
    for one in refused:
        print(f"error: policy {one.policy.name}: {one.subject} {one.fault}", file=sys.stderr)
    return POLICY_BROKEN if refused else 0


if __name__ == "__main__":
    sys.exit(main())
