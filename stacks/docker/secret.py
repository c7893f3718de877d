"""Names of provider classes in the state of stacks that an earlier release brought up.

The engine's state names a dynamic resource's class by its module, and a `make down` or a refresh loads it
from there. The classes are in `stacks.shared.secrets`, which is what new states name.
"""

from stacks.shared.secrets import PageKeyProvider, SharedSecretProvider

__all__ = ["PageKeyProvider", "SharedSecretProvider"]
