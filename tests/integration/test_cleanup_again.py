"""A CLEANUP that runs once more, retried by an operator or repeated by a frontend: what was told stays true."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apidb.site import ApiDbSite
from tests.e2e.harness import NOTEBOOK, Deployment, step_of
from tests.support import wait_until
from wodmail import requests

pytestmark = pytest.mark.xdist_group("cleanup-again")  # one server for all


class World:
    """A backend and its API-DB; the test is the frontend. The script of CLEANUP fails where `broken` is."""

    def __init__(self, folder: Path) -> None:
        self.api = ApiDbSite(folder, base=1000)
        self.backend = Deployment(folder, WODREPLYBUDGET=1000, **self.api.keys)
        self.broken = folder / "broken"
        self.backend.workshop("WKSHP-Plain", range=[1, 20])
        self.api.add_workshop("WKSHP-Plain", range=[1, 20])
        self.backend.script("cleanup-WKSHP-Plain.sh", f"[ ! -e {self.broken} ]\n")
        self.api.add_students(range(1, 21))
        self.api.start()
        self.backend.start()

    def half_done(self, student: int) -> int:
        """A participant who has executed one of two cells."""
        one = self.api.add_customer("WKSHP-Plain", student)
        assert self.backend.one(f"CREATE {student} {one}", "WKSHP-Plain")["state"] == "done"
        empty = {"cell_type": "code", "metadata": {}, "outputs": [], "source": ""}
        cells = [{**empty, "id": f"c{count}", "execution_count": count or None} for count in range(2)]
        file = self.backend.home(student) / "WKSHP-Plain" / "1-Work.ipynb"
        file.write_text(json.dumps({**NOTEBOOK, "cells": cells}))
        return one


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("again"))
    yield made
    made.backend.close()
    made.api.stop()


def test_a_retried_cleanup_makes_good_what_failed_and_keeps_the_ratio(world: World) -> None:
    one = world.half_done(1)
    world.broken.touch()
    row = world.backend.one(f"CLEANUP 1 {one}", "WKSHP-Plain")
    assert (row["state"], step_of(row, "cleanup-script")["state"]) == ("failed", "failed")
    customer = world.api.customer(one)
    assert (customer["completionPercentage"], customer["cleaned"], world.api.student(1)["assigned"]) == (
        50,
        True,
        False,
    )
    world.broken.unlink()
    before = world.api.mark()
    requests.retry(world.backend.store, row["id"])
    world.backend.ended(1)
    again = next(found for found in world.backend.requests() if found["id"] == row["id"])
    assert (again["state"], step_of(again, "cleanup-script")["state"]) == ("done", "done"), again["reason"]
    assert world.api.customer(one)["completionPercentage"] == 50
    told = [set(body) for _, body in world.api.puts(before)]
    assert told == [{"password"}, {"assigned"}, {"cleaned"}]


def test_a_repeated_cleanup_keeps_the_ratio_that_the_api_db_does_not_know_yet(world: World) -> None:
    one = world.half_done(2)
    world.api.fault("error", method="PUT", path=f"/(customer/{one}|student/1002)$")
    assert world.backend.one(f"CLEANUP 2 {one}", "WKSHP-Plain")["state"] == "done"
    count = len(world.backend.requests())
    world.backend.mail(f"CLEANUP 2 {one}", "WKSHP-Plain")
    wait_until(lambda: len(world.backend.requests()) > count, what="the second request")
    world.api.clear_faults()
    row = world.backend.ended(count + 1)[-1]
    # It depends on which comes first: the look at the seat, or the news that it is free.
    assert "nothing to clean up" in row["reason"] or step_of(row, "ratio")["state"] == "skipped"

    def kept() -> tuple[object, ...]:
        customer = world.api.customer(one)
        return customer["completionPercentage"], customer["cleaned"], world.api.student(2)["assigned"]

    # What was kept during the trouble may arrive after the second request's end.
    wait_until(lambda: kept() == (50, True, False), what="the kept writes")
    assert kept() == (50, True, False)


def test_who_comes_again_after_a_new_create_is_read_anew(world: World) -> None:
    """The same participant, deployed once more: nothing was executed, and that counts."""
    one = world.half_done(3)
    assert world.backend.one(f"CLEANUP 3 {one}", "WKSHP-Plain")["state"] == "done"
    world.api.update("students", 1003, assigned=True)
    assert world.backend.one(f"CREATE 3 {one}", "WKSHP-Plain")["state"] == "done"
    (world.backend.home(3) / "WKSHP-Plain" / "0-ReadMeFirst.ipynb").unlink()
    row = world.backend.one(f"CLEANUP 3 {one}", "WKSHP-Plain")
    assert (row["state"], step_of(row, "ratio")["note"]) == ("done", "0 %")
    assert world.api.customer(one)["completionPercentage"] == 0


def test_a_seat_that_is_given_away_while_it_is_emptied_stays_assigned(world: World) -> None:
    one = world.half_done(4)
    other = f"""import urllib.request as u, json
body = {{"table": "customers", "rows": [{{"id": 900, "notebook": "WKSHP-Plain", "studentId": 1004, "active": False,
         "cleaned": False}}]}}
u.urlopen(u.Request("{world.api.url.removesuffix("/api")}/stand-in/rows", json.dumps(body).encode(),
          {{"Content-Type": "application/json"}}))"""
    world.backend.script("cleanup-WKSHP-Plain.sh", f"python3 - <<'END'\n{other}\nEND\n")
    row = world.backend.one(f"CLEANUP 4 {one}", "WKSHP-Plain")
    step = step_of(row, "free-seat")
    assert (row["state"], step["state"]) == ("done", "skipped")
    assert "now belongs to participant 900" in step["note"]
    assert world.api.student(4)["assigned"]
