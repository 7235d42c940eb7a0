"""The hub contract where there is no hub."""

from __future__ import annotations

import pytest

from tests.contract.hub_contract import HubContract
from wodmail.hub import Hub, NoHub


class TestNoHub(HubContract):
    @pytest.fixture
    def hub(self) -> Hub:
        return NoHub()

    def test_says_that_there_is_none(self, hub: Hub) -> None:
        assert not hub.enabled
        assert "no hub" in hub.start(7)
