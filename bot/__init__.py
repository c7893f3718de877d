"""Runtime of a machine: one Pipecat bot for one session."""
