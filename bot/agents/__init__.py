"""The bots that come with Switchboard. Each file is an ordinary Pipecat bot file."""
