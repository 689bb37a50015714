#!/usr/bin/env bash
# Builds one target of the Dockerfile with buildah, on a base image made by debootstrap.
# Usage: build.sh FOLDER TARGET TAG    (FOLDER keeps the base, buildah's storage and the logs)
# Needs root, buildah, debootstrap and Debian's archive keyring. The exit status is 69 if no registry
# of Debian's packages answers.
#
# No Docker Hub is needed: images of Debian and its Python get the names that FROM asks for. They
# differ from the official ones: Python is the build of Debian, not of python.org; the image of CUDA
# is Debian instead of Ubuntu, and holds no CUDA.
set -euo pipefail
mkdir -p "$1/logs"
folder=$(cd "$1" && pwd)
target=$2
tag=$3
cd "$(dirname "$0")/../../.."

read_default() { # the default of an ARG of the Dockerfile
  sed -n "s/^ARG $1=//p" Dockerfile
}
python_image=$(read_default PYTHON_IMAGE) # python:3.11-slim-bookworm
suite=${python_image##*-}
version=${python_image#*:}
version=${version%%-*}
base=$folder/base-$suite.tar

run_buildah() {
  buildah --root "$folder/storage" --runroot "$folder/runroot" "$@"
}

make_base() {
  local root=$folder/base
  rm -rf "$root"
  debootstrap --print-debs --variant=minbase "$suite" "$root" || exit 69
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$suite" "$root"
  "$root/usr/bin/python3" --version | grep --fixed-strings "Python $version." # as FROM asks for
  # As in the official image, `python` and `pip` are in /usr/local.
  chroot "$root" /usr/bin/python3 -m venv /usr/local
  rm -rf "$root"/usr/share/{doc,locale,man}/* "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
  tar --create --directory "$root" --file "$base.part" .
  mv "$base.part" "$base"
  rm -rf "$root"
}

import_base() { # under the name of a FROM
  run_buildah inspect --type image "$1" >/dev/null 2>&1 && return
  local container
  container=$(run_buildah from scratch)
  run_buildah add --quiet "$container" "$base" /
  run_buildah commit --quiet --rm "$container" "docker.io/$2$1"
}

# The machine's certificates, and what it tells pip, hold for the build and are not in the image.
volumes=(--volume /etc/ssl/certs:/etc/ssl/certs:ro)
if [[ -e /etc/pip.conf ]]; then
  volumes+=(--volume /etc/pip.conf:/etc/pip.conf:ro)
fi

[[ -e $base ]] || make_base >"$folder/logs/base.log" 2>&1
{
  import_base "$python_image" library/
  import_base "$(read_default CUDA_IMAGE)" ''
  run_buildah build --isolation chroot --format docker --layers --pull-never "${volumes[@]}" \
    --target "$target" --tag "$tag" .
} >"$folder/logs/build-$target.log" 2>&1
