#!/usr/bin/env bash
# Starts a command as a container runtime does: read-only root, /tmp of its own, no privileges.
# Usage: unshare --mount --pid --net --ipc --uts --fork start.sh ROOT USER COMMAND...
set -euo pipefail
root=$1
user=$2
shift 2

mount --make-rprivate /
mount --bind "$root" "$root"
mount --types tmpfs --options nosuid,nodev,mode=1777,size=256m tmp "$root/tmp"
mount --types proc proc "$root/proc"
mount --types tmpfs --options nosuid,mode=755 dev "$root/dev"
for device in null zero random urandom; do
  cp --archive "/dev/$device" "$root/dev/"
done
mkdir --mode=1777 "$root/dev/shm"
mount --types tmpfs --options nosuid,nodev,size=64m shm "$root/dev/shm"
mount --options remount,bind,ro "$root"
ip link set lo up
exec setpriv --no-new-privs --clear-groups chroot --userspec="$user" "$root" "$@"
