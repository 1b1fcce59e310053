// SPDX-License-Identifier: Apache-2.0
/*
 * vmm_state.c: a VM that moves or is saved: SAVE and LOAD, the log of written pages, the table of what
 * its processor can. SAVE may have to wait for back-ends, the others never do.
 */
#include "hv/vmm_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "hv/gmem.h"
#include "hv/state.h"
#include "hv/vcpu.h"
#include "hv/vhost.h"

/* --- saving ------------------------------------------------------------------------------------ */

static void end_save(struct hv_vmm *vmm, int rc, uint32_t bytes)
{
	vmm->save_waits = false;
	util_close(&vmm->save_fd);
	vmm->save_fd = -1;
	vmm->ops->saved(vmm->opaque, rc, bytes);
}

/* One that waits: something else came first. */
void hv_vmm_cancel_save(struct hv_vmm *vmm, const char *why)
{
	if (vmm->save_waits)
		end_save(vmm, fail(-ECANCELED, "vm: %s, and was not saved", why), 0);
}

/* Plain write(2): a memfd that shrinks meanwhile is an error, and no signal. */
static int write_all(int fd, const uint8_t *data, size_t n)
{
	if (lseek(fd, 0, SEEK_SET) < 0)
		return fail(-errno, "saved state: %s", strerror(errno));
	while (n) {
		ssize_t done = write(fd, data, n);
		if (done <= 0)
			return fail(done ? -errno : -EIO, "saved state: cannot be written: %s",
				    strerror(done ? errno : EIO));
		data += done;
		n -= (size_t)done;
	}
	return 0;
}

static int write_state(struct hv_vmm *vmm, int fd, uint32_t *bytes)
{
	struct hv_state_writer w;
	size_t n = 0;

	hv_state_writer_init(&w);
	hv_state_begin(&w, "vmm", 0, 1);
	hv_state_put32(&w, vmm->boots);
	hv_state_put8(&w, vmm->panicked);
	int rc = hv_machine_save(vmm->machine, &w);
	const uint8_t *data = hv_state_finish(&w, &n);
	off_t limit = lseek(fd, 0, SEEK_END);
	if (!rc && (n > VMCTL_STATE_MAX || limit < (off_t)n))
		rc = fail(-ENOSPC, "saved state: its %zu bytes have no room", n);
	if (!rc)
		rc = write_all(fd, data, n);
	hv_state_writer_free(&w);
	*bytes = rc ? 0 : (uint32_t)n;
	return rc;
}

/* 0: no back-end has rings; 1: one still has; -ENOTCONN: and will not give them. */
static int rings_back(struct hv_vmm *vmm)
{
	int rc = 0, out = 0;

	pthread_mutex_lock(&vmm->lock);
	for (unsigned i = 0; i < vmm->config.devices_n && !rc; i++) {
		if (vmm->vhost[i] && !hv_vhost_suspended(vmm->vhost[i], &rc))
			out = 1;
	}
	pthread_mutex_unlock(&vmm->lock);
	return rc ? rc : out;
}

void hv_vmm_resume_devices(struct hv_vmm *vmm)
{
	pthread_mutex_lock(&vmm->lock);
	for (unsigned i = 0; i < vmm->config.devices_n; i++) {
		if (vmm->vhost[i])
			hv_vhost_resume(vmm->vhost[i]);
	}
	pthread_mutex_unlock(&vmm->lock);
}

static int suspend_devices(struct hv_vmm *vmm)
{
	int rc = 0;

	pthread_mutex_lock(&vmm->lock);
	for (unsigned i = 0; i < vmm->config.devices_n && !rc; i++) {
		if (vmm->vhost[i])
			rc = hv_vhost_suspend(vmm->vhost[i]);
	}
	pthread_mutex_unlock(&vmm->lock);
	return rc ? rc : rings_back(vmm);
}

/* A processor that runs cannot be asked: it stands still for a moment. */
int hv_vmm_can_save(struct hv_vmm *vmm)
{
	struct err_info why;
	int rc = hv_vmm_need_machine(vmm);

	if (rc)
		return rc;
	hv_machine_pause(vmm->machine);
	rc = hv_machine_can_save(vmm->machine);
	err_save(&why, rc);
	/* Should the lease have ended meanwhile, that is heard of elsewhere. */
	if (vmm->state == VMCTL_STATE_RUNNING)
		(void)hv_machine_resume(vmm->machine);
	return err_restore(&why);
}

int hv_vmm_save(struct hv_vmm *vmm, int fd, uint32_t *bytes)
{
	int rc = 0;

	*bytes = 0;
	hv_vmm_turn(vmm); /* what the last exits before the pause asked for: power-off, reset */
	if (vmm->state != VMCTL_STATE_PAUSED || !hv_vmm_alive(vmm))
		rc = fail(-EINVAL, "vm: it is %s; only a paused one can be saved",
			  vmm->resetting ? "being reset" : vmctl_state_name(vmm->state));
	else if (vmm->save_waits)
		rc = fail(-EBUSY, "vm: it is being saved already");
	if (!rc)
		rc = suspend_devices(vmm);
	if (rc == 1) {
		vmm->save_waits = true;
		vmm->save_fd = fd;
		return 1;
	}
	if (!rc)
		rc = write_state(vmm, fd, bytes);
	close(fd);
	return rc;
}

void hv_vmm_save_if_rings_are_back(struct hv_vmm *vmm)
{
	uint32_t bytes = 0;
	int rc = rings_back(vmm);

	if (rc == 1)
		return;
	if (!rc)
		rc = write_state(vmm, vmm->save_fd, &bytes);
	end_save(vmm, rc, bytes);
}

/* --- loading ----------------------------------------------------------------------------------- */

static int load_own(struct hv_vmm *vmm, struct hv_state_reader *r)
{
	int rc = hv_state_section(r, "vmm", 0, 1);

	if (rc < 0)
		return rc;
	vmm->boots = hv_state_get32(r);
	vmm->panicked = hv_state_get8(r) & 1;
	rc = hv_state_done(r);
	return rc ? rc : hv_state_close(r);
}

static int load_state(struct hv_vmm *vmm, const uint8_t *data, size_t bytes, uint64_t elapsed_ns)
{
	cleanup_free struct hv_state_reader *r = xcalloc(1, sizeof(*r));
	int rc = hv_state_open(r, data, bytes);

	if (!rc)
		rc = hv_vmm_create_machine(vmm, r, elapsed_ns);
	if (rc)
		return rc;
	rc = load_own(vmm, r);
	if (!rc) {
		vmm->state = VMCTL_STATE_PAUSED;
		return 0;
	}
	hv_vmm_end_machine(vmm);
	hv_vmm_take_machine_apart(vmm);
	return rc;
}

int hv_vmm_load(struct hv_vmm *vmm, int fd, const struct vmctl_load *how)
{
	uint64_t bytes = how->bytes;
	size_t have = 0;

	if (vmm->state != VMCTL_STATE_CONFIGURED || vmm->start_waits)
		return fail(-EBUSY, "vm: it is %s; a state is loaded in place of a start",
			    vmm->start_waits ? "being started" : vmctl_state_name(vmm->state));
	if (bytes > VMCTL_STATE_MAX || lseek(fd, 0, SEEK_SET) < 0)
		return fail(-EINVAL, "saved state: it cannot be read");
	cleanup_free uint8_t *data = xmalloc((size_t)bytes);
	while (have < bytes) {
		ssize_t n = read(fd, data + have, (size_t)bytes - have);
		if (n <= 0)
			return fail(-EINVAL, "saved state: it is cut off at %zu bytes", have);
		have += (size_t)n;
	}
	return load_state(vmm, data, have, how->elapsed_ns);
}

/* --- before all of its memory has come ------------------------------------------------------------ */

int hv_vmm_postcopy(struct hv_vmm *vmm, int *uffd, uint64_t *base)
{
	int rc;

	if (vmm->state != VMCTL_STATE_CONFIGURED || vmm->lazy)
		return fail(-EINVAL, "vm: post-copy is for a machine that is about to be loaded");
	if (vmm->uffd < 0)
		return fail(-EOPNOTSUPP, "vm: this host has no userfaultfd for it");
	rc = hv_gmem_lazy_start(vmm->gmem, vmm->uffd, base);
	if (rc)
		return rc;
	vmm->lazy = true;
	*uffd = vmm->uffd; /* ours stays open: should the daemon die, who waits goes on waiting */
	return 0;
}

int hv_vmm_postcopy_end(struct hv_vmm *vmm)
{
	int rc;

	if (!vmm->lazy)
		return fail(-EINVAL, "vm: all of its memory is there");
	rc = hv_gmem_lazy_end(vmm->gmem, vmm->uffd);
	vmm->lazy = rc;
	return rc;
}

/* --- the log, the processor --------------------------------------------------------------------- */

int hv_vmm_log_start(struct hv_vmm *vmm, int fd)
{
	int rc = hv_vmm_need_machine(vmm);

	if (rc)
		return rc;
	pthread_mutex_lock(&vmm->lock);
	bool again = hv_gmem_logs(vmm->gmem);
	rc = hv_gmem_log_start(vmm->gmem, fd);
	if (!rc && again)
		rc = hv_machine_log(vmm->machine, false); /* so that KVM's starts clean, too */
	if (!rc)
		rc = hv_machine_log(vmm->machine, true);
	if (rc)
		hv_gmem_log_stop(vmm->gmem);
	pthread_mutex_unlock(&vmm->lock);
	return rc;
}

int hv_vmm_log_sync(struct hv_vmm *vmm)
{
	int rc = hv_vmm_need_machine(vmm);

	if (rc)
		return rc;
	if (!hv_gmem_logs(vmm->gmem))
		return fail(-EINVAL, "vm: there is no log of its writes");
	pthread_mutex_lock(&vmm->lock);
	rc = hv_machine_log_sync(vmm->machine);
	pthread_mutex_unlock(&vmm->lock);
	return rc;
}

int hv_vmm_log_stop(struct hv_vmm *vmm)
{
	int rc = 0;

	pthread_mutex_lock(&vmm->lock);
	if (hv_gmem_logs(vmm->gmem) && vmm->machine)
		rc = hv_machine_log(vmm->machine, false);
	hv_gmem_log_stop(vmm->gmem);
	pthread_mutex_unlock(&vmm->lock);
	return rc;
}

int hv_vmm_get_cpu(struct hv_vmm *vmm, struct cpu_table *out)
{
	if (vmm->machine)
		return hv_machine_cpu_table(vmm->machine, out);
	return hv_vcpus_offered(vmm->kvm_fd, MAX(vmm->config.cpus, 1u), vmm->baseline,
				vmm->options.nested, out);
}

int hv_vmm_set_cpu(struct hv_vmm *vmm, const struct cpu_table *baseline)
{
	cleanup_free struct cpu_table *offered = xmalloc(sizeof(*offered));

	if (vmm->state != VMCTL_STATE_CONFIGURED || vmm->start_waits)
		return fail(-EBUSY, "vm: it is %s; its processor is chosen before it starts",
			    vmctl_state_name(vmm->state));
	int rc = hv_vcpus_offered(vmm->kvm_fd, vmm->config.cpus, baseline, vmm->options.nested,
				  offered);
	if (rc)
		return rc;
	if (!vmm->baseline)
		vmm->baseline = xmalloc(sizeof(*vmm->baseline));
	*vmm->baseline = *baseline;
	return 0;
}
