"""Hosts for the Molecule scenarios: their images, the fake driver, and the package repository that it comes from."""
