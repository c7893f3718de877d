"""A stack rendered for review: from its program alone, without an engine, credentials or a network."""
