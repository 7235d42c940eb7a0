"""How long wod-deliver takes for many templates, all new and all as they were."""

from __future__ import annotations

import json
import statistics
import subprocess
from pathlib import Path

from benchmarks.figures import Figure, spread, timed
from benchmarks.site import program

TEMPLATES = 200
SECONDS = 5.0
SCRIPT = """\
#!/bin/bash
# {{ ansible_managed }}: workshop %(number)d on {{ WODBEEXTFQDN }}
set -eu
{% for name in NAMES %}
export PLACE_{{ loop.index }}={{ (name ~ '-%(number)d') | quote }}
{% endfor %}
{% if hostvars[inventory_hostname]['IP-WKSHP-%(number)d'] is match('10[.]') %}
address={{ hostvars[inventory_hostname]['IP-WKSHP-%(number)d'] }}
{% endif %}
options={{ OPTIONS | combine({'n': %(number)d}) | to_json | quote }}
echo {{ BRANDING }} {{ CHAIN | regex_replace('[aeiou]', '') | default('none') }} {{ TOKEN }}
"""


def backend(folder: Path) -> Path:
    """A configuration with templates of scripts, and a variable file a workshop; returns its file.

    Args:
        folder: where everything is put; made.
    """
    scripts, group_vars, group = (folder / name for name in ("scripts", "ansible/group_vars", "ansible/production"))
    for made in (scripts, group_vars, group, folder / "notebooks"):
        made.mkdir(parents=True)
    known = {f"IP-WKSHP-{number}": f"10.0.{number}.1" for number in range(TEMPLATES)}
    names = [f"place {number}" for number in range(20)]
    values = {**known, "NAMES": names, "OPTIONS": {"a": 1}, "CHAIN": "{{ BRANDING }} again", "TOKEN": "token-4711"}
    (group_vars / "all.json").write_text(json.dumps(values), encoding="utf-8")
    for number in range(TEMPLATES * 3 // 4):
        text = SCRIPT.replace("%(number)d", str(number))
        (scripts / f"create-WKSHP-{number}.sh.j2").write_text(text, encoding="utf-8")
    for number in range(TEMPLATES - TEMPLATES * 3 // 4):
        text = f"A: {{{{ NAMES | to_json }}}}\nB: {{{{ OPTIONS | to_nice_yaml(indent=2) | to_json }}}}\nN: {number}\n"
        (group / f"variables_WKSHP-{number}.yml.j2").write_text(text, encoding="utf-8")
    file = folder / "wod.yml"
    file.write_text(
        f"WODSANDBOX: true\nWODSTATEDIR: {folder}/state\nWODSCRIPTDIR: {scripts}\nWODANSIBLEDIR: {folder}/ansible\n"
        f"WODNOBO: {folder}/notebooks\n",
        encoding="utf-8",
    )
    return file


def deliver(folder: Path, stick: float, runs: int) -> list[Figure]:
    """Seconds of the whole command, from its start to its end.

    Args:
        folder: for the site.
        stick: the yardstick's seconds.
        runs: how often each is measured.
    """
    file = backend(folder)
    argv = [program("wod-deliver"), "--json", "--no-playbook", "--config", str(file)]

    def call() -> None:
        subprocess.run(argv, check=True, capture_output=True)

    fresh = []
    for _ in range(runs):
        for made in [*file.parent.glob("scripts/*.sh"), *file.parent.glob("ansible/production/*.yml")]:
            made.unlink()
        fresh.append(timed(call))
    again = [timed(call) for _ in range(runs)]
    written = len([*file.parent.glob("scripts/*.sh"), *file.parent.glob("ansible/production/*.yml")])
    if written != TEMPLATES:
        raise RuntimeError(f"{written} files were delivered, not {TEMPLATES}")
    first, second = statistics.median(fresh), statistics.median(again)
    return [
        Figure(f"wod-deliver, {TEMPLATES} templates, all new", first, "s", SECONDS, detail=spread(fresh)),
        Figure("the same, nothing changed", second, "s", SECONDS, detail=spread(again)),
        Figure("all new, against the yardstick", first / stick, "x", 1.0, detail="5 s are about one yardstick"),
    ]
