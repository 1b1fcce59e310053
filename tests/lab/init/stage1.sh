#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# First init of a lab machine: finds the disk with the userland (read-only, shared by all machines), lays
# a tmpfs over it with what was built just now (/fresh), and goes there. A real root, so that programs
# can pivot_root as on any host.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
modprobe -a virtio_pci virtio_blk overlay || echo "lab: a boot module is missing"

root=
tries=0
while [ -z "$root" ] && [ $tries -lt 200 ]; do
	for d in /sys/block/vd*; do
		[ "$(cat $d/serial 2>/dev/null)" = root ] && root=/dev/${d##*/}
	done
	[ -n "$root" ] || { tries=$((tries + 1)); sleep 0.05; }
done
[ -n "$root" ] || echo "lab: no disk with the serial 'root'"
mkdir -p /ro /rw /new
mount -t ext4 -o ro $root /ro
mount -t tmpfs -o size=60% rw /rw
mkdir /rw/upper /rw/work
mv /fresh/* /rw/upper/
mount -t overlay -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work root /new
for m in proc sys dev; do mount --move /$m /new/$m; done
exec switch_root /new /lab/init.sh
