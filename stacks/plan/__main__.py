"""`python -m stacks.plan --stack prod [--format text|markdown|json]`: render a stack for review.

Neither an engine nor credentials nor a network is needed: the stack's program runs against stand-ins.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stacks import clouds
from stacks.engine import options
from stacks.errors import ChangesError, StackError
from stacks.plan.base import changes, exported, graph_at, imported
from stacks.plan.changes import Changes, against_deployed, against_revision
from stacks.plan.configured import environment
from stacks.plan.graph import Graph
from stacks.plan.policies import Facts, violations
from stacks.plan.recording import record, reviews_of
from stacks.plan.render import FORMATS, text
from stacks.plan.sections import document

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
    options.add(parser)
    allowed = (*FORMATS, GRAPH)
    parser.add_argument("--format", default="text", help=f"of the output: {', '.join(FORMATS)}")
    parser.add_argument("--base", default="", help="compare with this revision of the repository")
    parser.add_argument("--deployed", action="store_true", help="compare with what is deployed, by an engine")
    parser.add_argument(
        "--expect-no-changes", action="store_true", help="exit with status 7 if there are changes"
    )
    arguments = parser.parse_args()
    if arguments.format not in allowed:
        print(
            f"error: FORMAT: {arguments.format!r} is no format; allowed: {', '.join(FORMATS)}",
            file=sys.stderr,
        )
        return 1
    try:
        return _plan(arguments)
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status


def _plan(arguments: argparse.Namespace) -> int:
    """Render a plan; return the exit status."""
    given = options.overrides(arguments)
    about = environment(CHECKOUT, arguments.stack, given)
    deployed = None
    if arguments.deployed and not arguments.base:
        # Before the recording, which sets variables of this process that stand in for secrets.
        deployed = against_deployed(CHECKOUT, arguments.stack, options.repeated(arguments))
    graph, plan = record(about)
    if arguments.format == GRAPH:
        sys.stdout.write(exported(graph, CHECKOUT))
        return 0
    reviews = reviews_of(about)
    facts = Facts.of(graph, reviews.values(), throwaway=about.config.throwaway)
    changed = _against_base(arguments, graph, facts) if arguments.base else deployed
    broken = violations(facts, about.config.policy_exceptions)
    made = document(plan, facts, reviews, broken, changed)
    if arguments.format == "text":
        sys.stdout.write(text(made, colour=sys.stdout.isatty()))
    else:
        sys.stdout.write(FORMATS[arguments.format](made))
    refused = [one for one in broken if not one.justification]
    for one in refused:
        print(f"error: policy {one.policy.name}: {one.subject} {one.fault}", file=sys.stderr)
    if refused:
        return POLICY_BROKEN
    if changed is None:
        return 0
    if changed.error:
        print(f"error: {changed.error}", file=sys.stderr)
    elif changed.rows and arguments.expect_no_changes:
        raise ChangesError(
            f"stack {arguments.stack} is not as its program says: {len(changed.rows)} to change, and none "
            f"expected; `make up STACK={arguments.stack}` makes the changes above"
        )
    return changed.status


def _against_base(arguments: argparse.Namespace, graph: Graph, facts: Facts) -> Changes:
    here = imported(exported(graph, CHECKOUT), graph.project, graph.stack)
    commit, before = graph_at(CHECKOUT, arguments.base, arguments.stack)
    holding = {*clouds.data_types(), *(one.name for one in facts.kept if one.store)}
    return against_revision(f"{arguments.base} ({commit[:10]})", changes(before, here), holding)


if __name__ == "__main__":
    sys.exit(main())
