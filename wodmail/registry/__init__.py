"""Registries: who sits where; `base` says what one answers, `embedded` is the one that needs nothing, `apidb` asks a
frontend's API-DB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wodmail.catalog import Catalog
from wodmail.registry.base import Registry
from wodmail.registry.embedded import EmbeddedRegistry
from wodmail.schema import Settings

if TYPE_CHECKING:
    from wodmail.logs import Masker
    from wodmail.store import Store

__all__ = ["for_settings"]


def for_settings(settings: Settings, store: Store | None = None, masker: Masker | None = None) -> Registry:
    """The registry that a configuration names: the API-DB when its keys are there, else the embedded one.

    Args:
        settings: the configuration.
        store: where writes are kept that the API-DB can't take now; without one they fail then.
        masker: learns the API-DB's tokens.
    """
    catalog = Catalog(settings.WODNOBO, settings.WODPRIVNOBO)
    if settings.apidb:
        return _api_db(settings, catalog, store, masker)
    return EmbeddedRegistry(settings, catalog)


def _api_db(settings: Settings, catalog: Catalog, store: Store | None, masker: Masker | None) -> Registry:
    """Imported only here: a backend without an API-DB needs no HTTP client."""
    from wodmail.apidb import ApiDb
    from wodmail.delivery import Writes
    from wodmail.registry.apidb import ApiDbRegistry
    from wodmail.secretstore import Secrets

    api = ApiDb(settings, masker)
    kept = None
    if store is not None:
        from wodmail.writes import KeptWrites

        kept = KeptWrites(store, settings.WODMONITOR)
    writes = Writes(api, Secrets(settings.WODSTATEDIR / "secrets"), kept)
    api.on_back = writes.back.set
    return ApiDbRegistry(settings, api, catalog, writes)
