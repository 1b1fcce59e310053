// SPDX-License-Identifier: Apache-2.0
/* vm_def_net.c: network devices in a VM's definition: from users' words, to and from JSON. */
#include "host/vm_net.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "host/tap.h"
#include "host/vm_run.h"

#define VLAN_MAX  4094u
#define MAC_BYTES 18
#define HOW	  "say bridge=BR or tap=T[,vlan=N][,queues=N][,vhost=off][,mac=AA:BB:CC:DD:EE:FF]"

static void mac_text(const uint8_t mac[6], char dst[MAC_BYTES])
{
	(void)str_format(dst, MAC_BYTES, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
			 mac[3], mac[4], mac[5]);
}

/* Of one interface: no group address, not all zeroes. */
static bool parse_mac(const char *text, uint8_t mac[6])
{
	unsigned b[6], any = 0;
	int end = 0;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
		   &end) != 6 ||
	    text[end] || strlen(text) != MAC_BYTES - 1)
		return false;
	for (unsigned i = 0; i < 6; i++) {
		mac[i] = (uint8_t)b[i];
		any |= b[i];
	}
	return any && !(mac[0] & 1);
}

static void make_mac(uint8_t mac[6])
{
	random_bytes(mac, 6);
	mac[0] = (uint8_t)((mac[0] & 0xfc) | 0x02); /* locally administered, of one interface */
}

static bool parse_number(const char *text, unsigned max, unsigned *out)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	*out = (unsigned)n;
	return *text >= '0' && *text <= '9' && !*end && n >= 1 && n <= max;
}

static int take_word(struct vm_def_net *net, const char *name, char *word)
{
	char *value = strchr(word, '=');
	bool good;

	if (!value)
		return fail(-EINVAL, "vm %s: --net: \"%s\": " HOW, name, word);
	*value++ = 0;
	if (!strcmp(word, "bridge"))
		good = tap_good_name(value) &&
		       str_format(net->bridge, sizeof(net->bridge), "%s", value) > 0;
	else if (!strcmp(word, "tap"))
		good = tap_good_name(value) &&
		       str_format(net->tap, sizeof(net->tap), "%s", value) > 0;
	else if (!strcmp(word, "vlan"))
		good = parse_number(value, VLAN_MAX, &net->vlan);
	else if (!strcmp(word, "queues"))
		good = parse_number(value, TAP_QUEUES_MAX, &net->queues);
	else if (!strcmp(word, "vhost"))
		good = (net->no_vhost = !strcmp(value, "off")) || !strcmp(value, "on");
	else if (!strcmp(word, "mac"))
		good = parse_mac(value, net->mac);
	else
		return fail(-EINVAL, "vm %s: --net: \"%s\" is unknown; " HOW, name, word);
	return good ? 0 : fail(-EINVAL, "vm %s: --net: %s=%s cannot be; " HOW, name, word, value);
}

static int check(const struct vm_def *d, const char *name, const struct vm_def_net *net)
{
	if (!net->bridge[0] == !net->tap[0])
		return fail(-EINVAL, "vm %s: a network device needs a bridge or a tap: " HOW, name);
	if (net->vlan && !net->bridge[0])
		return fail(-EINVAL, "vm %s: tap %s: whose tap it is gives it its VLAN", name,
			    net->tap);
	for (unsigned i = 0; i < d->nets; i++) {
		if (!memcmp(d->net[i].mac, net->mac, 6))
			return fail(-EINVAL, "vm %s: two network devices with one address", name);
		if (net->tap[0] && !strcmp(d->net[i].tap, net->tap))
			return fail(-EINVAL, "vm %s: tap %s: named twice", name, net->tap);
	}
	return 0;
}

int vm_def_net_add(struct vm_def *d, const char *name, const char *text)
{
	struct vm_def_net net = {.queues = 1};
	cleanup_free char *words = xstrdup(text);
	char *rest = words, *word;
	int rc = 0;

	if (d->nets == VM_NETS_MAX)
		return fail(-EINVAL, "vm %s: more than %d network devices cannot be", name,
			    VM_NETS_MAX);
	make_mac(net.mac);
	while (rc == 0 && (word = strsep(&rest, ",")))
		rc = take_word(&net, name, word);
	if (rc == 0)
		rc = check(d, name, &net);
	if (rc == 0)
		d->net[d->nets++] = net;
	return rc;
}

/* --- JSON --------------------------------------------------------------------------------------------- */

static json_t *describe(const struct vm_def_net *net)
{
	char mac[MAC_BYTES];
	json_t *one;

	mac_text(net->mac, mac);
	one = json_pack("{s:s, s:i}", "mac", mac, "queues", (int)net->queues);
	if (net->bridge[0])
		json_object_set_new(one, "bridge", json_string(net->bridge));
	else
		json_object_set_new(one, "tap", json_string(net->tap));
	if (net->vlan)
		json_object_set_new(one, "vlan", json_integer(net->vlan));
	if (net->no_vhost)
		json_object_set_new(one, "vhost", json_false());
	return one;
}

json_t *vm_def_nets_record(const struct vm_def *d)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < d->nets; i++)
		json_array_append_new(list, describe(&d->net[i]));
	return list;
}

static const char *text_of(json_t *doc, const char *key)
{
	const char *s = json_string_value(json_object_get(doc, key));

	return s ? s : "";
}

static int parse_one(json_t *doc, const char *name, struct vm_def *d)
{
	struct vm_def_net net = {0};
	const char *bridge = text_of(doc, "bridge"), *tap = text_of(doc, "tap");
	json_int_t vlan = json_integer_value(json_object_get(doc, "vlan"));
	json_int_t queues = json_integer_value(json_object_get(doc, "queues"));

	if (d->nets == VM_NETS_MAX || !parse_mac(text_of(doc, "mac"), net.mac) || vlan < 0 ||
	    vlan > VLAN_MAX || queues < 1 || queues > TAP_QUEUES_MAX ||
	    (*bridge && !tap_good_name(bridge)) || (*tap && !tap_good_name(tap)))
		return fail(-EUCLEAN, "vm %s: definition: wrong list of network devices", name);
	net.vlan = (unsigned)vlan;
	net.queues = (unsigned)queues;
	net.no_vhost = json_is_false(json_object_get(doc, "vhost"));
	(void)str_format(net.bridge, sizeof(net.bridge), "%s", bridge);
	(void)str_format(net.tap, sizeof(net.tap), "%s", tap);
	if (check(d, name, &net) < 0)
		return -EUCLEAN;
	d->net[d->nets++] = net;
	return 0;
}

int vm_def_nets_parse(json_t *list, const char *name, struct vm_def *d)
{
	json_t *item;
	size_t i;
	int rc = 0;

	json_array_foreach(list, i, item)
	{
		rc = parse_one(item, name, d);
		if (rc < 0)
			break;
	}
	return rc;
}

json_t *vm_def_nets_json(const struct vm_def *d, struct host_vm *vm)
{
	json_t *list = vm_def_nets_record(d), *one;
	size_t i;

	json_array_foreach(list, i, one)
	{
		const struct tap_place place = vm_net_place(&d->net[i]);
		char device[TAP_NAME_BYTES] = "";
		const char *state = "off";

		if (vm) {
			pthread_mutex_lock(&vm->lock);
			memcpy(device, vm->tap[i], sizeof(device));
			pthread_mutex_unlock(&vm->lock);
		}
		if (device[0]) {
			state = tap_is_connected(&place, device) ? "connected" : "disconnected";
			json_object_set_new(one, "device", json_string(device));
		}
		json_object_set_new(one, "state", json_string(state));
	}
	return list;
}
