// SPDX-License-Identifier: Apache-2.0
/* notify.c: one datagram. */
#include "host/notify.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/util.h"

void host_stop_takes(unsigned seconds)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	cleanup_fd int fd = -1;
	char text[64];
	int n;

	/* '@': an abstract name */
	if (!path || (*path != '/' && *path != '@') ||
	    str_format(to.sun_path, sizeof(to.sun_path), "%s", path) < 0)
		return;
	if (*path == '@')
		to.sun_path[0] = 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	n = str_format(text, sizeof(text), "EXTEND_TIMEOUT_USEC=%u000000", seconds);
	if (fd >= 0 && n > 0)
		(void)sendto(fd, text, (size_t)n, MSG_NOSIGNAL, (struct sockaddr *)&to,
			     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path)));
}
