"""Experiments that use the package: nothing else of it imports from here."""
