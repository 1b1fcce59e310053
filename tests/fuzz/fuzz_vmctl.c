// SPDX-License-Identifier: Apache-2.0
/* Control messages and kernel headers from bytes: what decodes encodes to the same bytes again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/linux_boot.h"
#include "base/vmctl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct vmctl_msg msg, again;
	static uint8_t buf[VMCTL_HEADER_BYTES + VMCTL_PAYLOAD_MAX];
	int n = vmctl_decode(data, size, &msg);

	if (n > 0) {
		int back = vmctl_encode(&msg, buf, sizeof(buf));
		MUST(back == n);
		/* Texts are made printable, reserved words dropped: compare the second time round. */
		MUST(vmctl_decode(buf, (size_t)back, &again) == n);
		MUST(again.type == msg.type && again.tag == msg.tag);
	}
	struct linux_boot_info info;
	struct linux_boot_place place;
	if (!linux_boot_parse(data, size, size + 8 * MiB, "fuzz", &info) &&
	    !linux_boot_place(&info, 256 * MiB, size, "fuzz", &place))
		MUST(place.kernel_gpa + info.kernel_bytes <= 256 * MiB);
	return 0;
}
