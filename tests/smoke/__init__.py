"""Tests of the smoke test: small models of every kind, what can be wrong with them, plain scripts to compare with."""

from __future__ import annotations

# The first values of "Hello world" through all-MiniLM-L6-v2, as sentence-transformers publishes the model.
HELLO_WORLD = [-0.034477, 0.031023, 0.006735, 0.026109]
