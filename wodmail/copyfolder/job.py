"""What one run of a playbook for students is to do, as it goes from the server to the action plugin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HOOKS = ("pre_templating.yml", "post_templating.yml")


@dataclass(frozen=True, slots=True)
class Job:
    """One run: a workshop for some students, copied; or, when scripts are named, these compiled.

    Args:
        students: student numbers.
        workshop: the folder of notebooks (ws), WKSHP-Name.
        challenge: the workshop as mailed (w), WKSHP-Name or CHLG-Name; names the variable files.
        modews: WKSHP or CHLG.
        folder: name of the workshop's folder in the home (DIR).
        notebooks: folder of the public notebooks, then of the private ones; "" where there is none.
        variable_folders: folder with group_vars/ and <group>/, public then private; "" where there is none.
        group: WODGROUP.
        homes: folder of the homes (WODSTUDDIR).
        variables: the lowest layer of variables, the configuration file's.
        pass_files: student number (as text, it is a JSON key) to that student's variable file.
        secrets: passwords that may open ansible-vault files.
        writer: argv of the program that writes into homes; empty to write directly (the sandbox).
        facts: file that keeps gathered facts, "" for none.
        pdf_script: path of wod-generate-pdf.sh.
        scripts: scripts to compile ("a.sh"); then this is a job of compile_scripts.yml and copies nothing.
        script_folders: folder of the public scripts, then of the private ones; "" where there is none.
    """

    students: tuple[int, ...]
    workshop: str
    challenge: str
    modews: str
    folder: str
    notebooks: tuple[str, str]
    variable_folders: tuple[str, str]
    group: str
    homes: str
    pdf_script: str
    variables: dict[str, Any] = field(default_factory=dict, repr=False)
    pass_files: dict[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    writer: tuple[str, ...] = ()
    facts: str = ""
    scripts: tuple[str, ...] = ()
    script_folders: tuple[str, str] = ("", "")

    @property
    def playbook(self) -> str:
        """Name of the playbook that does it, without its ending."""
        return "compile_scripts" if self.scripts else "copy_folder"

    def pass_file(self, student: int) -> Path | None:
        """The student's own variable file, which need not exist; None when none was named."""
        named = self.pass_files.get(str(student))
        return Path(named) if named else None

    def hooks(self) -> tuple[str, str]:
        """The private task files to run before and after, "" where there is none."""
        private = self.variable_folders[1]
        found = [str(Path(private, name)) if private and Path(private, name).is_file() else "" for name in HOOKS]
        return found[0], found[1]

    def inputs(self, student: int) -> dict[str, str]:
        """The variables that name the student and the workshop; nothing overrides them."""
        return {
            "STDID": str(student),
            "WORKSHOP": self.workshop,
            "CHALLENGE": self.challenge,
            "MODEWS": self.modews,
            "DIR": self.folder,
        }

    def to_json(self) -> str:
        """The job as text; holds secrets, so it only ever goes through memory."""
        return json.dumps(asdict(self))

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> Job:
        """The job that `to_json` wrote, after it was read by whatever reads JSON."""
        values = plain(data)
        for name in ("students", "notebooks", "variable_folders", "secrets", "writer", "scripts", "script_folders"):
            values[name] = tuple(values[name])
        return cls(**values)

    @classmethod
    def of_run(cls, variables: Mapping[str, Any], extra: Mapping[str, Any], loader: Any) -> Job:
        """The job of a playbook run: the server's, which the vars plugin knows as `wod_copy`, else one made by hand.

        Args:
            variables: the host's variables.
            extra: the command line's variables.
            loader: Ansible's data loader.

        Raises:
            Failed: a run by hand lacks something.
        """
        if "wod_copy" in variables:
            return cls.from_mapping(variables["wod_copy"])
        # Imported late: checking a whole configuration costs a quarter of a second, which only a run by hand needs.
        from wodmail.copyfolder import byhand

        return byhand.job(extra, loader)


def plain(value: Any) -> Any:
    """Ansible's texts, lists and mappings (subclasses that carry tags) as Python's own, all the way down."""
    if isinstance(value, str):
        return value if type(value) is str else "".join(value)
    if isinstance(value, Mapping):
        return {plain(name): plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value
