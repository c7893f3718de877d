"""Measure a caller's wait, through Switchboard and through Pipecat's development runner."""
