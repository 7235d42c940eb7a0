"""What every hub must do; `test_hub.py` runs it on the absent one, other hubs run the same class."""

from __future__ import annotations

from wodmail.hub import Hub


class HubContract:
    """Run by every implementation; a subclass gives a `hub` fixture whose `student` has no server running."""

    student = 1

    def test_is_a_hub(self, hub: Hub) -> None:
        assert isinstance(hub, Hub)
        assert hub.enabled in (True, False)

    def test_stop_of_what_does_not_run(self, hub: Hub) -> None:
        assert isinstance(hub.stop(self.student), str)

    def test_start_and_stop_twice(self, hub: Hub) -> None:
        student = self.student
        notes = [hub.start(student), hub.start(student), hub.stop(student), hub.stop(student)]
        assert all(isinstance(note, str) for note in notes)

    def test_make_and_remove_users_twice(self, hub: Hub) -> None:
        student = self.student
        notes = [hub.ensure(student), hub.ensure(student), hub.remove(student), hub.remove(student)]
        assert all(isinstance(note, str) for note in notes)
