#!/bin/busybox sh
# Process 1 on the disk: mounts what a Linux host has, runs the programs, and powers off.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root RUST_BACKTRACE=0 WHARF_BIN=/bin/wharf
/bin/busybox --install -s /bin 2> /dev/null
mkdir -p /proc /sys /dev /run /tmp /root /var/tmp /var/lib
chmod 1777 /tmp /var/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# A controller is used below the root only where it is switched on.
for c in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$c" > /sys/fs/cgroup/cgroup.subtree_control
done
ip link set lo up
echo "vm: $(uname -r), controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"
cd /tmp
. /etc/vm/settings
# Runs a test program; one that dies is one failed test.
program() {
    echo "vm: $*, $(cut -d. -f1 /proc/uptime) s after the start"
    "$@" 2>&1
    code=$?
    [ $code -le 101 ] || echo "test result: FAILED. 0 passed; 1 failed; $1 ended with $code"
}
for kernel in /tests/*; do
    case $kernel in
        # Floods of output say nothing about control groups, and take minutes here.
        */keeper-kernel) part='lifecycle:: survival::' ;;
        *) part= ;;
    esac
    program "$kernel" --test-threads=2 ${FILTER:-$part}
done
for suite in /suites/*; do program $suite --test-threads=2 $LADDER; done
if [ -z "$FILTER" ]; then
    echo "vm: cargo xtask demo"
    if /xtask demo-of $WHARF_BIN 2>&1; then echo "test result: ok. 1 passed; 0 failed"
    else echo "test result: FAILED. 0 passed; 1 failed"; fi
    . /etc/vm/smoke
fi
echo "vm: the end, $(cut -d. -f1 /proc/uptime) s after the start"
sync
poweroff -f
