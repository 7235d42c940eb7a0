"""PLAN's words: what each step would do, as commands, files and calls. Looks, changes nothing."""

from __future__ import annotations

from wodmail import compiling, documents, exporting
from wodmail.errors import WodmailError
from wodmail.jobs.plan import PlannedStep
from wodmail.jobs.services import Services
from wodmail.model import JobSpec
from wodmail.schema import Settings
from wodmail.scripts import Kind
from wodmail.students import exports

_SCRIPTS: dict[str, Kind] = {
    "create-script": "create",
    "cleanup-script": "cleanup",
    "reset-script": "reset",
    "post-copy-script": "post-copy",
}


class Describer:
    """Describes steps for one deployment.

    Args:
        services: the parts that the steps would use.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings, self._accounts, self._scripts = services.settings, services.accounts, services.scripts

    def __call__(self, spec: JobSpec, step: PlannedStep) -> list[str]:
        """The step's sentence, then the commands, files and calls it would use."""
        return [step.what, *self._details(spec, step)]

    def _details(self, spec: JobSpec, step: PlannedStep) -> list[str]:
        settings, student = self._settings, step.student
        home = self._accounts.home(student)
        if step.kind in _SCRIPTS:
            found = self._scripts.find(_SCRIPTS[step.kind], spec.ws)
            return [f"bash {script.file} ({script.where})" for script in found] or ["no such script: skipped"]
        if step.kind == "copy-folder":
            words = f"-e STDID={student} -e WORKSHOP={spec.ws} -e CHALLENGE={spec.workshop} -e MODEWS={spec.modews}"
            return [f"ansible-playbook {settings.WODANSIBLEDIR / 'copy_folder.yml'} {words}", f"into {home / spec.ws}"]
        if step.kind == "compile":
            return self._programs(spec, step)
        if step.kind == "password":
            return [f"set a password of {settings.WODPASSWORDLENGTH} characters for student{student}"]
        if step.kind == "erase":
            return [f"empty {home}, {settings.WODSSHKEYTYPE} key pair in {home / '.ssh'}"]
        if step.kind == "export":
            words = " ".join(exports.argv(exporting.PROGRAM, exporting.FORMS[spec.action]))
            return [f"{words} in {home / spec.ws}", f"attach up to {documents.MOST // 2**20} MiB to the result mail"]
        if step.kind == "trace":
            return [f"end of procmail-action for student {student} …"]
        if step.kind in ("hub-start", "hub-stop") and not self._services.hub.enabled:
            return ["no hub configured: skipped"]
        if step.kind == "ldap-password" and not self._services.directory.enabled:
            return ["no LDAP configured: skipped"]
        return self._calls(spec, step)

    def _programs(self, spec: JobSpec, step: PlannedStep) -> list[str]:
        """The run that compiles, and where each script comes from and goes."""
        settings = self._settings
        try:
            names = self._services.registry.workshop(spec.ws).compile
            found = compiling.find(names, *compiling.folders(settings))
        except WodmailError as error:
            return [error.sender]
        playbook = settings.WODANSIBLEDIR / "compile_scripts.yml"
        words = (
            f"-e STDID={step.student} -e WORKSHOP={spec.ws} -e CHALLENGE={spec.workshop} -e SCRIPTS={','.join(names)}"
        )
        home = self._accounts.home(step.student)
        made = [f"shc -r -f {script.file} ({script.where}) into {home / script.program}" for script in found]
        return [f"ansible-playbook {playbook} {words}", *made]

    def _calls(self, spec: JobSpec, step: PlannedStep) -> list[str]:
        user = f"/hub/api/users/student{step.student}"
        calls = {
            **(_api_calls(self._settings, spec, step) if self._settings.apidb else _registry_calls(spec, step)),
            "hub-start": f"JupyterHub: POST {user} unless it is there, POST {user}/server",
            "hub-stop": f"JupyterHub: DELETE {user}/server; DELETE {user} and POST {user}, which ends its logins",
            "ldap-password": f"LDAP: uid={self._settings.WODLDAPSETUPUSER}{step.student}: userPassword",
        }
        return [calls[step.kind]] if step.kind in calls else []


def _registry_calls(spec: JobSpec, step: PlannedStep) -> dict[str, str]:
    """What steps tell the embedded registry, by kind."""
    student, who = f"registry: student {step.student}", f"registry: participant {spec.participant}"
    return {
        "registry-password": f"{student}: password changed",
        "registry-active": f"{student}: assigned, active",
        "registry-completion": f"{who}: completion",
        "registry-capacity": f"registry: workshop {spec.ws}: capacity {len(spec.students)}",
        "registry-cleaned": f"{who}: cleaned",
        "free-seat": f"{student}: free",
        "keep-seat": f"{student}: assigned, not active",
    }


def _api_calls(settings: Settings, spec: JobSpec, step: PlannedStep) -> dict[str, str]:
    """The calls of the API-DB that steps make, by kind (docs/api-db.md)."""
    student = f"PUT /student/{step.student + settings.WODBASESTDID}"
    customer = f"PUT /customer/{spec.participant}"
    told = {
        "registry-active": f"{customer} active=true",
        "registry-completion": f"{customer} completionPercentage",
        "registry-cleaned": f"{customer} cleaned=true",
    }
    if not spec.participant:
        told = dict.fromkeys(told, "no participant: nothing is told")
    ended = f"; {customer} active=false" if spec.participant else ""
    return {
        **told,
        "registry-password": f"{student} password",
        "registry-capacity": f"PUT /workshop/… capacity={len(spec.students)}",
        "free-seat": f"{student} assigned=false",
        "keep-seat": f"{student} assigned=true{ended}",
    }
