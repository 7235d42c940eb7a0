# For programs of a backend that begin with `source .../scripts/wod.sh`: the configuration as exported variables
# (/etc/wod.sh, which `wodmail config shell --output` makes from /etc/wod.yml) and, where they were delivered, the
# functions for scripts. Status 78 when there is no configuration. docs/operations.md, "Replace an existing backend".
# shellcheck shell=sh

if [ ! -r /etc/wod.sh ]; then
    echo "scripts/wod.sh: /etc/wod.sh is missing or not readable for this user; as root: wodmail config shell --output" >&2
    # Sourced as it should be: return. Run as a program: exit.
    # shellcheck disable=SC2317
    return 78 2>/dev/null || exit 78
fi
# shellcheck source=/dev/null
. /etc/wod.sh

# The path of cron jobs ends before the folder where `wodmail` usually is.
command -v wodmail >/dev/null 2>&1 || PATH="$PATH:/usr/local/bin"

if [ -r "${WODSCRIPTDIR:-}/functions.sh" ]; then
    # shellcheck source=/dev/null
    . "$WODSCRIPTDIR/functions.sh"
fi
