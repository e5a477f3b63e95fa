"""Live delivery: channels render once and send the same frame to all their viewers."""
