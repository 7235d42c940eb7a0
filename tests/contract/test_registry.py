"""The registry contract on the embedded registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.registry_contract import RegistryContract, Site
from wodmail.catalog import Catalog
from wodmail.config import Settings
from wodmail.registry.embedded import EmbeddedRegistry


class TestEmbedded(RegistryContract):
    @pytest.fixture
    def site(self, tmp_path: Path) -> Iterator[Site]:
        for name, span in (("WKSHP-One", "[1,6]"), ("WKSHP-Two", "[7,20]")):
            folder = tmp_path / "notebooks" / name
            folder.mkdir(parents=True)
            (folder / "wod.yml").write_text(f"%YAML 1.1\n# meta\n---\nname: {name}\nrange: {span}\ncapacity: 5\n")
        settings = Settings(WODSTATEDIR=tmp_path / "state", WODUSERMIN=1, WODUSERMAX=20)
        registry = EmbeddedRegistry(settings, Catalog(tmp_path / "notebooks"))
        yield Site(registry, lambda participant, student, workshop: registry.assign(student, workshop, participant))
        registry.close()
