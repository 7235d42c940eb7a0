"""What the playbooks for students do (copy_folder, compile_scripts), apart from Ansible's own machinery.

`source`, `notebook`, `home` and `blame` are plain Python; `variables`, `expand`, `run`, `programs` and `plugin` import
Ansible and are only imported by the action plugins inside ansible-playbook, never by the server.
"""
