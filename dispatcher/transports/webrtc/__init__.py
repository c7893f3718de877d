"""Sessions peer to peer, by WebRTC."""
