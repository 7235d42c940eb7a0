"""The registry contract on the embedded registry and on the API-DB's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apidb.site import ApiDbSite
from tests.contract.registry_contract import SECRET_REF, RegistryContract, Site
from wodmail import registry as registries
from wodmail.catalog import Catalog
from wodmail.config import Settings
from wodmail.registry.apidb import ApiDbRegistry
from wodmail.registry.embedded import EmbeddedRegistry
from wodmail.secretstore import Secrets, job_of

WORKSHOPS = {"WKSHP-One": [1, 6], "WKSHP-Two": [7, 20]}


def folders(top: Path) -> Path:
    """The folders of the workshops."""
    for name, span in WORKSHOPS.items():
        folder = top / "notebooks" / name
        folder.mkdir(parents=True)
        (folder / "wod.yml").write_text(f"%YAML 1.1\n# meta\n---\nname: {name}\nrange: {span}\ncapacity: 5\n")
    return top / "notebooks"


class TestEmbedded(RegistryContract):
    @pytest.fixture
    def site(self, tmp_path: Path) -> Iterator[Site]:
        settings = Settings(WODSTATEDIR=tmp_path / "state", WODUSERMIN=1, WODUSERMAX=20)
        registry = EmbeddedRegistry(settings, Catalog(folders(tmp_path)))
        yield Site(registry, lambda participant, student, workshop: registry.assign(student, workshop, participant))
        registry.close()


class TestApiDb(RegistryContract):
    """Booleans come as text in every second answer; a PUT of a row that isn't there would be an error."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Iterator[Site]:
        with ApiDbSite(tmp_path, base=1000, booleans="mixed") as api:
            for name, span in WORKSHOPS.items():
                api.add_workshop(name, range=span, capacity=5)
            api.add_students(range(1, 21))
            settings = Settings(
                WODSTATEDIR=tmp_path / "state", WODUSERMIN=1, WODUSERMAX=20, WODNOBO=folders(tmp_path), **api.keys
            )
            Secrets(tmp_path / "state" / "secrets").put(job_of(SECRET_REF), SECRET_REF.partition("/")[2], "Werty123")
            registry = registries.for_settings(settings)
            assert isinstance(registry, ApiDbRegistry)

            def register(participant: int, student: int, workshop: str) -> None:
                api.add_customer(workshop, student, id=participant)

            yield Site(registry, register)
            registry.close()
