// SPDX-License-Identifier: Apache-2.0
/*
 * A hypervisor in a screenful, for guests that may run guests: makes a VM with this machine's KVM, whose code adds
 * two numbers and tells the sum at a port. "guest in guest: 42", and exit 0 after as many seconds as its word says (none),
 * for which the VM stays; or what went wrong.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CODE 0x1000
#define SIZE 0x10000

static int call(int fd, unsigned long request, void *arg, const char *what)
{
	int rc = ioctl(fd, request, arg);

	if (rc < 0) {
		perror(what);
		exit(1);
	}
	return rc;
}

int main(int argc, char **argv)
{
	/* add bl, al; mov dx, 0xe9; out dx, al; hlt */
	static const uint8_t code[] = {0x00, 0xd8, 0xba, 0xe9, 0x00, 0xee, 0xf4};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = call(kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");
	uint8_t *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			       0);
	struct kvm_userspace_memory_region region = {.memory_size = SIZE,
						     .userspace_addr = (uintptr_t)memory};
	struct kvm_regs regs = {.rip = CODE, .rflags = 2, .rax = 2, .rbx = 40, .rsp = 0x800};
	struct kvm_sregs sregs;

	memcpy(memory + CODE, code, sizeof(code));
	call(vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
	int cpu = call(vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU");
	int size = call(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE");
	struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
	call(cpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	call(cpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
	call(cpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
	call(cpu, KVM_RUN, NULL, "KVM_RUN");
	if (run->exit_reason != KVM_EXIT_IO || run->io.port != 0xe9) {
		printf("guest in guest: exit %u\n", run->exit_reason);
		return 1;
	}
	printf("guest in guest: %u\n", *((uint8_t *)run + run->io.data_offset));
	fflush(stdout);
	sleep(argc > 1 ? (unsigned)atoi(argv[1]) : 0);
	return 0;
}
