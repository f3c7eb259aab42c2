"""Metrics and logs: what an operator sees of every request and every engine."""
