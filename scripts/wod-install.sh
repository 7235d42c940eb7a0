#!/usr/bin/env bash
# From a bare distribution to a backend (or api-db, frontend, appliance): finds the distribution, installs the Python that
# wodmail needs, puts wodmail from this checkout into an environment that only root can change, and hands over to
# `wod-install` there with the same arguments. Run it again to update. docs/install.md tells the whole.
set -euo pipefail
umask 022

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=${WODMAIL_VENV:-/opt/wodmail}
log=/var/log/wod-install.log

usage() {
  cat <<'TEXT'
Usage: wod-install.sh [-t backend|api-db|frontend|appliance] [-g GROUP] [-b BACKEND] [-f FRONTEND] [-a API-DB]
                      [-e EXTERNAL] [-u USER] [-p PORT] [-s SENDER] [-n NUMBER] [--without SOURCE]...

Run it as root from a checkout that belongs to root. It asks nothing that it can find out; `wod-install --help` tells
each option once it has run. It honours http_proxy, https_proxy and no_proxy.

Example: scripts/wod-install.sh -t backend -f frontend.example.org
TEXT
}

fail() {
  printf 'wod-install.sh: %s\n' "$1" >&2
  exit "${2:-1}"
}

# What a distribution calls the Python that wodmail needs: packages and program.
choose() {
  # shellcheck source=/dev/null
  . /etc/os-release
  case "${ID:-}-${VERSION_ID:-}" in
    debian-12 | debian-13 | ubuntu-24*) packages=(python3 python3-venv) python=/usr/bin/python3 ;;
    ubuntu-22*) packages=(python3.11 python3.11-venv) python=/usr/bin/python3.11 ;;
    rocky-9*) packages=(python3.11 python3.11-pip) python=/usr/bin/python3.11 ;;
    *) fail "no instructions for ${PRETTY_NAME:-this system}; there are some for Debian 12 and 13, Ubuntu 22 and 24, Rocky 9" 78 ;;
  esac
}

apt_missing() {
  local package
  for package in "$@"; do
    dpkg-query --show --showformat '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
      printf '%s\n' "$package"
  done
}

install_python() {
  local missing=()
  if command -v apt-get >/dev/null; then
    mapfile -t missing < <(apt_missing "${packages[@]}" ca-certificates)
    if [ "${#missing[@]}" -eq 0 ]; then return; fi
    logged env DEBIAN_FRONTEND=noninteractive apt-get --quiet update
    logged env DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes --no-install-recommends install "${missing[@]}"
  else
    logged dnf --quiet --assumeyes install "${packages[@]}" ca-certificates
  fi
}

# Root builds, installs and plays what is in the checkout. Who can change anything in it, or turn a folder above it
# elsewhere, would be root: it is refused before anything is done. What wodmail keeps for WODUSER is data, and no program.
refuse_strangers() {
  local above=$here found
  while [ "$above" != / ]; do
    above=$(dirname -- "$above")
    refuse "$(find "$above" -maxdepth 0 '(' ! -user root -o -perm /022 ! -perm -1000 ')')"
  done
  found=$(find "$here" '(' -path "$here/.git/objects" -o -name pass -o -name vault_secret ')' -prune -o \
    '(' ! -user root -o ! -type l -perm /022 ')' -print -quit)
  refuse "$found"
  above=$here
  while [ "$above" != / ]; do
    if [ -n "$(find "$above" -maxdepth 0 ! -perm -001)" ]; then
      fail "$above is shut for WODUSER, who must read the checkout: move it to /opt/wod; nothing was changed" 78
    fi
    above=$(dirname -- "$above")
  done
}

refuse() {
  if [ -z "$1" ]; then return; fi
  printf 'wod-install.sh: %s\n' "$1 can be changed by others than root, who would run what is in $here" >&2
  fail "give all of it to root (chown -R root, chmod -R go-w), or move the checkout to /opt/wod; nothing was changed" 78
}

# The output goes to the log; when the program fails it is shown as well.
logged() {
  local from
  from=$(wc -l <"$log")
  if ! "$@" >>"$log" 2>&1 </dev/null; then
    tail -n "+$((from + 1))" "$log" | tail -n 30 >&2
    fail "that failed: $*; all of it is in $log"
  fi
}

# wodmail is built from a copy, so that nothing is written into the checkout and nothing old is taken along. $venv/build
# names what was built: the same again is left as it is, something else makes wod-install restart the service.
install_wodmail() {
  local copy build
  copy=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of now
  trap "rm -rf '$copy'" EXIT
  tar -C "$here" --exclude=./.git --exclude=./.venv --exclude=./.tox --exclude=./build --exclude=./tests \
    --exclude='*.egg-info' --exclude=__pycache__ --exclude='./.*_cache' --exclude=./scripts/'[!w]*.sh' -cf - . |
    tar -C "$copy" -xf -
  build=$(cd "$copy" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -d ' ' -f 1)
  if "$venv/bin/python" -c '' 2>/dev/null; then
    if [ "$(cat "$venv/build" 2>/dev/null)" = "$build" ]; then return; fi
  else
    logged "$python" -m venv --clear "$venv"
  fi
  : >"$venv/build" # of no build until the new one is whole; that it is there says whose environment this is
  logged "$venv/bin/python" -m pip --disable-pip-version-check install --no-input --no-compile --upgrade "${copy}[operate,export]"
  # Compiled once for all who run it; the collections, most of which nobody imports, are not. As pip does, what isn't
  # Python for this version is passed over.
  "$venv/bin/python" -m compileall -qq -j 0 -x '/ansible_collections/' "$venv/lib" >>"$log" 2>&1 || true
  printf '%s\n' "$build" >"$venv/build"
}

# Root's plays on this machine wait for each other, and none may find half of another wodmail while it is put into place.
# The lock is that of wodmail/rootplays.py; wod-install takes it itself, so it is free again before that.
alone() {
  local config=/etc/wod.yml lock
  while [ "$#" -gt 0 ]; do
    case $1 in
      --config) config=${2:-} ;;
      --config=*) config=${1#*=} ;;
    esac
    shift
  done
  case $config in /*) ;; *) config=$PWD/${config#./} ;; esac
  if [ ! -w /run ]; then return; fi
  lock=/run/wodmail-plays${config//\//-}.lock
  (umask 077 && : >>"$lock")
  exec 9>>"$lock"
  if ! flock --nonblock 9; then
    printf 'waiting for %s, which is at work on this machine as root\n' "$(cat "$lock")" >&2
    flock --timeout 1800 9 || fail "$(cat "$lock") is at work on this machine as root. Try again when it has ended." 75
  fi
  printf 'wod-install.sh (process %s)' "$$" >"$lock"
}

link_commands() {
  local program
  for program in "$venv"/bin/{wodmail,wod-*,ansible,ansible-*}; do
    if [ -e "$program" ]; then ln -sfn "$program" "/usr/local/bin/${program##*/}"; fi
  done
}

case " $* " in *' -h '* | *' --help '*)
  if [ -x "$venv/bin/wod-install" ]; then exec "$venv/bin/wod-install" --help; fi
  usage
  exit 0
  ;;
esac
[ "$(id -u)" -eq 0 ] || fail "call it as root: sudo $0 $*" 77
refuse_strangers
# An audit changes nothing, not even wodmail: the one that is there looks.
case " $* " in *' --check '*)
  [ -x "$venv/bin/wod-install" ] || fail "nothing is installed yet, so there is nothing to check: run it without --check" 78
  exec "$venv/bin/wod-install" --checkout "$here" "$@"
  ;;
esac
choose
(umask 077 && touch "$log")
printf '== %s: %s\n' "$(date --utc +%FT%TZ)" "$here" >>"$log"
echo "Python: ${packages[*]}" >&2
install_python
echo "wodmail and Ansible: $venv" >&2
alone "$@"
install_wodmail
link_commands
exec 9>&-
"$venv/bin/wod-install" --checkout "$here" "$@"
