"""The connection name `localhost`, which inventories of existing backends use, is Ansible's `local`."""

from __future__ import annotations

from ansible.plugins.connection.local import Connection as LocalConnection

DOCUMENTATION = """
    name: localhost
    short_description: execute on the controller
    description:
        - The same as C(local), under the name that inventories of existing backends say.
    author: wodmail
    version_added: historical
    options:
        become_success_timeout:
            type: int
            default: 10
            description: Seconds to wait for become to succeed.
            vars:
                - name: ansible_local_become_success_timeout
        become_strip_preamble:
            type: bool
            default: true
            description: Strip internal become output.
            vars:
                - name: ansible_local_become_strip_preamble
    extends_documentation_fragment:
        - connection_pipelining
"""


class Connection(LocalConnection):
    """Local execution."""
