"""scripts/procmail-action.sh and scripts/wod.sh: what an existing backend's recipes and programs call."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ownetc import OwnEtc, own_etc
from tests.parts import require
from tests.postfix import PYTHON, ROOT
from wodmail.errors import Refused
from wodmail.mail import message, trust
from wodmail.mail.spool import Spool
from wodmail.schema import Settings

pytestmark = pytest.mark.root
ENVELOPE = b"From frontend@example.org  Fri Mar  3 09:08:35 2023\n"
MAIL = ENVELOPE + b"Received: from x\n\tby y\nSubject: CREATE 12 57\n\nWKSHP-API101\n"
BARE = MAIL.partition(b"\n")[2]


class Shim:
    """The scripts in a tree like a checkout's, and a configuration of their own.

    Args:
        folder: where the tree and the spool are.
        etc: where /etc/wod.sh is.
    """

    def __init__(self, folder: Path, etc: OwnEtc) -> None:
        self.state, self.etc = folder / "state", etc
        self.scripts = folder / "wod-backend" / "scripts"
        self.scripts.mkdir(parents=True)
        (folder / "wod-backend/wodmail").symlink_to(ROOT / "wodmail")
        for name in ("wod.sh", "procmail-action.sh"):
            shutil.copy(ROOT / "scripts" / name, self.scripts)
        self.path = f"{Path(PYTHON).parent}:/usr/bin:/bin"

    def configure(self, text: str = "") -> None:
        """Write /etc/wod.sh, and an empty state folder."""
        shutil.rmtree(self.state, ignore_errors=True)
        self.state.mkdir()
        lines = f"export WODSTATEDIR={self.state}\nexport WODSENDER=own@example.org\nexport WODGROUP=production\n"
        (self.etc.folder / "wod.sh").write_text(text or lines)

    def call(self, *words: str, mail: bytes = MAIL, **environment: str) -> subprocess.CompletedProcess[bytes]:
        """Call procmail-action.sh with a mail."""
        given = {"PATH": self.path, **environment}
        clean = ["env", "-i", *(f"{name}={value}" for name, value in given.items())]
        argv = [*self.etc.enter, *clean, str(self.scripts / "procmail-action.sh"), *words]
        return subprocess.run(argv, input=mail, cwd="/", capture_output=True, check=False, timeout=60)

    def stored(self) -> list[tuple[str, bytes]]:
        """Sender and text of the mails in the spool."""
        spool = Spool(self.state / "spool")
        return [(mail.sender, mail.raw) for mail in map(spool.read, spool.new())] if self.state.is_dir() else []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shim]:
    """One tree for all."""
    require("root")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "etc").mkdir()
    with own_etc(folder / "etc") as etc:
        yield Shim(folder, etc)


@pytest.fixture
def shim(made: Shim) -> Shim:
    """Its configuration and spool anew."""
    made.configure()
    return made


def command(raw: bytes) -> tuple[str, str]:
    """Subject and workshop as wodmail reads them."""
    read = message.read(raw)
    return read.subject, read.workshop_line


def test_a_mail_is_stored_as_it_came(shim: Shim) -> None:
    done = shim.call("CREATE", "12", "57")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert shim.stored() == [("frontend@example.org", MAIL.partition(b"\n")[2])]


@pytest.mark.parametrize(
    "mail",
    [
        b"Subject: CREATE 12 57\r\n\r\nWKSHP-API101\r\n",
        b"subject:\n  CREATE 12 57\nX: y\n\nWKSHP-API101\n\n-- \nme\n",
        b"Subject: =?utf-8?q?CREATE_12_57?=\n\nWKSHP-API101",
        b"Subject: CREATE 12 57\nWKSHP-API101\n",
    ],
)
def test_the_mails_own_subject_wins_over_the_arguments(shim: Shim, mail: bytes) -> None:
    assert shim.call("PURGE", "99", "1", mail=mail, SENDER="a@example.org").returncode == 0
    [(sender, raw)] = shim.stored()
    assert raw == mail or raw == mail + b"\n"
    assert sender == "a@example.org"
    assert command(raw) == ("CREATE 12 57", "WKSHP-API101")


@pytest.mark.parametrize(
    "mail",
    [
        b"WKSHP-API101\n",
        b"WKSHP-API101",
        b"\nWKSHP-API101\n",
        b"From: a@example.org\n\nWKSHP-API101\n",
        b"From: a@example.org\nWKSHP-API101\n",
        b"Subject:\nX: y\n\nWKSHP-API101\n",
        b"Subject:  \n\t\nX: y\r\n\r\nWKSHP-API101\r\n",
    ],
)
def test_a_mail_without_a_subject_gets_one(shim: Shim, mail: bytes) -> None:
    assert shim.call("Create", "12", "57", mail=mail).returncode == 0
    [(sender, raw)] = shim.stored()
    assert sender == "", "nobody's: WODSENDER is the sender of whoever says so, not of whoever says nothing"
    assert command(raw) == ("Create 12 57", "WKSHP-API101")


@pytest.mark.parametrize(
    ("mail", "words", "environment", "sender"),
    [
        (MAIL, (), {}, "frontend@example.org"),
        (MAIL, ("--own",), {"SENDER": "a@example.org"}, "frontend@example.org"),
        (BARE, (), {}, ""),
        (BARE, (), {"SENDER": "a@example.org"}, "a@example.org"),
        (BARE, ("--own",), {}, "own@example.org"),
        (BARE, ("--own",), {"SENDER": "a@example.org"}, "a@example.org"),
    ],
)
def test_who_sent_it(shim: Shim, mail: bytes, words: tuple[str, ...], environment: dict[str, str], sender: str) -> None:
    done = shim.call(*words, "CREATE", "12", "57", mail=mail, **environment)
    assert (done.returncode, [found for found, _ in shim.stored()]) == (0, [sender])
    assert (b"sender is unknown" in done.stderr) == (sender == "")


def test_a_recipe_that_drops_the_envelope_lets_nobody_command(shim: Shim) -> None:
    """Flag b, or a filter before it: whoever reaches the mailbox would be WODSENDER otherwise."""
    assert shim.call("CREATE", "12", "57", mail=b"WKSHP-API101\n").returncode == 0
    settings = Settings.model_validate({"WODSENDER": "own@example.org"})
    with pytest.raises(Refused, match="sender may not send commands"):
        trust.may_command(settings, peer="", sender=shim.stored()[0][0], piped=True)


def test_a_reply_does_not_become_a_command(shim: Shim) -> None:
    """A recipe that looks for CREATE anywhere in a subject matches our own replies, too."""
    assert shim.call("CREATE", "12", "57", mail=b"Subject: Re: CREATE 12 57: done\n\nWKSHP-API101\n").returncode == 0
    assert [command(raw)[0] for _, raw in shim.stored()] == ["Re: CREATE 12 57: done"]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("CREATE",),
        ("REBOOT", "12"),
        ("CREATE", "012"),
        ("CREATE", "12;reboot"),
        ("CREATE", "a[$(touch /tmp/x)]", "0"),
        ("CREATE", "12", "-1"),
        ("CREATE", "12\nX-WOD: 1", "0"),
        ("CREATE", "12", "0", "more"),
        ("CREATE", "12", ""),
    ],
)
def test_arguments_that_are_no_command_make_no_subject(shim: Shim, words: tuple[str, ...]) -> None:
    done = shim.call(*words, mail=b"WKSHP-API101\n")
    assert (done.returncode, shim.stored()) == (65, [])
    assert b"usage: procmail-action.sh [--own] ACTION STUDENT" in done.stderr


def test_a_large_body_arrives_whole(shim: Shim) -> None:
    body = bytes(range(256)) * 2000
    assert shim.call("CREATE", "12", mail=b"X: y\n\n" + body).returncode == 0
    assert shim.stored()[0][1] == b"X: y\nSubject: CREATE 12\n\n" + body


def test_what_cannot_be_stored_is_to_be_tried_again(shim: Shim) -> None:
    assert shim.call("CREATE", "12", mail=b"").returncode == 65
    (shim.state / "spool").write_text("in the way")
    done = shim.call("CREATE", "12")
    assert done.returncode == 75 and b"will be tried again" in done.stderr
    shim.configure("export WODGROUP=production\n")
    done = shim.call("CREATE", "12")
    assert done.returncode == 75 and b"/etc/wod.sh is of an older backend" in done.stderr
    (shim.etc.folder / "wod.sh").unlink()
    done = shim.call("CREATE", "12")
    assert done.returncode == 75 and b"as root: wodmail config shell --output" in done.stderr


def test_a_broken_installation_is_to_be_tried_again(shim: Shim, tmp_path: Path) -> None:
    for name in ("bash", "dirname", "readlink", "cat"):
        (tmp_path / name).symlink_to(str(shutil.which(name, path="/usr/bin:/bin")))
    done = shim.call("CREATE", "12", PATH=str(tmp_path))
    assert done.returncode == 75 and b"python3" in done.stderr


def test_a_link_finds_the_rest(shim: Shim, tmp_path: Path) -> None:
    link = tmp_path / "procmail-action.sh"
    link.symlink_to(shim.scripts / "procmail-action.sh")
    argv = [*shim.etc.enter, str(link), "CREATE", "12", "57"]
    done = subprocess.run(argv, input=MAIL, env={"PATH": shim.path}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(shim.stored()) == 1


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_wod_sh_gives_the_configuration(shim: Shim, shell: str) -> None:
    text = f". {shim.scripts}/wod.sh && echo $WODGROUP"
    argv = [*shim.etc.enter, shell, "-euc", text]
    assert subprocess.run(argv, capture_output=True, check=False).stdout == b"production\n"
    (shim.etc.folder / "wod.sh").unlink()
    done = subprocess.run(argv, capture_output=True, check=False)
    assert done.returncode == 78 and b"wodmail config shell --output" in done.stderr
