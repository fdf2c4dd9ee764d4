// SPDX-License-Identifier: GPL-2.0-only
/* What must be the same before and after a round: references, releases, the lock. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/kref.h>
#include <linux/ktime.h>
#include <linux/pci.h>
#include <linux/rcupdate.h>

#include "vfrace.h"

#define SETTLE_MS	20
#define SETTLE_SAME	3
#define SETTLE_TRIES	100

struct sample {
	s64 pf, bus;
	u64 created, released;
};

/* What the last measurement settled at, with what was repaired since. One user: the work item of the commands. */
static struct sample settled;
static bool is_settled;

static void take(struct sample *s)
{
	struct pci_dev *pf = vfrace_get_pf();

	*s = (struct sample){ .pf = -1, .bus = -1, .created = vfrace_created(), .released = vfrace_released() };
	if (!pf)
		return;
	s->pf = (s64)kref_read(&pf->dev.kobj.kref) - 1;		/* without the one just taken */
	s->bus = kref_read(&pf->bus->dev.kobj.kref);
	pci_dev_put(pf);
}

/* The nesting word, under any of the names that the variants give it; -1 if this kernel has none. */
static s64 lock_depth(void)
{
	static const struct {
		const char *name;
		size_t size;
	} words[] = {
		{ "pci_rescan_remove_reentrant_count", sizeof(size_t) },
		{ "pci_rescan_remove_count", sizeof(unsigned int) },
		{ "pci_rescan_remove_depth", sizeof(unsigned int) },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(words); i++) {
		unsigned long at = vfrace_symbol(words[i].name);

		if (!at)
			continue;
		return words[i].size == sizeof(size_t) ? (s64)READ_ONCE(*(size_t *)at) : READ_ONCE(*(unsigned int *)at);
	}
	return -1;
}

/*
 * References come and go for a moment after a removal (RCU, deferred work): a sample counts when it was the same
 * SETTLE_SAME times in a row, each behind rcu_barrier() and at least SETTLE_MS behind the one before. After SETTLE_TRIES
 * the last one is reported as it is.
 *
 * A label behind "=" says that nothing was done since the last measurement but a repair. If the state is still the one
 * that settled then, it has been the same for longer than that, and there is nothing to wait for.
 */
void vfrace_measure(const char *label)
{
	struct sample now, last;
	u64 args[VFRACE_REPORT_ARGS];
	int same = 0, tries;

	take(&last);
	if (*label == '=') {
		label++;
		if (is_settled && !memcmp(&last, &settled, sizeof(last)))
			same = SETTLE_SAME;
	}
	for (tries = 0; same < SETTLE_SAME && tries < SETTLE_TRIES; tries++) {
		ktime_t began = ktime_get();
		s64 rest;

		/* It takes two or three ticks by itself, which are part of the distance. */
		rcu_barrier();
		rest = SETTLE_MS * USEC_PER_MSEC - ktime_us_delta(ktime_get(), began);
		if (rest > 0)
			usleep_range(rest, rest + USEC_PER_MSEC);
		take(&now);
		same = memcmp(&now, &last, sizeof(now)) ? 0 : same + 1;
		last = now;
	}
	settled = last;
	is_settled = same >= SETTLE_SAME;
	args[0] = last.pf;
	args[1] = last.bus;
	args[2] = last.created;
	args[3] = last.released;
	args[4] = vfrace_mutex_owner_pid(vfrace_lock);
	args[5] = lock_depth();
	args[6] = vfrace_dropped();
	vfrace_report(VFRACE_REPORT_MEASURED, args, ARRAY_SIZE(args), label);
}

/* Gives the PF back what a double removal took, so that the next round begins as the first one did. */
int vfrace_repair(const char *text)
{
	struct pci_dev *pf = vfrace_get_pf();
	unsigned int references;
	int ret = -ENODEV;

	if (!pf)
		return ret;
	ret = kstrtouint(text, 10, &references);
	if (!ret && references > 16)
		ret = -ERANGE;
	for (; !ret && references; references--) {
		pci_dev_get(pf);
		settled.pf++;
	}
	pci_dev_put(pf);
	return ret;
}
