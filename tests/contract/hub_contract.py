"""What every hub must do; `test_hub.py` runs it on the absent one, other hubs run the same class."""

from __future__ import annotations

from wodmail.hub import Hub


class HubContract:
    """Run by every implementation; a subclass gives a `hub` fixture whose student 1 has no server running."""

    def test_is_a_hub(self, hub: Hub) -> None:
        assert isinstance(hub, Hub)
        assert hub.enabled in (True, False)

    def test_stop_of_what_does_not_run(self, hub: Hub) -> None:
        assert isinstance(hub.stop(1), str)

    def test_start_and_stop_twice(self, hub: Hub) -> None:
        notes = [hub.start(1), hub.start(1), hub.stop(1), hub.stop(1)]
        assert all(isinstance(note, str) for note in notes)
