#!/bin/busybox sh
# Process 1 of the initramfs: loads modules and goes on from the disk.
/bin/busybox mkdir -p /dev /proc /sys /new
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod "$module"; done < /lib/order
/bin/busybox mount -t ext4 /dev/vda /new || exec /bin/busybox poweroff -f
/bin/busybox umount /dev
exec /bin/busybox switch_root /new /etc/vm/main
