# shellcheck shell=bash disable=SC2034,SC2016
# Shared by the scripts in this folder; sourced, never run.

set -euo pipefail

STILLPOINT_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# Everything slow to make and safe to share between checkouts: the guest's root file system, kernel, image.
STILLPOINT_CACHE="${STILLPOINT_CACHE:-/var/cache/stillpoint}"

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf 'stillpoint: %s\n' "$*" >&2; exit 1; }

require_root() {
  [ "$(id -u)" -eq 0 ] || die "run this as root: it installs packages, makes network namespaces and runs virtual machines"
}

debian_release() {
  # shellcheck disable=SC1091
  . /etc/os-release
  case "${ID:-}:${VERSION_CODENAME:-}" in
    debian:bookworm | debian:trixie) printf '%s\n' "$VERSION_CODENAME" ;;
    *) die "this is ${PRETTY_NAME:-an unknown system}; Debian 12 (bookworm) or Debian 13 (trixie) is needed" ;;
  esac
}

# The machine's own Debian archive, as its apt configuration names it: the source that holds the release itself
# (not the security archive, which carries no other suites).
debian_mirror() {
  local release mirror
  release="$(debian_release)"
  mirror="$(apt_source_of "$release")"
  if [ -z "$mirror" ]; then  # apt names its sources only once it has their lists
    apt-get update -qq -o Acquire::Retries=3 >&2 || die "apt-get update failed: see above"
    mirror="$(apt_source_of "$release")"
  fi
  [ -n "$mirror" ] || die "apt's configuration names no source for $release: add one to /etc/apt/sources.list.d and run 'apt-get update'"
  case "$mirror" in mirror+file:*) mirror="$(first_mirror_of "${mirror#mirror+file:}")" ;; esac
  case "$mirror" in
    *://*) printf '%s\n' "$mirror" ;;
    *) die "apt gets $release from '$mirror', which is no archive's address: add a source with an address to /etc/apt/sources.list.d and run 'apt-get update'" ;;
  esac
}

# Cloud images keep their mirrors in a list of their own, which apt names as mirror+file:/PATH/: the first in it.
first_mirror_of() {
  local list="${1%/}"
  list="/${list##/}"
  list="${list//\/\//\/}"
  awk '/^[[:space:]]*(#|$)/ { next } { print $1; exit }' "$list" || true
}

# Where apt gets the suite with this code name from; nothing when it does not.
apt_source_of() {
  apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Identifier: Packages' |
    awk -v r="$1" '$2 == r && !/^cdrom:/ && !found { print $1; found = 1 }'
}
