// SPDX-License-Identifier: Apache-2.0
/* notify.h (private to host): what the one who started this daemon is told (systemd's sd_notify(3), by $NOTIFY_SOCKET). */
#ifndef HOST_NOTIFY_H
#define HOST_NOTIFY_H

/* Stopping takes `seconds` more from now on. Nobody may be listening. */
void host_stop_takes(unsigned seconds);

#endif
