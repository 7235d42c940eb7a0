"""Definitions of seats: what may be in them, the scripts made of them, and those that come with wodmail."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest

from tests.parts import require
from wodmail import containerscripts, paths
from wodmail.catalog import Workshop
from wodmail.children import Children
from wodmail.containers import Definition, read
from wodmail.containersecrets import SECRET_WORD
from wodmail.errors import Failed
from wodmail.model import Action, JobSpec
from wodmail.schema import Settings
from wodmail.scripts import Kind, Scripts
from wodmail.students import broughthome

OURS = paths.share("conf") / "containers"
KINDS = containerscripts.KINDS
TEN = "Ansible101 Concourse101 DataVisu101 Docker101 ML101 Podman101 Podman201 Spark101 StackStorm101 Tensorflow101"
FILES = sorted(OURS.glob("*.yml"))
SMALL = """
ports: {HTTPPORT: {inside: 80, first: 20000}}
tokens: [TOK]
container:
  image: example.org/box:1
"""


def define(folder: Path, text: str, name: str = "WKSHP-X.yml") -> tuple[Definition | None, str]:
    """A definition, and what is said about it."""
    (folder / name).write_text(text)
    definition, problems = read(folder / name)
    return definition, "\n".join(problem.message for problem in problems)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SMALL + "  privileged: true\n", "container.privileged: never: a student would be root on the appliance"),
        (SMALL + "  network: host\n", "container.network: there is a network a workshop"),
        (SMALL + "  volumes: [/:/host]\n", "container.volumes: there is no such key; docs/container-workshops.md"),
        (SMALL + "  volume: ../etc\n", "container.volume: String should match pattern"),
        (SMALL + "  capabilities: [SYS_ADMIN]\n", "container.capabilities: 'SYS_ADMIN' is not possible; there are"),
        (SMALL + "  devices: [/dev/sda]\n", "container.devices: '/dev/sda' is not possible; there are /dev/fuse"),
        (SMALL + "  security: [label=type:spc_t]\n", "container.security: 'label=type:spc_t' is not possible"),
        (SMALL + "  memory: lots\n", "container.memory: String should match pattern"),
        (SMALL + "  pids: 5\n", "container.pids: Input should be greater than or equal to 16"),
        (SMALL + '  environment: {A: "x\\ny"}\n', "container.environment.A: String should match pattern"),
        (SMALL + "  environment: {DB_PASSWORD: hunter2}\n", "DB_PASSWORD is written out; name a token or a secret"),
        (SMALL + "  environment: {A: '${NOPE}'}\n", "environment: A: ${NOPE} is nothing; there are"),
        (SMALL + "  command: ['--token=${TOK}']\n", "command, build: ${NAME} is filled in by wodmail in environment"),
        (SMALL + "  build: 'COPY / /'\n", "container.build: a Containerfile begins with FROM"),
        (SMALL.replace("box:1", "box"), "container.image: String should match pattern"),
        (SMALL.replace("box:1", "box:1 --privileged"), "container.image: String should match pattern"),
        (SMALL.replace("first: 20000", "first: 32760"), "ports: HTTPPORT ends at 32859; stay below 32768"),
        (SMALL.replace("first: 20000", "first: 80"), "ports.HTTPPORT.first: Input should be greater"),
        (SMALL.replace("HTTPPORT", "http-port"), "ports.http-port"),
        (SMALL.replace("[TOK]", "[HTTPPORT]"), "HTTPPORT is used twice, or by wodmail itself"),
        (SMALL.replace("[TOK]", "[PASSSTU]"), "PASSSTU is used twice, or by wodmail itself"),
        ("tokens: [TOK]\n", "tokens: only with a container"),
        (
            SMALL.replace("example.org/box:1", "postgres:17"),
            "container: image: name its registry too, as in docker.io/",
        ),
        ("container: {image: 'a.example/a:1'}\n", "ports: a seat without a port can't be reached"),
        (SMALL + "engine: lxc\n", "engine: Input should be 'any', 'docker' or 'podman'"),
        (SMALL + "seats: 0\n", "seats: Input should be greater than or equal to 1"),
        (SMALL + "ready: {seconds: 9999}\n", "ready.seconds: Input should be less than or equal to 280"),
        (SMALL + "tokens: [A]\n", "tokens is written twice"),
        ("web: {passwords: /etc/x, groups: []}\n", "web.groups: List should have at least 1 item"),
        ("- no mapping\n", "it must be a list of lines KEY: value"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(tmp_path: Path, text: str, words: str) -> None:
    definition, said = define(tmp_path, text)
    assert definition is None
    assert words in said
    assert "hunter2" not in said


def test_a_name_that_is_no_workshop(tmp_path: Path) -> None:
    assert define(tmp_path, SMALL, "Name.yml") == (None, "its name is not WKSHP-Name.yml: nothing would use it")


def test_private_definitions_go_before_public_ones(tmp_path: Path) -> None:
    for folder, seats in (("public", 1), ("private", 2)):
        (tmp_path / folder / "conf/containers").mkdir(parents=True)
        define(tmp_path / folder / "conf/containers", SMALL + f"seats: {seats}\n")
    define(tmp_path / "public/conf/containers", SMALL, "WKSHP-Y.yml")
    define(tmp_path / "public/conf/containers", "seats: none\n", "WKSHP-Z.yml")
    settings = Settings(WODUSER="w", WODBEDIR=tmp_path / "public", WODPRIVDIR=tmp_path / "private")
    found = containerscripts.find(settings)
    assert {ws: definition.seats for ws, definition in found.definitions.items()} == {"WKSHP-X": 2, "WKSHP-Y": 100}
    (problem,) = found.problems
    assert problem.path.endswith("public/conf/containers/WKSHP-Z.yml")
    file = containerscripts.file_of(settings, "WKSHP-X")
    assert file is not None and file.is_relative_to(tmp_path / "private")
    assert containerscripts.file_of(settings, "WKSHP-None") is None
    with pytest.raises(Failed, match=r"WKSHP-Z\.yml, can't be used"):
        containerscripts.load(Path(problem.path))


WRITTEN = "is written out"


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"  environment: {{{name}: hunter2}}\n"
            for name in (
                *("DB_PASS", "DBPASS", "PASS", "PASSPHRASE", "ROOTPW", "DB_PW", "SECRET_KEY", "SECRET_KEY_BASE"),
                *("AWS_SECRET_ACCESS_KEY", "ACCESS_KEY", "PASSWORD2", "ADMINPASS", "POSTGRES_PASSWORD", "APIKEY"),
            )
        ),
        "  environment: {DATABASE_URL: 'postgres://me:hunter2@db/x'}\n",
        "  environment: {CACHE: 'redis://:hunter2@cache:6379/0'}\n",
        "  environment: {DB_PASSWORD: 'hunter2$5'}\n",
        "  command: ['--password=hunter2']\n",
        "  command: [serve, --db-pass, hunter2]\n",
        "  command: ['--ServerApp.token=hunter2']\n",
        "  command: [sh, -c, 'PGPASSWORD=hunter2 psql']\n",
        "  command: [wget, 'https://me:hunter2@example.org/']\n",
        "  build: |\n    FROM a.example/a:1\n    ENV DB_PASSWORD=hunter2\n",
        "  build: |\n    FROM a.example/a:1\n    ENV DB_PASSWORD hunter2\n",
        '  build: |\n    FROM a.example/a:1\n    ARG TOKEN="hunter2"\n',
        "  build: |\n    FROM a.example/a:1\n    RUN git clone https://me:hunter2@example.org/x\n",
        "  build: |\n    FROM a.example/a:1\n    RUN true \\\n     && echo 'root:hunter2' | chpasswd\n",
        "ready: {command: [psql, '--password=hunter2']}\n",
    ],
)
def test_a_secret_that_is_written_out_is_refused(tmp_path: Path, text: str) -> None:
    definition, said = define(tmp_path, SMALL + text)
    assert (definition, WRITTEN in said, "hunter2" in said) == (None, True, False), said


@pytest.mark.parametrize(
    "text",
    [
        "  environment: {KEYBOARD: us, KEY: left, PUBLIC_KEY: x, COMPASS: north, BYPASS: 'on', MAX_TOKENS: 4096}\n",
        "  environment: {PASSWORD_FILE: /run/x, TOKEN_SECONDS: 60, SECRETARY: me, PASSENGERS: 3, HOTKEY: F1}\n",
        "  environment: {ALLOW_EMPTY_PASSWORD: 'yes', NO_PASSWORD: true, DB_PASSWORD: ''}\n",
        "  environment: {DATABASE_URL: 'postgres://me:${TOK}@db/x', PAGE: 'http://db:8080/me@home'}\n",
        "  environment: {DB_PASS: '${TOK}', HOST: 'ssh://me@host:22'}\n",
        "  command: [serve, --password-file, /run/x, --token, --verbose, '--ServerApp.token=']\n",
        "  command: [sh, -c, 'exec serve --password=\"$DB_PASS\" --keyboard=us']\n",
        "  build: |\n    FROM a.example/a:1\n    ARG TOKEN\n    ENV PASSWORD_FILE=/x\n    # no chpasswd here\n",
        '  build: |\n    FROM a.example/a:1\n    RUN echo "root:$(openssl rand -hex 20)" | chpasswd\n',
    ],
)
def test_what_only_looks_like_a_secret_is_let_through(tmp_path: Path, text: str) -> None:
    definition, said = define(tmp_path, SMALL + text)
    assert (definition is not None, said) == (True, "")


@pytest.mark.parametrize("value", ["x.y.z.t", "0", "65500", "99999999", "-1", "²"])
def test_a_port_in_group_vars_must_be_one(tmp_path: Path, value: str) -> None:
    definition, _ = define(tmp_path, SMALL)
    assert definition is not None
    with pytest.raises(Failed, match="HTTPPORT-WKSHP-X in group_vars must be the first of 100 ports"):
        containerscripts.scripts_of("WKSHP-X", definition, {"HTTPPORT-WKSHP-X": value})
    made = containerscripts.scripts_of("WKSHP-X", definition, {"HTTPPORT-WKSHP-X": 7000})
    assert "\nport HTTPPORT 7000 80\n" in made["create-WKSHP-X.sh"]


def test_the_ten_are_there() -> None:
    assert [file.stem for file in FILES] == [f"WKSHP-{name}" for name in TEN.split()]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_each_of_ours_is_right_and_holds_no_secret(file: Path) -> None:
    definition, problems = read(file)
    assert (problems, definition is not None) == ([], True)
    assert definition is not None
    made = containerscripts.scripts_of(file.stem, definition)
    assert set(made) == {f"{kind}-{file.stem}.sh" for kind in containerscripts.kinds_of(definition)}
    assert {"create", "cleanup", "reset", "setup"} <= set(containerscripts.kinds_of(definition))
    assert all(containerscripts.is_made(text) for text in made.values())
    for container in definition.containers.values():
        for key, value in container.environment.items():
            if SECRET_WORD.search(key):
                assert re.fullmatch(r"\$\{[A-Z]+\}", value), f"{key} must be a token or a secret, whole"
        assert not container.image.endswith(":latest"), "a tag that moves"
    recipe = made[f"create-{file.stem}.sh"]
    assert not re.search(r"--privileged|PRIVATE KEY|--network=|--pid=|--ipc=|--volume", recipe)
    for name, port in definition.ports.items():
        assert f"\nport {name} {port.first} {port.inside}\n" in recipe


def test_ports_of_ours_do_not_meet_on_one_appliance() -> None:
    spans = []
    for file in FILES:
        definition, _ = read(file)
        assert definition is not None
        spans += [(port.first, port.first + definition.seats - 1, file.stem) for port in definition.ports.values()]
    assert len(spans) == 10
    met = [(one, two) for one, two in pairwise(sorted(spans)) if two[0] <= one[1]]
    assert met == []
    assert all(1024 <= first and last < 32768 for first, last, _ in spans)


def test_what_is_made_is_clean(tmp_path: Path) -> None:
    shellcheck = require("shellcheck")
    scripts = []
    for file in FILES:
        definition, _ = read(file)
        assert definition is not None
        for name, text in containerscripts.scripts_of(file.stem, definition).items():
            (tmp_path / name).write_text(text)
            scripts.append(tmp_path / name)
    assert len(scripts) == 44
    done = subprocess.run([shellcheck, *map(str, scripts)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_which_script_a_job_runs(tmp_path: Path) -> None:
    """A site's own goes before the definition; what was delivered of the definition does not."""
    conf, scripts, private = (tmp_path / name for name in ("conf/containers", "scripts", "private/scripts"))
    for folder in (conf, scripts, private):
        folder.mkdir(parents=True)
    definition, _ = define(conf, SMALL)
    assert definition is not None
    settings = Settings(WODUSER="w", WODBEDIR=tmp_path, WODSCRIPTDIR=scripts, WODPRIVDIR=tmp_path / "private")
    site = Scripts(settings, Children(tmp_path / "state"))

    def files(kind: Kind) -> list[str]:
        return [str(script.file.relative_to(tmp_path)) for script in site.find(kind, "WKSHP-X")]

    made = "conf/containers/WKSHP-X.yml"
    assert [files(kind) for kind in ("create", "cleanup", "reset", "post-copy")] == [[made], [made], [made], []]
    assert site.find("create", "WKSHP-Y") == []
    for name, text in containerscripts.scripts_of("WKSHP-X", definition).items():
        (scripts / name).write_text(text)
    (private / "create-WKSHP-X.sh").write_text("echo after\n")
    assert files("create") == [made, "private/scripts/create-WKSHP-X.sh"]
    assert [script.where for script in site.named("setup-WKSHP-X.sh")] == ["public"]
    (scripts / "create-WKSHP-X.sh").write_text("echo of the site's own\n")
    assert files("create") == ["scripts/create-WKSHP-X.sh", "private/scripts/create-WKSHP-X.sh"]
    (conf / "WKSHP-X.yml").unlink()
    assert files("cleanup") == [], "what was made of a file that is gone is not run"


def shipped(folder: Path) -> Settings:
    """A backend with one of our definitions, and folders for scripts."""
    for name in ("conf/containers", "scripts", "private/scripts", "private/conf/containers"):
        (folder / name).mkdir(parents=True)
    shutil.copy(OURS / "WKSHP-ML101.yml", folder / "conf/containers")
    private = folder / "private"
    return Settings(WODUSER="w", WODBEDIR=folder, WODSCRIPTDIR=folder / "scripts", WODPRIVDIR=private)


@pytest.mark.parametrize("kind", ["create", "post-copy", "cleanup", "reset"])
@pytest.mark.parametrize("where", ["scripts", "private/scripts"])
@pytest.mark.parametrize("end", [".sh", ".sh.j2"])
def test_a_site_with_scripts_of_its_own_gets_none_of_ours(tmp_path: Path, kind: str, where: str, end: str) -> None:
    """As the site's create, ours after it: its docker exec would fail every CREATE. Existing scripts run unchanged."""
    settings = shipped(tmp_path)
    scripts = settings.WODSCRIPTDIR
    site = Scripts(settings, Children(tmp_path / "state"))

    def counts() -> list[bool]:
        """For which kinds something of a definition is run; one answer for `find`, too."""
        found = "WKSHP-ML101" in containerscripts.find(settings).definitions
        return [found, *(any(".yml" in s.file.name for s in site.named(f"{k}-WKSHP-ML101.sh")) for k in KINDS)]

    assert counts() == [True] * 6
    definition, _ = read(OURS / "WKSHP-ML101.yml")
    assert definition is not None
    for name, text in containerscripts.scripts_of("WKSHP-ML101", definition).items():
        (scripts / name).write_text(text)
    assert counts() == [True] * 6, "what was delivered of it is not the site's own"
    own = tmp_path / where / f"{kind}-WKSHP-ML101{end}"
    own.write_text("echo of the site's own\n")
    if where != "scripts":  # with a create and one more it is a seat; alone it is a hook, see below
        other = own.with_name(f"{'cleanup' if kind == 'create' else 'create'}-WKSHP-ML101{end}")
        other.write_text("echo of the site's own\n")
    assert counts() == [False] * 6
    assert [script.file for script in site.named(f"{kind}-WKSHP-ML101.sh")] == [own]
    shutil.copy(OURS / "WKSHP-ML101.yml", tmp_path / "private/conf/containers")
    assert counts() == [True, *(each != kind or where != "scripts" for each in KINDS)], "a definition of the site's own"
    assert containerscripts.gives_way(settings, "WKSHP-ML101") is None


@pytest.mark.parametrize("kind", KINDS)
def test_one_private_script_is_a_hook_that_runs_after_ours(tmp_path: Path, kind: str) -> None:
    """As docs/container-workshops.md says; so does a setup of the site's with it, which makes no seat."""
    settings = shipped(tmp_path)
    site = Scripts(settings, Children(tmp_path / "state"))
    made = tmp_path / "conf/containers/WKSHP-ML101.yml"
    hook, setup = (tmp_path / "private/scripts" / f"{each}-WKSHP-ML101.sh" for each in (kind, "setup"))
    for script in (hook, setup):
        script.write_text("true\n")
    assert [script.file for script in site.named(hook.name)] == [made, hook]
    assert next(script.file for script in site.named("create-WKSHP-ML101.sh")) == made
    (tmp_path / "scripts" / setup.name).write_text("true\n")
    assert next(script.file for script in site.named("cleanup-WKSHP-ML101.sh")) == made
    assert "WKSHP-ML101" in containerscripts.find(settings).definitions


def test_a_definition_that_gives_way_is_told(tmp_path: Path) -> None:
    """With the script that it gives way to, and with scripts made of it that lie there and that no job runs."""
    settings = shipped(tmp_path).model_copy(update={"WODNOBO": tmp_path})
    file, own = tmp_path / "conf/containers/WKSHP-ML101.yml", tmp_path / "scripts/cleanup-WKSHP-ML101.sh.j2"
    assert containerscripts.gives_way(settings, "WKSHP-ML101") is None
    own.write_text("true\n")
    found = containerscripts.gives_way(settings, "WKSHP-ML101")
    assert found is not None and found.words == f"the shipped definition {file} gives way to {own}"
    target = tmp_path / "private/conf/containers/WKSHP-ML101.yml"
    assert found.advice(settings) == f"copy it to {target} to keep both"
    definition, _ = read(OURS / "WKSHP-ML101.yml")
    assert definition is not None
    made = tmp_path / "scripts/reset-WKSHP-ML101.sh"
    made.write_text(containerscripts.scripts_of("WKSHP-ML101", definition)[made.name])
    found = containerscripts.gives_way(settings, "WKSHP-ML101")
    assert found is not None and found.words.endswith(f"; made of it once, and not run by jobs: {made}")
    assert found.advice(settings).startswith("remove the scripts made of it, or copy it to ")
    told: list[str] = []
    own.rename(own.with_suffix(""))
    spec = JobSpec(1, 1, Action.CLEANUP, (7,), "WKSHP-ML101")
    Scripts(settings, Children(tmp_path / "state"), lambda name: Workshop(name)).run("cleanup", spec, {}, told.append)
    assert told[0].startswith(f"the shipped definition {file} gives way to {own.with_suffix('')}")


def test_notebooks_go_out_and_come_home(tmp_path: Path) -> None:
    notebooks = [("0-ReadMeFirst.ipynb", b"{}"), ("deep/1-Lab.ipynb", b"{ }")]
    with (tmp_path / "notebooks.tar").open("w+b") as archive:
        broughthome.pack("WKSHP-X", notebooks, archive)
        archive.seek(0)
        assert broughthome.notebooks(archive) == notebooks
    with tarfile.open(tmp_path / "notebooks.tar") as tar:
        assert next((each.name, each.uid, each.mode) for each in tar) == ("WKSHP-X", 0, 0o755)
