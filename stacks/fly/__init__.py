"""The cloud `fly`: the resources of its stacks."""
