"""The variables of one student, in the order of docs/copy-folder.md; later ones win. Imported inside Ansible only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.parsing.vault import AnsibleVaultError, VaultSecret

from wodmail import vault
from wodmail.copyfolder.job import Job
from wodmail.errors import Failed

try:
    from ansible.template import trust_as_template
except ImportError:  # ansible-core before 2.19 trusts every text

    def trust_as_template(value: str) -> str:
        """Trust is not a matter of single texts in this Ansible."""
        return value


try:
    from ansible.parsing.vault import VaultSecretsContext
except ImportError:  # ansible-core before 2.19 asks the loader for single values too
    VaultSecretsContext = None

ENDINGS = ("", ".yml", ".yaml", ".json")
# What the engine itself needs under these names; a variable file must not break it.
RESERVED = ("hostvars", "groups", "group_names", "inventory_hostname", "ansible_facts", "vars", "omit", "lookup")


class Layers:
    """Loads and layers the variable files of a job, each file once.

    Args:
        loader: Ansible's DataLoader; unlocks vault files once `job.secrets` were given to it.
        job: the job.
    """

    def __init__(self, loader: Any, job: Job) -> None:
        self._loader = loader
        self._job = job
        self._known: dict[str, dict[str, Any]] = {}
        if job.secrets:
            _unlock(loader, [("default", VaultSecret(secret.encode())) for secret in job.secrets])

    def common(self) -> dict[str, Any]:
        """What all students of the job share: the configuration, then the variable files."""
        merged: dict[str, Any] = trusted(self._job.variables)
        for path in files(self._job):
            merged.update(self._load(path))
        return {name: value for name, value in merged.items() if name not in RESERVED}

    def workshops(self) -> dict[str, Any]:
        """What the workshop's own variable files hold: its tokens, among other things."""
        merged: dict[str, Any] = {}
        for path in workshop_files(self._job):
            merged.update(self._load(path))
        return merged

    def own(self, student: int) -> dict[str, Any]:
        """What belongs to one student: the pass file, and the inputs that nothing overrides."""
        path = self._job.pass_file(student)
        merged = dict(self._load(path)) if path is not None and path.is_file() else {}
        merged = {name: value for name, value in merged.items() if name not in RESERVED}
        return {**merged, **self._job.inputs(student)}

    def _load(self, path: Path) -> dict[str, Any]:
        name = str(path)
        if name not in self._known:
            try:
                self._known[name] = self._mapping(name)
            except AnsibleError as error:
                raise _unreadable(path, error) from error
        return self._known[name]

    def _mapping(self, name: str) -> dict[str, Any]:
        try:
            data = self._loader.load_from_file(name, cache="none", trusted_as_template=True)
        except TypeError:  # ansible-core before 2.19
            data = self._loader.load_from_file(name, cache="none")
        if data is not None and not isinstance(data, Mapping):
            raise Failed(f"the variable file {Path(name).name} is no mapping of names to values", name)
        return dict(data or {})


def _unreadable(path: Path, error: AnsibleError) -> Failed:
    """The error for a file that Ansible can't read; a vault that stays shut is told apart."""
    cause = f"{path}: {first_line(error)}"
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, AnsibleVaultError):
            return Failed(vault.wrong_key(path.name), cause)
        seen = seen.__cause__
    return Failed(f"the variable file {path.name} can't be read", cause)


def _unlock(loader: Any, secrets: list[tuple[str, Any]]) -> None:
    """Give Ansible the vault's passwords: the loader for whole files, its context for single values (`!vault`).

    Those of a command line (a run by hand) stay.
    """
    context = VaultSecretsContext.current(optional=True) if VaultSecretsContext is not None else None
    ours = {secret.bytes for _, secret in secrets}
    given = (context.secrets or []) if context is not None else []
    secrets = [*secrets, *(each for each in given if each[1].bytes not in ours)]
    loader.set_vault_secrets(secrets)
    if context is not None:
        context.secrets = secrets
    elif VaultSecretsContext is not None:
        VaultSecretsContext.initialize(VaultSecretsContext(secrets))


def files(job: Job) -> list[Path]:
    """The variable files that exist, lowest first: public all and group, the same private, then the workshop's two."""
    folders = [Path(folder) for folder in job.variable_folders if folder]
    found: list[Path] = []
    for folder in folders:
        for name in ("all", job.group):
            found += _group_files(folder / "group_vars", name)
    return found + workshop_files(job)


def workshop_files(job: Job) -> list[Path]:
    """The workshop's two variable files, those that exist: public, then private."""
    folders = [Path(folder) for folder in job.variable_folders if folder]
    own = [folder / job.group / f"variables_{job.challenge}.yml" for folder in folders]
    return [path for path in own if path.is_file()]


def _group_files(folder: Path, name: str) -> list[Path]:
    """As Ansible finds them: name, name.yml, … or a folder of such files."""
    for ending in ENDINGS:
        path = folder / f"{name}{ending}"
        if path.is_file():
            return [path]
        if path.is_dir() and not ending:
            inner = sorted(each for each in path.iterdir() if each.is_file() and each.suffix in ENDINGS)
            return [each for each in inner if not each.name.startswith(".")]
    return []


def trusted(value: Any) -> Any:
    """A JSON value whose texts may hold templates, as variables of a file of ours may."""
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, Mapping):
        return {name: trusted(inner) for name, inner in value.items()}
    return [trusted(inner) for inner in value] if isinstance(value, list) else value


def first_line(error: BaseException) -> str:
    """The first line of an error's text; further ones may quote what a file holds."""
    return (str(error).splitlines() or [type(error).__name__])[0]
