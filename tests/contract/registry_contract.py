"""What every registry must do; `test_registry.py` runs it on the embedded one, other registries run the same class.

A subclass gives a `site` fixture: the registry under test, and how to bring the world behind it into a state (an
API-DB has its participants and seats made by a frontend, the embedded registry by `assign`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import pytest

from wodmail.errors import Refused
from wodmail.registry.base import Registry

SECRET_REF = "secret:7/password-3"


class Arrange(Protocol):
    """Makes participant, student and workshop belong together, as before a CREATE."""

    def __call__(self, participant: int, student: int, workshop: str) -> None: ...


@dataclass
class Site:
    """The registry under test; `register` prepares a participant; students are 1-20, workshops WKSHP-One and -Two."""

    registry: Registry
    register: Arrange


class RegistryContract:
    """Run by every implementation."""

    def test_is_a_registry(self, site: Site) -> None:
        assert isinstance(site.registry, Registry)

    def test_workshop_and_its_challenge_are_one(self, site: Site) -> None:
        plain, challenge = site.registry.workshop("WKSHP-One"), site.registry.workshop("CHLG-One")
        assert plain == challenge
        assert (plain.name, plain.range, plain.reset) == ("WKSHP-One", (1, 6), False)

    def test_workshop_number_leads_back(self, site: Site) -> None:
        for name in ("WKSHP-One", "WKSHP-Two"):
            number = site.registry.workshop(name).id
            assert number > 0
            assert site.registry.workshop_by_id(number).name == name

    def test_unknown_workshop_number(self, site: Site) -> None:
        with pytest.raises(Refused, match="4711"):
            site.registry.workshop_by_id(4711)

    def test_unknown_workshop_names_the_near_one(self, site: Site) -> None:
        with pytest.raises(Refused, match="WKSHP-One"):
            site.registry.workshop("WKSHP-Onne")

    @pytest.mark.parametrize("name", ["", "WKSHP-", "WKSHP-../One", "../WKSHP-One", "WKSHP-One\n", "/etc"])
    def test_hostile_workshop(self, site: Site, name: str) -> None:
        with pytest.raises(Refused):
            site.registry.workshop(name)

    def test_agreeing_participant(self, site: Site) -> None:
        site.register(57, 3, "WKSHP-One")
        assert site.registry.check_participant(57, 3, "WKSHP-One") is None
        assert site.registry.check_participant(57, 3, "CHLG-One") is None
        assert site.registry.check_participant(57, 3, None) is None
        assert site.registry.participant_student(57) == 3

    def test_participant_of_another_student(self, site: Site) -> None:
        site.register(57, 3, "WKSHP-One")
        with pytest.raises(Refused, match=r"57.*3.*4"):
            site.registry.check_participant(57, 4, "WKSHP-One")

    def test_participant_of_another_workshop(self, site: Site) -> None:
        site.register(57, 3, "WKSHP-One")
        with pytest.raises(Refused, match=r"WKSHP-One.*WKSHP-Two"):
            site.registry.check_participant(57, 3, "WKSHP-Two")

    def test_unknown_participant_has_no_student(self, site: Site) -> None:
        with pytest.raises(Refused, match="999"):
            site.registry.participant_student(999)

    def test_seat_of_another_active_participant(self, site: Site) -> None:
        site.register(57, 3, "WKSHP-One")
        site.registry.set_active(57, 3)
        site.registry.set_cleaned(57)
        site.registry.free_seat(3)
        site.register(58, 3, "WKSHP-One")
        site.registry.set_active(58, 3)
        with pytest.raises(Refused, match="58"):
            site.registry.check_participant(57, 3, None)

    def test_life_of_a_seat(self, site: Site) -> None:
        registry = site.registry
        site.register(57, 3, "WKSHP-One")
        registry.set_password(3, SECRET_REF)
        registry.set_active(57, 3)
        seat = registry.seat(3)
        assert (seat.assigned, seat.participant, seat.active) == (True, 57, True)
        assert not registry.is_clean(57)
        registry.set_completion(57, 83)
        registry.keep_seat(3, 57)
        assert (registry.seat(3).assigned, registry.seat(3).active) == (True, False)
        registry.free_seat(3)
        registry.set_cleaned(57)
        assert registry.is_clean(57)
        assert (registry.seat(3).assigned, registry.seat(3).active) == (False, False)

    def test_taken_seats(self, site: Site) -> None:
        registry = site.registry
        assert registry.taken() == set()
        site.register(57, 3, "WKSHP-One")
        site.register(58, 4, "WKSHP-One")
        registry.set_active(58, 4)
        assert registry.taken() == {3, 4}
        registry.keep_seat(3, 57)
        registry.free_seat(4)
        registry.set_cleaned(58)
        assert (registry.taken(), registry.seat(3).assigned) == ({3}, True)

    def test_each_write_twice_is_once(self, site: Site) -> None:
        registry = site.registry
        site.register(57, 3, "WKSHP-One")
        writes = [
            lambda: registry.assign(3, "WKSHP-One", 57),
            lambda: registry.set_password(3, SECRET_REF),
            lambda: registry.set_active(57, 3),
            lambda: registry.set_completion(57, 83),
            lambda: registry.set_capacity("WKSHP-One", 6),
            lambda: registry.keep_seat(3, 57),
            lambda: registry.set_cleaned(57),
            lambda: registry.free_seat(3),
        ]
        for write in writes:
            write()
            once = (registry.seat(3), registry.is_clean(57), registry.workshop("WKSHP-One"))
            write()
            assert (registry.seat(3), registry.is_clean(57), registry.workshop("WKSHP-One")) == once

    def test_capacity(self, site: Site) -> None:
        site.registry.set_capacity("WKSHP-Two", 11)
        assert site.registry.workshop("WKSHP-Two").capacity == 11

    def test_writes_about_nobody_do_nothing(self, site: Site) -> None:
        site.register(57, 3, "WKSHP-One")
        before = site.registry.seat(3)
        site.registry.set_active(0)
        site.registry.set_cleaned(0)
        site.registry.set_completion(0, 50)
        assert site.registry.seat(3) == before
        assert site.registry.is_clean(0)
        assert site.registry.check_participant(0, 3, "WKSHP-Two") is None

    def test_session_token_is_text(self, site: Site) -> None:
        assert isinstance(site.registry.session_token(), str)
