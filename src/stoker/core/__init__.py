"""The vocabulary that every layer shares: requests, events, step types, errors, protocols.

Nothing here does I/O, and nothing here imports another part of Stoker.
"""
