"""Who may call, and how fast."""
