"""Stands where aiortc is in a machine under load: what `bot.webrtc` imports of it, without any media."""
