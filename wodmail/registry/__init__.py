"""Registries: who sits where; `base` says what one answers, `embedded` is the one that needs nothing."""
