"""The HTTP edge: one folder a dialect, and what all dialects share."""
