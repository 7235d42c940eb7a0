"""Where wodmail's own files are: playbooks, scripts, templates, the demo workshop.

A checkout keeps them at its top level, an installed wheel under wodmail/share; everything else asks here.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
FOLDERS = frozenset({"ansible", "conf", "procmail", "scripts", "sys"})


def root() -> Path:
    """The folder that holds ansible/, conf/, procmail/, scripts/ and sys/.

    Raises:
        FileNotFoundError: the installation is broken: neither a checkout nor a complete wheel.
    """
    installed = PACKAGE / "share"
    if (installed / "ansible").is_dir():
        return installed
    if (PACKAGE.parent / "setup.cfg").is_file():
        return PACKAGE.parent
    raise FileNotFoundError(
        f"wodmail's own files are missing: neither {installed} nor a checkout is there; reinstall it"
    )


def share(name: str) -> Path:
    """One of wodmail's own folders.

    Args:
        name: ansible, conf, procmail, scripts or sys; `demo` is the demo workshop's home, conf/demo.

    Raises:
        ValueError: there is no folder of that name.
        FileNotFoundError: see `root`.
    """
    if name == "demo":
        return root() / "conf" / "demo"
    if name not in FOLDERS:
        raise ValueError(f"no folder {name!r}; there are {', '.join(sorted(FOLDERS))} and demo")
    return root() / name
