"""Notebooks as PDF and Word documents (docs/export.md). What is in a notebook is not trusted here."""
