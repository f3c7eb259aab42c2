"""Fakes and workload makers for tests, Stoker's own and those of programs built on it."""
