"""Texts made from the configuration's schema: sample file, docs page, /etc/wod.sh and the masked listing."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from wodmail import paths
from wodmail.schema import GROUPS, Settings, note, secret_keys

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SHELL_READONLY = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"})
PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
MASK = "********"
LOOKS_SECRET = re.compile(r"PWD|PASS|TOKEN|SECRET|CREDENTIAL|PRIVATEKEY", re.IGNORECASE)


def sample() -> str:
    """A configuration file in which every key stands commented out with its default."""
    lines = [
        "# wodmail's configuration: the one vocabulary of Python, Ansible and shell scripts.",
        "# Every key is optional and stands here with its default; remove the # to change one.",
        "# Relative paths start at this file's folder. Keys that are not listed become Ansible variables,",
        "# for instance IP-WKSHP-Name: 10.0.0.5. Afterwards: wodmail config check",
        "",
        "---",
    ]
    for name in Settings.model_fields:
        if name in GROUPS:
            lines += ["", f"## {GROUPS[name]}", ""]
        lines += [f"# {line}" for line in textwrap.wrap(_described(name), 100)]
        lines.append(f"#{name}: {_yaml(_plain_default(name))}".rstrip())
    return "\n".join(lines) + "\n"


def page() -> str:
    """docs/configuration.md."""
    out = [_INTRODUCTION]
    for name in Settings.model_fields:
        if name in GROUPS:
            out += [f"\n## {GROUPS[name]}\n", "| key | meaning | default |", "|---|---|---|"]
        field = Settings.model_fields[name]
        plain = _yaml(_plain_default(name))
        default = note(name, "shown") or (f"`{plain}`" if plain else "empty")
        out.append(f"| `{name}` | {field.description} | {default} |")
    return "\n".join(out) + "\n"


def shell(settings: Settings, file: Path) -> str:
    """The content of /etc/wod.sh: every key that is a shell identifier, exported and safely quoted.

    Args:
        settings: the configuration.
        file: where it was read from, for the heading.
    """
    lines = [f"# Made by `wodmail config shell` from {shlex.quote(str(file))}; changes here are lost."]
    lines += [f"export {name}={shlex.quote(text)}" for name, text in shell_variables(settings).items()]
    return "\n".join(lines) + "\n"


def shell_variables(settings: Settings) -> dict[str, str]:
    """Every key that is a shell identifier, as the text that shell scripts read; what /etc/wod.sh exports."""
    values = {**_ansible_places(), **settings.variables(), **ansible_options(settings)}
    named = {name: value for name, value in values.items() if IDENTIFIER.fullmatch(name)}
    return {name: _shell_text(value) for name, value in named.items() if name not in SHELL_READONLY}


def ansible_options(settings: Settings) -> dict[str, str]:
    """WODANSPLAYOPT, WODANSPRIVOPT and WODPRIVINV, as existing scripts use them: unquoted on ansible-playbook's line.

    They hold no secret, because a command line is visible to all.
    """
    known = settings.variables(secrets=False)
    names = [name for name in Settings.model_fields if isinstance(known.get(name), str | int | float)]
    options = " ".join(f"-e {_extra_variable(name, known[name])}" for name in names if known[name] != "")
    private = settings.WODANSIBLEPRIVDIR
    files, inventory = [], ""
    if private is not None:
        stems = [private / "group_vars" / stem for stem in ("all", settings.WODGROUP)]
        files = [path for stem in stems for path in (stem, stem.with_name(stem.name + ".yml")) if path.is_file()]
        inventory = f"-i {private / 'inventory'}" if (private / "inventory").exists() else ""
    private_options = " ".join(f"-e @{path}" for path in files)
    return {"WODANSPLAYOPT": options, "WODANSPRIVOPT": private_options, "WODPRIVINV": inventory}


def _ansible_places() -> dict[str, str]:
    """Where the ansible-playbook of a script finds the connection `localhost`, which inventories of old say."""
    usual = ("~/.ansible/plugins/connection", "/usr/share/ansible/plugins/connection")
    return {"ANSIBLE_CONNECTION_PLUGINS": ":".join((str(paths.share("ansible") / "connection_plugins"), *usual))}


def masked(settings: Settings) -> dict[str, Any]:
    """Every effective value, those of secrets masked; unknown keys are judged by their names."""
    known = secret_keys()
    return {
        name: MASK if value and (name in known or _looks_secret(name)) else value
        for name, value in settings.variables().items()
    }


def _looks_secret(name: str) -> bool:
    return name not in Settings.model_fields and bool(LOOKS_SECRET.search(name))


def _extra_variable(name: str, value: str | int | float) -> str:
    """NAME=value, or JSON without blanks and wildcards: both survive the shell's splitting of an unquoted variable."""
    if isinstance(value, str) and PLAIN.fullmatch(value):
        return f"{name}={value}"
    packed = json.dumps({name: value}, separators=(",", ":"))
    return re.sub(r"[ *?\[\]']", lambda found: f"\\u{ord(found.group()):04x}", packed)


def _shell_text(value: Any) -> str:
    """A value as shell scripts read it: true/false, lists separated by blanks, other structures as JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(entry, str | int | float) for entry in value):
        return " ".join(str(entry) for entry in value)
    if isinstance(value, dict | list):
        return json.dumps(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _described(name: str) -> str:
    """Description and, for a derived default, the words for it."""
    field, shown = Settings.model_fields[name], note(name, "shown")
    return f"{field.description} Default: {shown}." if shown else str(field.description)


def _plain_default(name: str) -> Any:
    """The default as YAML would hold it; nothing for one that depends on other keys."""
    if note(name, "shown"):
        return ""
    default = Settings.model_fields[name].default
    if isinstance(default, list):
        return [str(entry) for entry in default]
    return "" if default is None else str(default) if isinstance(default, Path) else default


def _yaml(value: Any) -> str:
    """One value in YAML, on one line."""
    if value == "":
        return ""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def listing(values: dict[str, Any]) -> Iterator[str]:
    """Lines KEY: value for people."""
    for name, value in values.items():
        yield f"{name}: {_yaml(value)}".rstrip()


_INTRODUCTION = """# Configuration

<!-- Made from the schema by `wodmail config docs`; change wodmail/schema.py instead. -->

wodmail reads one YAML file: the one named by `--config`, else by `$WOD_CONFIG`, else `/etc/wod.yml`. Python, Ansible
and shell scripts share its names. Every key is optional. Relative paths start at the file's folder, `~` is the home
folder.

| command | what it does |
|---|---|
| `wodmail config sample` | prints a file with every key, its meaning and default |
| `wodmail config check [--json]` | reports all that is wrong, each with its key; exit status 0 in order, 78 not |
| `wodmail config show [--json]` | prints the values in effect, secrets masked |
| `wodmail config shell` | prints the file as shell variables |
| `wodmail config shell --output [FILE]` | writes them to /etc/wod.sh, or FILE, mode 0640 |
| `wodmail config docs` | prints this page |

A key that is not listed here is kept and becomes a variable for Ansible and scripts (`IP-WKSHP-Name`,
`SSHPORT-WKSHP-Name`, ...); names that are no shell identifiers stay out of `/etc/wod.sh`. An unknown key that begins
with WOD is a warning that names the nearest known one. A service (API-DB, JupyterHub, LDAP) is configured with all of
its keys or none of them: half of them is an error, so that a lost line never changes what a mail means. Without its
keys the registry is the embedded one, and there is no hub and no LDAP.

`/etc/wod.yml` and `/etc/wod.sh` hold secrets: owner root, group WODUSER, mode 0640. Files of keys and passwords named
in it (`WODSIGNKEYFILE`, `WODTLSKEY`, `WODAUTHFILE`) have mode 0600, or 0640 when a group must read them.

`/etc/wod.sh` has more variables for scripts that call ansible-playbook: `WODANSPLAYOPT` (`-e` options with every path
and name, no secret), `WODANSPRIVOPT` (`-e @file` for the private group_vars that exist), `WODPRIVINV` (`-i` the private
inventory when there is one), and `ANSIBLE_CONNECTION_PLUGINS`, so that `ansible_connection=localhost` is understood."""
