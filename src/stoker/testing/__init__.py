"""Fakes and file makers for tests; shipped, and imported by nothing but tests."""
