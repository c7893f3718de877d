"""Sessions: their lifecycle (pure), the service that runs them, and the reaper."""
