"""Tests of the smoke test: small models of every kind, what can be wrong with them, plain scripts to compare with."""
