"""What the copy_folder playbook does, apart from Ansible's own machinery.

`source`, `notebook`, `home` and `blame` are plain Python; `variables`, `expand` and `run` import Ansible and are only
imported by the action plugin inside ansible-playbook, never by the server.
"""
