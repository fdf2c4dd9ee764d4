// SPDX-License-Identifier: GPL-2.0-only
/* What must be the same before and after a round: references, releases, the lock, the lists. */
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
	s64 pf, bus, vf_bus;
	u64 created, released;
	u64 vfs, vf_references;
};

/* What the last measurement settled at, with what was repaired since. One user: the work item of the commands. */
static struct sample settled;
static bool is_settled;
static struct vfrace_function functions[VFRACE_KNOWN];
static unsigned int nfunctions;

static void take(struct sample *s)
{
	struct pci_dev *pf = vfrace_get_pf();
	struct pci_bus *bus = vfrace_bus();
	unsigned int i;

	*s = (struct sample){
		.pf = -1, .bus = -1, .vf_bus = -1, .created = vfrace_created(), .released = vfrace_released()
	};
	nfunctions = vfrace_functions_snapshot(functions);
	for (i = 0; i < nfunctions; i++) {
		if (functions[i].index < 0)
			continue;
		s->vfs++;
		s->vf_references += functions[i].references;
	}
	if (bus)
		s->bus = kref_read(&bus->dev.kobj.kref);
	if (!pf)
		return;
	s->pf = (s64)kref_read(&pf->dev.kobj.kref) - 1;		/* without the one just taken */
	bus = vfrace_vf_bus(pf);
	if (bus)
		s->vf_bus = kref_read(&bus->dev.kobj.kref);
	pci_dev_put(pf);
}

static const struct vfrace_function *find(int index, bool registered)
{
	unsigned int i;

	for (i = 0; i < nfunctions; i++)
		if (functions[i].index == index && functions[i].registered == registered)
			return &functions[i];
	return NULL;
}

/* VFs as FIRST-LAST:REFERENCES and the PF, of those that are there or of those that are removed and not released. */
static int write_references(char *text, size_t size, bool registered)
{
	const struct vfrace_function *first, *next;
	int at = 0, index, last;

	/* a PF that is there has its place in args */
	for (index = 0; index < nfunctions && !registered; index++) {
		first = &functions[index];
		if (first->index == VFRACE_IS_PF && !first->registered)
			at += scnprintf(text + at, size - at, " pf:%u", first->references);
	}
	for (index = 0; index < VFRACE_KNOWN; index = last + 1) {
		last = index;
		first = find(index, registered);
		if (!first)
			continue;
		while ((next = find(last + 1, registered)) && next->references == first->references)
			last++;
		at += scnprintf(text + at, size - at, " %d-%d:%u", index, last, first->references);
	}
	return at;
}

/*
 * References come and go for a moment after a removal (RCU, deferred work): a sample counts when it was the same
 * SETTLE_SAME times in a row, each behind rcu_barrier() and at least SETTLE_MS behind the one before. After
 * SETTLE_TRIES the last one is reported as it is.
 *
 * A label behind "=" says that nothing was done since the last measurement but a repair. If the state is still the one
 * that settled then, it has been the same for longer than that, and there is nothing to wait for. Behind "~": nothing
 * is torn down yet, one sample that is the same is enough.
 */
void vfrace_measure(const char *label)
{
	struct sample now, last;
	static struct vfrace_lists lists;
	static char text[VFRACE_REPORT_TEXT];
	u64 args[VFRACE_REPORT_ARGS];
	int same = 0, tries, at;

	BUILD_BUG_ON(VFRACE_REPORT_ARGS != 12);
	vfrace_functions_learn(false);
	take(&last);
	if (*label == '=') {
		label++;
		if (is_settled && !memcmp(&last, &settled, sizeof(last)))
			same = SETTLE_SAME;
	} else if (*label == '~') {
		label++;
		same = SETTLE_SAME - 1;
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
	vfrace_lists_walk(&lists);
	args[0] = last.pf;
	args[1] = last.bus;
	args[2] = last.created;
	args[3] = last.released;
	args[4] = vfrace_task_pid(vfrace_mutex_owner(vfrace_lock));
	args[5] = vfrace_lock_depth();
	args[6] = vfrace_dropped();
	args[7] = last.vf_bus;
	args[8] = vfrace_lock_owner_word();
	args[9] = lists.lists;
	args[10] = lists.entries;
	args[11] = lists.defects;
	at = scnprintf(text, sizeof(text), "%s", label);
	if (lists.defects)
		at += scnprintf(text + at, sizeof(text) - at, "\nl %s", lists.text);
	at += scnprintf(text + at, sizeof(text) - at, "\nr");
	at += write_references(text + at, sizeof(text) - at, true);
	at += scnprintf(text + at, sizeof(text) - at, "\ng");
	write_references(text + at, sizeof(text) - at, false);
	vfrace_report(VFRACE_REPORT_MEASURED, args, ARRAY_SIZE(args), text);
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
