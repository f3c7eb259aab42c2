"""Engines that compute steps: token ids and KV block tables in, sampled token ids out."""
