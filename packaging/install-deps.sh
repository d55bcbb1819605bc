#!/bin/bash
# install-deps.sh LIST...: installs the Debian packages of the lists (names of files beside this one) that are missing.
# Quick when they are present; safe to repeat.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)

refuse() {
    printf 'error: %s\ncause: %s\nhint: %s\n' "$1" "$2" "$3" >&2
    exit 4
}

# The packages of the lists that dpkg does not list as installed.
missing_packages() {
    local -a lists=("${@/#/$here/}")
    local -A installed=()
    local name
    while read -r name; do installed[$name]=1; done < <(
        dpkg-query --show --showformat='${db:Status-Abbrev}${Package}\n' | sed -n 's/^ii //p'
    )
    while read -r name; do
        [[ -n ${installed[$name]:-} ]] || printf '%s\n' "$name"
    done < <(sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' "${lists[@]}" | sort -u)
}

# apt's lists may be absent (a container) or too old to name a version that the mirror still has: then update and retry.
install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    if apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1; then return; fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

command -v dpkg-query >/dev/null || refuse 'this is no Debian system' 'dpkg-query is missing' 'see packaging/debian-packages for what to install'
mapfile -t missing < <(missing_packages "$@")
if ((${#missing[@]})); then
    [[ $EUID -eq 0 ]] || refuse "packages are missing: ${missing[*]}" 'only root can install them' 'sudo make deps'
    printf 'deps: installing %s\n' "${missing[*]}" >&2
    install_packages "${missing[@]}"
fi
