"""Policies: wrappers over the `Generator` protocol, one small file each."""
