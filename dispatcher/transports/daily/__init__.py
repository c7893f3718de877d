"""Sessions in rooms of Daily."""
