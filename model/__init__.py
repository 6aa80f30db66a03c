"""The tracker: MixFormer, its crops and its state per target. No gRPC, no socket, no clock and no environment."""
