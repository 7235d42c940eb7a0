#!/usr/bin/python
"""Ansible module: many students' accounts in one task, made with the system's own programs."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: wod_accounts
short_description: Make the accounts of students
description:
  - Makes groups, users and homes that are missing, named student<number>. One run makes all of them, so that a machine
    with hundreds of students takes seconds and not minutes.
  - An account that is there keeps its numbers, home and password; a home that is missing is made.
options:
  numbers:
    description: Numbers of the students.
    type: list
    elements: int
    required: true
  uid_base:
    description: Added to a number to make the uid.
    type: int
    required: true
  gid_base:
    description: Added to a number to make the gid.
    type: int
    required: true
  homes:
    description: Folder of the homes; made when it is missing.
    type: path
    required: true
  shell:
    description: The login shell.
    type: str
    default: /bin/bash
author:
  - wodmail
"""

EXAMPLES = r"""
- name: Make the students' accounts
  wod_accounts:
    numbers: [1, 2, 3]
    uid_base: 2000
    gid_base: 2000
    homes: /student
"""

RETURN = r"""
made:
  description: Names of accounts and homes that were made, or would be.
  returned: always
  type: list
  elements: str
"""


LOWEST = 1000


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "numbers": {"type": "list", "elements": "int", "required": True},
            "uid_base": {"type": "int", "required": True},
            "gid_base": {"type": "int", "required": True},
            "homes": {"type": "path", "required": True},
            "shell": {"type": "str", "default": "/bin/bash"},
        },
        supports_check_mode=True,
    )
    given = module.params
    wrong = [number for number in given["numbers"] if number < 1]
    if wrong or given["uid_base"] < LOWEST or given["gid_base"] < LOWEST:
        module.fail_json(msg=f"students are numbered from 1, and uid_base and gid_base are {LOWEST} or more")
    made = _folder(module, Path(given["homes"]))
    for number in sorted(set(given["numbers"])):
        made += _account(module, number, given)
    module.exit_json(changed=bool(made), made=made, diff={"before": "", "after": "".join(f"{name}\n" for name in made)})


def _folder(module: AnsibleModule, homes: Path) -> list[str]:
    """The folder of homes, root's own: nobody else may move a home away."""
    if homes.is_symlink() or (homes.exists() and not (homes.is_dir() and homes.stat().st_uid == 0)):
        module.fail_json(msg=f"{homes} must be a folder that belongs to root")
    if homes.is_dir():
        return []
    if not module.check_mode:
        homes.mkdir(mode=0o755, parents=True)
    return [str(homes)]


def _account(module: AnsibleModule, number: int, given: dict[str, Any]) -> list[str]:
    name = f"student{number}"
    try:
        return _home(module, pwd.getpwnam(name))
    except KeyError:
        pass  # there is none yet
    uid, gid = given["uid_base"] + number, given["gid_base"] + number
    _free(module, name, uid, gid)
    if not module.check_mode:
        if not _group(name):
            module.run_command(["groupadd", "--gid", str(gid), name], check_rc=True)
        options = [
            "--uid",
            str(uid),
            "--gid",
            name,
            "--home-dir",
            f"{given['homes']}/{name}",
            "--shell",
            given["shell"],
        ]
        module.run_command(["useradd", *options, "--create-home", name], check_rc=True)
    return [name]


def _free(module: AnsibleModule, name: str, uid: int, gid: int) -> None:
    """See that the numbers are nobody else's."""
    for number, look, what in ((uid, pwd.getpwuid, "uid"), (gid, grp.getgrgid, "gid")):
        try:
            owner = look(number)[0]
        except KeyError:
            continue
        if owner != name:
            module.fail_json(msg=f"{name} can't have the {what} {number}: it is {owner}'s. Is the base right?")


def _group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _home(module: AnsibleModule, account: pwd.struct_passwd) -> list[str]:
    """The home of an account that was there, when it is missing."""
    if account.pw_uid < LOWEST:
        module.fail_json(
            msg=f"{account.pw_name} has the uid {account.pw_uid}, below {LOWEST}: it is no student's account"
        )
    home = Path(account.pw_dir)
    if home.is_symlink() or home.exists():
        if home.is_symlink() or not home.is_dir():
            module.fail_json(msg=f"{home}, the home of {account.pw_name}, is no folder")
        return []
    if not module.check_mode:
        home.mkdir(0o700)
        os.chown(home, account.pw_uid, account.pw_gid)
    return [str(home)]


if __name__ == "__main__":
    main()
