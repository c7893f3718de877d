"""How long a caller waits, through Switchboard and through Pipecat's development runner."""
