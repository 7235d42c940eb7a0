"""The API-DB's contract on the stand-in; on a real one too where WODMAIL_TEST_APIDB names it.

WODMAIL_TEST_APIDB=http://host:8021/api WODMAIL_TEST_APIDB_USER=… WODMAIL_TEST_APIDB_PASSWORD=… pytest …
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.apidb.site import ApiDbSite
from tests.contract.apidb_contract import ApiAccess, ApiDbContract


def filled(folder_of: pytest.TempPathFactory, **settings: Any) -> ApiDbSite:
    """A stand-in with a little in it."""
    site = ApiDbSite(folder_of.mktemp("apidb"), **settings)
    for number, listed in enumerate((None, "false", "", "a.sh,b.sh", False)):
        site.add_workshop(f"WKSHP-N{number}", range=[number * 10 + 1, number * 10 + 10], compile=listed)
    site.add_students(range(1, 11))
    site.update("students", 10, password="known0before")
    site.add_customer("WKSHP-N0", 3)
    return site


STAND_IN = [{"booleans": "mixed"}, {"booleans": "strings", "absent": "hang"}]
REAL = [dict[str, str]()] if os.environ.get("WODMAIL_TEST_APIDB") else []


@pytest.fixture(scope="module", params=[*STAND_IN, *REAL], ids=str)
def access(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ApiAccess]:
    """The API under test."""
    if not request.param:
        names = ("WODMAIL_TEST_APIDB", "WODMAIL_TEST_APIDB_USER", "WODMAIL_TEST_APIDB_PASSWORD")
        url, user, password = (os.environ[name] for name in names)
        yield ApiAccess(url.rstrip("/"), user, password)
        return
    with filled(tmp_path_factory, **request.param) as site:
        yield ApiAccess(site.url, site.user, site.password, site.visitor)


class TestApiDb(ApiDbContract):
    """On each of them."""
