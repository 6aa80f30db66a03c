#!/bin/sh
# `make confined-test`: the service as the image runs it, without Docker: user 10001, no capability, nothing to write to but one
# folder in memory. Needs root, to give it up. Arguments: the Python to run, then flags of `mixformer serve`.
set -eu
if [ "${CONFINED:-}" != yes ]; then
    CONFINED=yes exec unshare --mount "$0" "$@"
fi
python=$(realpath --no-symlinks "$1")
shift
prefix=$("$python" -c "import sys; print(sys.base_prefix)")
mount --make-rprivate /
# A Python in root's home is out of reach for anybody else.
case $prefix in /root/*)
    mount --bind "$prefix" /mnt
    mount -t tmpfs -o mode=755 tmpfs /root
    mkdir -p "$prefix"
    mount --move /mnt "$prefix" ;;
esac
for place in $(findmnt --raw --noheadings --output TARGET --types notmpfs,noproc,nosysfs,nodevtmpfs,nodevpts) /tmp /run /root /dev/shm; do
    mount -o remount,bind,ro "$place" 2> /dev/null || true
done
mount -t tmpfs -o size=64m,mode=1777 tmpfs /mnt

# Takes the place of its shell: call it in one of its own.
confined() {
    exec setpriv --reuid 10001 --regid 10001 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \
        env TMPDIR=/mnt HOME=/nonexistent PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 "$@"
}

for place in / "$PWD" /tmp /var/tmp /run; do
    ! (confined touch "$place/written") 2> /dev/null || { echo "FAILED: $place can be written to"; exit 1; }
done
confined "$python" -m service serve --listen 127.0.0.1:0 --metrics 127.0.0.1:0 "$@" 2> /mnt/log &
parent=$!
trap 'kill $parent 2> /dev/null || true' EXIT
until address=$(grep -o "serving on .*" /mnt/log); do
    kill -0 $parent || { cat /mnt/log; exit 1; }
    sleep 0.1
done
(confined "$python" -m service loadtest --server "${address#serving on }" --streams 2 --rate 2 --duration 3 --size 320x240)
for process in $parent $(pgrep --parent $parent); do
    grep -E "^(Uid|CapEff|CapBnd|NoNewPrivs)" "/proc/$process/status" | tr "\n" " "
    tr "\0" " " < "/proc/$process/cmdline" | cut -c 1-100
done
kill -TERM $parent
wait $parent
left=$(find /mnt -mindepth 1 ! -name log)
[ -z "$left" ] || { echo "FAILED: left behind: $left"; exit 1; }
echo "ended with status 0, nothing left behind"
