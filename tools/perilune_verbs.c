// SPDX-License-Identifier: Apache-2.0
/* perilune_verbs.c: the tables of verbs, in the order of the help. */
#include "tools/perilune_cli.h"

#include <stddef.h>

static const struct cli_option chap_option[] = {
	{"chap-file", CLI_FILE, "F", "user and password for CHAP, on one line", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

const struct cli_verb cli_lun_verbs[] = {
	{"lun", "list", "", "the LUNs this host is connected to", "perilune lun list", NULL, 0,
	 "id=ID,name=NAME,size%=SIZE,state=STATE,used_by=USED BY,error=ERROR", NULL},
	{"lun", "discover", "portal=PORTAL", "what an iSCSI portal offers",
	 "perilune lun discover 10.0.0.9:3260", chap_option, CLI_OFFLINE,
	 "lun=LUN,target=TARGET,error=ERROR", NULL},
	{"lun", "connect", "lun=LUN", "connect to a LUN, now and after each start",
	 "perilune lun connect /dev/mapper/mpatha", chap_option, 0, NULL, NULL},
	{"lun", "disconnect", "lun=LUN", "forget a LUN that no volume uses",
	 "perilune lun disconnect naa.60014051234", NULL, 0, "", NULL},
	{"lun", "rescan", "", "look at all LUNs again: sizes, lost ones", "perilune lun rescan",
	 NULL, 0, "id=ID,name=NAME,size%=SIZE,old_size%=BEFORE,error=ERROR", NULL},
	{"lun", "probe", "luns=LUN...", "what a LUN can do, found by trying; changes nothing",
	 "perilune lun probe /srv/lun0.img", chap_option, CLI_OFFLINE, NULL, NULL},
	{NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL},
};

static const struct cli_option fault_options[] = {
	{"kind", CLI_TEXT, "KIND",
	 "fail, hang, delay=MS, drop=PCT, flap=MS, corrupt, tear, lost-answer, late-write,"
	 " forget-keys, no-reservations, no-space, volatile, power-loss",
	 true},
	{"op", CLI_TEXT, "OP", "read, write, cas, flush or all", false},
	{"range", CLI_TEXT, "A-B", "only there, in bytes", false},
	{"for", CLI_TEXT, "S", "for so many seconds", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

const struct cli_verb cli_fault_verbs[] = {
	{"fault", "add", "target=TARGET", "break a LUN on purpose, as a drill",
	 "perilune fault add /srv/lun0.img --kind delay=50 --op write --for 10", fault_options, 0,
	 NULL, NULL},
	{"fault", "list", "", "faults in force, and how often they struck", "perilune fault list",
	 NULL, 0, "id=ID,target=TARGET,fault=FAULT,hits=HITS", NULL},
	{"fault", "clear", "[id=ID]", "end one fault, or all", "perilune fault clear", NULL, 0, "",
	 NULL},
	{NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL},
};

/* Verbs of one noun stand together. */
const struct cli_verb *const cli_tables[] = {
	cli_host_verbs, cli_lun_verbs, cli_volume_verbs, cli_check_verbs, cli_disk_verbs,
	cli_file_verbs, cli_vm_verbs,  cli_pool_verbs,	 cli_fault_verbs, cli_task_verbs,
	NULL,
};
