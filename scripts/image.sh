#!/usr/bin/env bash
# Build the image and try it, without a Docker engine: needs buildah and debootstrap, and to be root.
#
#   scripts/image.sh [options of buildah, such as --volume /wheels:/wheels:ro]
#
# The base is a Debian made here, so that nothing is pulled. The quick Darcy run then passes in the image as a user that
# the image does not know, whose home does not exist, on a root it cannot write to.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
container=
trap 'if [ -n "$container" ]; then buildah rm "$container" > /dev/null; fi; rm -rf "$scratch"' EXIT
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs

debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$scratch/root" > "$scratch/log" ||
  { tail "$scratch/log"; exit 1; }
container=$(buildah from scratch)
buildah add -q "$container" "$scratch/root" / > /dev/null
buildah commit -q "$container" localhost/opkit-base > /dev/null
buildah rm "$container" > /dev/null
container=
rm -rf "$scratch/root"

buildah bud "$@" --build-arg BASE_IMAGE=localhost/opkit-base --tag localhost/opkit .

container=$(buildah from localhost/opkit)
mkdir -m 777 "$scratch/work" "$scratch/data"
run=(buildah run --user 54321:54321 --volume "$scratch/work":/work --volume "$scratch/data":/data "$container" --)
if "${run[@]}" touch /opt/opkit/x 2> /dev/null; then echo "the root can be written to"; exit 1; fi
"${run[@]}" opkit doctor
"${run[@]}" opkit train --model fno --pde darcy --preset quick
"${run[@]}" opkit verify runs/fno-darcy

# As under Docker's --read-only, which buildah lacks: the root cannot be written to by root either.
root=$(buildah mount "$container")
mkdir -p "$root/work" "$root/data" "$root/proc" "$root/dev"
unshare --mount bash -euc '
  mount --bind "$1" "$1"
  for place in work data; do mount --bind "$2/$place" "$1/$place"; done
  mount --rbind /dev "$1/dev"
  mount -t proc proc "$1/proc"
  mount -t tmpfs tmpfs "$1/tmp"
  mount -o remount,bind,ro "$1"
  if chroot "$1" touch /opt/opkit/x 2> /dev/null; then echo "the root can be written to"; exit 1; fi
  chroot --userspec=54321:54321 "$1" env -i PATH=/opt/opkit/bin:/usr/bin:/bin OPKIT_DATA=/data \
    sh -c "cd /work && opkit evaluate runs/fno-darcy"
' bash "$root" "$scratch"

# A signal must reach the trainer, which then saves and ends with 75.
code=0
"${run[@]}" timeout --preserve-status --signal TERM 40 opkit train --model fno --pde darcy --preset quick \
  trainer.max_epochs=1000 run_dir=runs/stopped compile=false || code=$?
test "$code" = 75
test -f "$scratch/work/runs/stopped/checkpoints/last.ckpt"
echo "the image works"
