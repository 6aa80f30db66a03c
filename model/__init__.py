"""The tracker: MixFormer, its crops and its state per target. Knows no network, no clock and no environment."""
