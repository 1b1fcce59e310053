#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# Init of every lab machine. The kernel's command line says what it is:
#   lab.name=host1 lab.mods=a,b lab.net=NAME/MAC/ADDRESS,...
# Everything beyond is done over the agent.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root TERM=linux
word() { for w in $(cat /proc/cmdline); do case $w in $1=*) echo "${w#*=}" ;; esac; done; }

mkdir -p /dev/pts /dev/shm /run /tmp /root
mount -t devpts -o mode=620 pts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
hostname "$(word lab.name)"

modprobe -a virtio_console virtio_net virtio-rng $(word lab.mods | tr , ' ') || echo "lab: a module is missing"
[ -d /sys/module/kvm ] && case "$(grep -m1 -oE '\b(svm|vmx)\b' /proc/cpuinfo)" in
svm) modprobe -a kvm_amd ;;
vmx) modprobe -a kvm_intel ;;
esac

ifconfig lo up
for n in $(word lab.net | tr , ' '); do
	name=${n%%/*}
	mac=${n#*/}
	addr=${mac#*/}
	mac=${mac%%/*}
	for d in /sys/class/net/*; do
		[ "$(cat $d/address)" = "$mac" ] || continue
		ip link set ${d##*/} name $name
		ip addr add $addr/24 dev $name
		ip link set $name up
	done
done

# disks by their serials: /dev/lab/SERIAL; state and guest are mounted
mkdir -p /dev/lab
for d in /sys/block/vd*; do
	s=$(cat $d/serial 2>/dev/null)
	[ -n "$s" ] && ln -s /dev/${d##*/} /dev/lab/$s
done
[ -e /dev/lab/state ] && mkdir -p /var/lib/perilune && mount -t ext4 /dev/lab/state /var/lib/perilune
[ -e /dev/lab/target ] && mkdir -p /var/target && mount -t ext4 /dev/lab/target /var/target
[ -e /dev/lab/installed ] && mkdir -p /srv/installed && mount -t ext4 -o ro /dev/lab/installed /srv/installed
[ -e /dev/lab/guest ] && mkdir -p /srv/guest && mount -t ext4 -o ro /dev/lab/guest /srv/guest
mount -t debugfs debug /sys/kernel/debug
echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled
ulimit -l unlimited
ulimit -n 65536
ulimit -c 0

port=
for p in /sys/class/virtio-ports/*; do
	[ "$(cat $p/name 2>/dev/null)" = agent ] && port=/dev/${p##*/}
done
[ -n "$port" ] || echo "lab: no agent port"
echo "lab: $(word lab.name) up at $(cut -d' ' -f1 /proc/uptime) s"
(while :; do /lab/agent $port; sleep 0.1; done) &
while :; do setsid cttyhack bash -l; sleep 1; done
