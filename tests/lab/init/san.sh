#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# LIO by hand, in configfs. A SAN machine's verbs:
#   san.sh lun N DEVICE SERIAL       one block device as LUN N behind both port groups
#   san.sh portal add|remove G IP:PORT
#   san.sh enable G 0|1              a whole port group
#   san.sh alua G STATE              0 active/optimised, 1 active/non-optimised, 2 standby, 3 unavailable
#   san.sh restore                   feeds saved registrations (APTPL) back, as an array's firmware would
#   san.sh sessions
# A port group is a target portal group of its own with an ALUA group of its own.
set -e
C=/sys/kernel/config/target
IQN=iqn.2026-11.io.perilune:san
T=$C/iscsi/$IQN
say() { echo "$2" >"$1"; }

group() {
	[ -d $T/tpgt_$1 ] && return
	mkdir -p $T/tpgt_$1
	say $T/tpgt_$1/attrib/authentication 0
	say $T/tpgt_$1/attrib/generate_node_acls 1
	say $T/tpgt_$1/attrib/cache_dynamic_acls 1
	say $T/tpgt_$1/attrib/demo_mode_write_protect 0
}

lun() {
	b=$C/core/iblock_$1/lun$1
	mkdir -p $b
	say $b/control "udev_path=$2"
	say $b/udev_path "$2"
	say $b/wwn/vpd_unit_serial "$3" # without it no NAA identity at all
	say $b/enable 1
	say $b/attrib/emulate_tpu 1
	say $b/attrib/emulate_tpws 1
	say $b/attrib/emulate_3pc 1
	for g in 1 2; do
		group $g
		mkdir -p $b/alua/group$g
		say $b/alua/group$g/tg_pt_gp_id $g
		say $b/alua/group$g/alua_access_type 3
		mkdir -p $T/tpgt_$g/lun/lun_$1
		ln -s $b $T/tpgt_$g/lun/lun_$1/perilune
		say $T/tpgt_$g/lun/lun_$1/alua_tg_pt_gp group$g
	done
}

portal() {
	case $1 in
	add) mkdir $T/tpgt_$2/np/$3 ;;
	remove) rmdir $T/tpgt_$2/np/$3 ;;
	esac
}

alua() {
	for b in $C/core/iblock_*/lun*; do say $b/alua/group$1/alua_access_state $2; done
}

restore() {
	for b in $C/core/iblock_*/lun*; do
		f=/var/target/pr/aptpl_$(sed 's/.*: //' $b/wwn/vpd_unit_serial)
		[ -f $f ] || continue
		awk '/PR_REG_START/{s=""; next} /PR_REG_END/{print s; next} {s = s (s == "" ? "" : ",") $0}' $f |
			while read l; do say $b/pr/res_aptpl_metadata "$l"; done
	done
}

sessions() {
	cat $T/tpgt_*/dynamic_sessions
}

[ -d $C ] || { modprobe configfs; mount -t configfs config /sys/kernel/config; modprobe -a target_core_mod target_core_iblock iscsi_target_mod; mkdir -p $C/iscsi; mkdir -p /var/target/pr /var/target/alua; }
case $1 in
enable) say $T/tpgt_$2/enable $3 ;;
lun | portal | alua | restore | sessions)
	v=$1
	shift
	$v "$@"
	;;
*)
	echo "san.sh: no verb '$1'" >&2
	exit 2
	;;
esac
