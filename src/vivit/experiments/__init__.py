"""Experiments that use the package; nothing else in it imports from here."""
