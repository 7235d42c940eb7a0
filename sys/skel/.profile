# Read by login shells. Put what every student's session needs here; ~/.bashrc is read from it.
umask 022
if [ -n "$BASH_VERSION" ] && [ -r "$HOME/.bashrc" ]; then
    # shellcheck source=/dev/null
    . "$HOME/.bashrc"
fi
for folder in "$HOME/bin" "$HOME/.local/bin"; do
    if [ -d "$folder" ]; then
        PATH="$folder:$PATH"
    fi
done
unset folder
export PATH EDITOR="${EDITOR:-vim}"
