"""`make smoke`: one real session of a stack that is up. A module per transport joins it as a client does."""
