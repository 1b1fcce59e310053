// SPDX-License-Identifier: Apache-2.0
/* vm_usage.c: looking at a VM that runs; its balloon's target. */
#include "host/vm_usage.h"

#include <linux/virtio_balloon.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/util.h"
#include "host/vm_process.h"
#include "host/vm_run.h"
#include "vfs/controller.h"

#define LOOK_NS	 (900 * NS_PER_MS)
#define FRESH_MS 15000 /* older words of a guest are not shown as what is */
#define BLOCK	 512u  /* of st_blocks */

/* --- the supervisor ------------------------------------------------------------------------------ */

void vm_usage_begin(struct host_vm *vm)
{
	vm->target_told = 0;
}

void vm_usage_balloon(struct host_vm *vm, const struct vmctl_balloon *b)
{
	pthread_mutex_lock(&vm->lock);
	vm->usage.balloon = *b;
	vm->usage.balloon_ns = clock_boot_ns();
	pthread_mutex_unlock(&vm->lock);
}

/* A request whose REPLY nobody waits for. */
static bool say(struct host_vm *vm, enum vmctl_type type, uint64_t target)
{
	struct vmctl_msg *msg = xcalloc(1, sizeof(*msg));
	int rc;

	msg->type = type;
	msg->tag = ++vm->tag;
	msg->balloon.target = target;
	rc = vm->conn ? vmctl_conn_send(vm->conn, msg) : -1;
	free(msg);
	return rc == 0;
}

static void look(struct host_vm *vm, struct vm_usage *now)
{
	struct controller_stats stats = {0};
	struct stat st;

	now->at_ns = clock_boot_ns();
	if (vm->memory_fd >= 0 && fstat(vm->memory_fd, &st) == 0)
		now->memory = (uint64_t)st.st_blocks * BLOCK;
	if (vm->pid)
		(void)process_cpu_ns(vm->pid, &now->cpu_ns);
	if (vm->controller)
		controller_stats(vm->controller, &stats);
	now->read_bytes = stats.read_bytes;
	now->write_bytes = stats.write_bytes;
}

static void note(struct host_vm *vm, struct vm_usage *now)
{
	struct vm_usage *u = &vm->usage;

	pthread_mutex_lock(&vm->lock);
	if (u->at_ns) {
		u->span_ns = now->at_ns - u->at_ns;
		u->cpu_span_ns = now->cpu_ns - MIN(u->cpu_ns, now->cpu_ns);
		u->read_span = now->read_bytes - MIN(u->read_bytes, now->read_bytes);
		u->write_span = now->write_bytes - MIN(u->write_bytes, now->write_bytes);
	}
	u->at_ns = now->at_ns;
	u->memory = now->memory;
	u->cpu_ns = now->cpu_ns;
	u->read_bytes = now->read_bytes;
	u->write_bytes = now->write_bytes;
	pthread_mutex_unlock(&vm->lock);
}

void vm_usage_turn(struct host_vm *vm)
{
	struct vm_usage now = {0};
	uint64_t target = vm_memory_target(vm);
	bool balloon = vm->features & VMCTL_F_BALLOON;

	if (balloon && vm->target_told != target && say(vm, VMCTL_SET_BALLOON, target))
		vm->target_told = target;
	if (clock_boot_ns() - vm->usage.at_ns < LOOK_NS)
		return;
	look(vm, &now);
	note(vm, &now);
	if (balloon && vm->phase == VM_RUNNING)
		(void)say(vm, VMCTL_GET_BALLOON, 0);
}

/* --- others -------------------------------------------------------------------------------------- */

void vm_usage_get(struct host_vm *vm, struct vm_usage *out)
{
	pthread_mutex_lock(&vm->lock);
	*out = vm->usage;
	pthread_mutex_unlock(&vm->lock);
}

uint64_t vm_memory_target(struct host_vm *vm)
{
	uint64_t target;

	pthread_mutex_lock(&vm->lock);
	target = vm->def.share.memory;
	if (vm->balance_target)
		target = MIN(target, vm->balance_target);
	pthread_mutex_unlock(&vm->lock);
	return target;
}

static void put_stat(json_t *doc, const char *key, const struct vmctl_balloon *b, unsigned tag)
{
	json_object_set_new(doc, key,
			    b->stat[tag] > INT64_MAX ? json_null()
						     : json_integer((json_int_t)b->stat[tag]));
}

/* The guest's words; null when it has none to say. */
static json_t *guest_json(const struct vm_usage *u)
{
	const struct vmctl_balloon *b = &u->balloon;
	json_t *doc;

	if (!u->balloon_ns || !b->ready || clock_boot_ns() - u->balloon_ns > FRESH_MS * NS_PER_MS)
		return json_null();
	doc = json_pack("{s:I, s:I, s:I}", "ballooned", (json_int_t)b->taken, "given_back",
			(json_int_t)b->inflated, "reported_free", (json_int_t)b->reported);
	put_stat(doc, "total", b, VIRTIO_BALLOON_S_MEMTOT);
	put_stat(doc, "free", b, VIRTIO_BALLOON_S_MEMFREE);
	put_stat(doc, "available", b, VIRTIO_BALLOON_S_AVAIL);
	put_stat(doc, "caches", b, VIRTIO_BALLOON_S_CACHES);
	put_stat(doc, "swapped_in", b, VIRTIO_BALLOON_S_SWAP_IN);
	put_stat(doc, "swapped_out", b, VIRTIO_BALLOON_S_SWAP_OUT);
	return doc;
}

void vm_usage_json(struct host_vm *vm, json_t *doc)
{
	struct vm_usage u;

	vm_usage_get(vm, &u);
	json_object_set_new(doc, "memory_used",
			    u.at_ns ? json_integer((json_int_t)u.memory) : json_null());
	json_object_set_new(doc, "memory_target", json_integer((json_int_t)vm_memory_target(vm)));
	json_object_set_new(doc, "guest_memory", guest_json(&u));
}
