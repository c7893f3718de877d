"""What runs in a machine: one Pipecat bot for one session."""
