"""Sessions, their targets, and a frame's way through them."""
