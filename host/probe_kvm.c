// SPDX-License-Identifier: Apache-2.0
/*
 * probe_kvm.c: can this machine run guests? A device node proves nothing: there are KVMs without
 * hardware behind them, which emulate guest kernel code slowly and in part. So a tiny guest runs:
 * first a sum and a port write, then a loop that is timed, then instructions of a stock kernel.
 */
#include "host/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"

#define GUEST_BYTES 0x10000u
#define GUEST_CODE  0x1000u
#define LOOPS	    100000u /* two instructions each */
/* Hardware needs below 1 ns an instruction, nested under emulation some 10; a software KVM 450. */
#define SLOW_NS 150u

struct guest {
	int kvm, vm, vcpu;
	uint8_t *memory;
	struct kvm_run *run;
};

static const char *guest_make(struct guest *g)
{
	struct kvm_userspace_memory_region region = {.memory_size = GUEST_BYTES};
	int size;

	g->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (g->kvm < 0)
		return errno == ENOENT ? "/dev/kvm is missing" : "/dev/kvm cannot be opened";
	if (ioctl(g->kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		return "/dev/kvm speaks another version";
	g->vm = ioctl(g->kvm, KVM_CREATE_VM, 0);
	if (g->vm < 0)
		return "a VM cannot be created";
	g->memory = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			 0);
	region.userspace_addr = (uintptr_t)g->memory;
	if (g->memory == MAP_FAILED || ioctl(g->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return "memory cannot be given to a VM";
	g->vcpu = ioctl(g->vm, KVM_CREATE_VCPU, 0);
	size = ioctl(g->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (g->vcpu < 0 || size < 0)
		return "a virtual CPU cannot be created";
	g->run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu, 0);
	return g->run == MAP_FAILED ? "a virtual CPU cannot be mapped" : NULL;
}

/* Runs real-mode `code` with `a` and `b` in AX and BX, until it writes a byte to port 0xe9. */
static const char *guest_run(struct guest *g, const uint8_t *code, size_t bytes, uint64_t a,
			     uint64_t b, uint8_t *out)
{
	struct kvm_regs regs = {.rip = GUEST_CODE, .rflags = 2, .rax = a, .rbx = b, .rsp = 0x800};
	struct kvm_sregs sregs;

	memcpy(g->memory + GUEST_CODE, code, bytes);
	if (ioctl(g->vcpu, KVM_GET_SREGS, &sregs) < 0)
		return "registers cannot be read";
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	sregs.cr4 |= 0x600; /* OSFXSR, OSXMMEXCPT: a kernel uses SSE */
	if (ioctl(g->vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(g->vcpu, KVM_SET_REGS, &regs) < 0)
		return "registers cannot be set";
	while (ioctl(g->vcpu, KVM_RUN, 0) < 0)
		if (errno != EINTR)
			return "the virtual CPU does not run";
	if (g->run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		return "an instruction cannot be emulated";
	if (g->run->exit_reason != KVM_EXIT_IO || g->run->io.port != 0xe9)
		return "the guest did not come to its end";
	*out = *((uint8_t *)g->run + g->run->io.data_offset);
	return NULL;
}

/* add bl, al; mov dx, 0xe9; out al, dx; hlt */
static const uint8_t code_sum[] = {0x00, 0xd8, 0xba, 0xe9, 0x00, 0xee, 0xf4};
/* mov ecx, LOOPS; 1: dec ecx; jnz 1b; mov dx, 0xe9; out al, dx; hlt */
static const uint8_t code_loop[] = {0x66,
				    0xb9,
				    LOOPS & 0xff,
				    (LOOPS >> 8) & 0xff,
				    (LOOPS >> 16) & 0xff,
				    LOOPS >> 24,
				    0x66,
				    0x49,
				    0x75,
				    0xfc,
				    0xba,
				    0xe9,
				    0x00,
				    0xee,
				    0xf4};
/* pxor xmm0,xmm0; movups [0x100],xmm0; fxsave [0x200]; popcnt ax,bx; mov dx,0xe9; out; hlt */
static const uint8_t code_stock[] = {0x66, 0x0f, 0xef, 0xc0, 0x0f, 0x11, 0x06, 0x00,
				     0x01, 0x0f, 0xae, 0x06, 0x00, 0x02, 0xf3, 0x0f,
				     0xb8, 0xc3, 0xba, 0xe9, 0x00, 0xee, 0xf4};

#define CURE_KVM                                                                          \
	"switch on VT-x or AMD-V in the firmware (or nested virtualisation below), load " \
	"kvm-intel or kvm-amd"

static void probe_kvm(struct host_probe_result *out)
{
	struct guest g;
	uint8_t sum = 0;
	const char *bad = guest_make(&g);

	if (!bad)
		bad = guest_run(&g, code_sum, sizeof(code_sum), 2, 40, &sum);
	if (!bad && sum != 42)
		bad = "the guest computed 2 + 40 wrongly";
	host_probe_say(out, bad ? CURE_KVM : NULL, "%s", bad ? bad : "a guest ran its code");
}

static void probe_stock(struct host_probe_result *out)
{
	struct guest g;
	uint8_t byte = 0;
	uint64_t ns;
	const char *bad = guest_make(&g);

	if (!bad)
		bad = guest_run(&g, code_stock, sizeof(code_stock), 0, 7, &byte);
	if (bad || byte != 3) {
		host_probe_say(out, CURE_KVM, "stock kernels do not run: %s",
			       bad ? bad : "an instruction went wrong");
		return;
	}
	ns = clock_boot_ns();
	bad = guest_run(&g, code_loop, sizeof(code_loop), 0, 0, &byte);
	ns = (clock_boot_ns() - ns) / (2ULL * LOOPS);
	if (bad || ns > SLOW_NS)
		host_probe_say(
			out, CURE_KVM,
			"guest kernel code is emulated in software (%llu ns an instruction): only"
			" modified guests run",
			(unsigned long long)ns);
	else
		host_probe_say(out, NULL, "guest kernel code runs at %llu ns an instruction",
			       (unsigned long long)ns);
}

static void probe_devices(struct host_probe_result *out)
{
	static const struct {
		long cap;
		const char *name;
	} want[] = {
		{KVM_CAP_IRQCHIP, "irqchip"},	  {KVM_CAP_IRQFD, "irqfd"},
		{KVM_CAP_IOEVENTFD, "ioeventfd"}, {KVM_CAP_USER_MEMORY, "user-memory"},
		{KVM_CAP_SIGNAL_MSI, "msi"},	  {KVM_CAP_IMMEDIATE_EXIT, "immediate-exit"},
	};
	cleanup_fd int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	char missing[128] = "";

	if (kvm < 0) {
		host_probe_say(out, CURE_KVM, "/dev/kvm: %s", strerror(errno));
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(want); i++)
		if (ioctl(kvm, KVM_CHECK_EXTENSION, want[i].cap) <= 0) {
			strncat(missing, " ", sizeof(missing) - strlen(missing) - 1);
			strncat(missing, want[i].name, sizeof(missing) - strlen(missing) - 1);
		}
	if (missing[0])
		host_probe_say(out, "use a kernel with a complete KVM", "missing:%s", missing);
	else
		host_probe_say(out, NULL, "irqchip, irqfd, ioeventfd, msi");
}

static void probe_nested(struct host_probe_result *out)
{
	static const char *const files[] = {"/sys/module/kvm_intel/parameters/nested",
					    "/sys/module/kvm_amd/parameters/nested"};

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		cleanup_fd int fd = open(files[i], O_RDONLY | O_CLOEXEC);
		char c = 0;

		if (fd < 0 || read(fd, &c, 1) != 1)
			continue;
		if (c == 'Y' || c == '1')
			host_probe_say(out, NULL,
				       "vms with --nested on may run guests (%s); while one does "
				       "it is not moved or"
				       " saved",
				       files[i]);
		else
			host_probe_say(out, "load the module with nested=1",
				       "--nested on shows guests nothing (%s is %c)", files[i], c);
		return;
	}
	host_probe_say(out, "load kvm-intel or kvm-amd with nested=1",
		       "--nested on shows guests nothing: neither kvm_intel nor kvm_amd is loaded");
}

const struct host_probe host_probes_kvm[] = {
	{"kvm", probe_kvm},
	{"kvm-stock-kernels", probe_stock},
	{"kvm-devices", probe_devices},
	{"nested", probe_nested},
	{NULL, NULL},
};
