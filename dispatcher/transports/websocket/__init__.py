"""Sessions over one WebSocket, which the dispatcher passes on to the machine."""
