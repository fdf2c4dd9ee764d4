// SPDX-License-Identifier: GPL-2.0-only
/* Who enters which function of the PCI core, for which function of the device, from where; and who has the lock. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/device.h>
#include <linux/hash.h>
#include <linux/ktime.h>
#include <linux/log2.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/stacktrace.h>
#include <linux/string.h>

#include "vfrace.h"

#define FRAMES	24		/* one of ours for each wrapped function; each costs some microseconds */
#define SHOWN	8
#define LONG_SLEEP_MS	500

enum kind {
	REPORTED,			/* always */
	TRACED,				/* when tracing, if one of the two sides calls it */
	TAKES, RELEASES,		/* pci_rescan_remove_lock */
	TAKES_MAYBE, RELEASES_MAYBE,	/* helpers of some variants, which may call the plain functions */
	CREATES, FREES,			/* a pci_dev */
	SLEEPS,				/* milliseconds */
};

/*
 * Beside "few": those that are wrapped even then. The judge needs them to tell a removal that came through its lookup,
 * the lives of a VF, who waited for whom, and what was created and released.
 */
static const struct observed {
	const char *name;
	enum kind kind;
	bool required, few;
} observed[] = {
	{ "sriov_disable", REPORTED, true, true },
	{ "sriov_enable", REPORTED, true, true },
	{ "pci_iov_remove_virtfn", REPORTED, true },
	{ "pci_iov_add_virtfn", REPORTED, true, true },
	{ "pci_bus_add_device", REPORTED, false, true },
	{ "pci_stop_and_remove_bus_device", REPORTED, true, true },
	{ "pci_stop_dev", REPORTED, true },
	{ "pci_destroy_dev", REPORTED, true },
	{ "device_del", REPORTED, true },
	{ "virtio_pci_remove", REPORTED },
	{ "pci_lock_rescan_remove", TAKES, true, true },
	{ "pci_unlock_rescan_remove", RELEASES, true, true },
	{ "pci_lock_rescan_remove_nested", TAKES_MAYBE, false, true },
	{ "pci_lock_rescan_remove_reentrant", TAKES_MAYBE, false, true },
	{ "pci_unlock_rescan_remove_reentrant", RELEASES_MAYBE, false, true },
	{ "pci_device_add", CREATES, true, true },
	{ "pci_release_dev", FREES, true, true },
	{ "msleep", SLEEPS },
	{ "unbind_store", TRACED },
	{ "bind_store", TRACED },
	{ "remove_store", TRACED },
	{ "rescan_store", TRACED },
	{ "sriov_numvfs_store", TRACED },
	{ "device_release_driver", TRACED },
	{ "device_release_driver_internal", TRACED },
	{ "virtio_pci_sriov_configure", TRACED },
	{ "sriov_add_vfs", TRACED },
	{ "sriov_del_vfs", TRACED },
	{ "pci_setup_device", TRACED },
	{ "pci_stop_and_remove_bus_device_locked", TRACED },
	{ "pci_stop_bus_device", TRACED },
	{ "pci_remove_bus_device", TRACED },
	{ "sysfs_remove_link", TRACED },
	{ "virtfn_add_bus", TRACED },
	{ "virtfn_remove_bus", TRACED },
	{ "pciehp_unconfigure_device", TRACED },
	{ "pciehp_configure_device", TRACED },
#ifdef CONFIG_S390
	{ "zpci_event_availability", TRACED },
	{ "zpci_event_hard_deconfigured", TRACED },
	{ "zpci_deconfigure_device", TRACED },
	{ "zpci_bus_remove_device", TRACED },
	{ "zpci_iov_remove_virtfn", TRACED },
	{ "zpci_release_device", TRACED },
#endif
};

static const struct observed *by_slot[VFRACE_SLOTS];
static bool enabled, tracing, awake, reduced;
/* One of those that the judge wants to see, and that the compiler has made a part of others. */
static const char *unseen;

/* Wraps those that are always wrapped, those that are only traced, or the sleep. */
static int wrap_observed(enum kind which)
{
	unsigned int i;
	int slot;

	for (i = 0; i < ARRAY_SIZE(observed); i++) {
		bool always = observed[i].kind != TRACED && observed[i].kind != SLEEPS;

		if (which == REPORTED ? !always : observed[i].kind != which)
			continue;
		slot = vfrace_wrap(observed[i].name);
		if (slot >= 0) {
			by_slot[slot] = &observed[i];
		} else if (observed[i].required && observed[i].few) {
			pr_err("cannot observe %s (%d)\n", observed[i].name, slot);
			return slot;
		} else if (observed[i].required) {
			pr_warn("cannot observe %s (%d)\n", observed[i].name, slot);
			unseen = observed[i].name;
		}
	}
	return 0;
}

void vfrace_calls_enable(bool on, bool trace, bool nosleep)
{
	if (on && trace)
		wrap_observed(TRACED);
	if (on && nosleep)
		wrap_observed(SLEEPS);
	if (on && unseen && !READ_ONCE(reduced))
		vfrace_fail("%s is not a function of its own in this kernel; --few-probes does without", unseen);
	vfrace_lock_forget();
	WRITE_ONCE(awake, on && nosleep);
	WRITE_ONCE(tracing, on && trace);
	WRITE_ONCE(enabled, on);
}

/* Lets go of those that the judge can do without and that no point is at. */
void vfrace_calls_reduce(void)
{
	unsigned int i;

	WRITE_ONCE(reduced, true);
	for (i = 0; i < VFRACE_SLOTS; i++) {
		const struct observed *about = by_slot[i];

		if (!about || about->few || vfrace_points_use(i) || vfrace_unplug_uses(i))
			continue;
		if (vfrace_unwrap(about->name))
			vfrace_fail("%s cannot be let go", about->name);
	}
}

bool vfrace_calls_enabled(void)
{
	return READ_ONCE(enabled);
}

/*
 * Names of the places that were looked up: kallsyms takes long for each under TCG, and the same few come again and
 * again. An empty name is a place in this module.
 */
#define NAMES		256
#define NAME_SIZE	56

static struct place {
	unsigned long address;
	char name[NAME_SIZE];
} places[NAMES];
static DEFINE_RAW_SPINLOCK(places_lock);

static void name_of(unsigned long address, char *name)
{
	struct place *place = &places[hash_long(address, ilog2(NAMES))];
	unsigned long flags;
	bool found;

	raw_spin_lock_irqsave(&places_lock, flags);
	found = place->address == address;
	if (found)
		strscpy(name, place->name, NAME_SIZE);
	raw_spin_unlock_irqrestore(&places_lock, flags);
	if (found)
		return;
	name[0] = 0;
	/* what is ours is how we look, not what happens */
	if (!within_module(address, THIS_MODULE))
		scnprintf(name, NAME_SIZE, "%ps", (void *)address);
	raw_spin_lock_irqsave(&places_lock, flags);
	place->address = address;
	strscpy(place->name, name, NAME_SIZE);
	raw_spin_unlock_irqrestore(&places_lock, flags);
}

unsigned int vfrace_stack(char *text, size_t size, const unsigned long *frames, unsigned int n)
{
	unsigned int i, shown = 0, at = 0;
	char name[NAME_SIZE];

	for (i = 0; i < n && shown < SHOWN; i++) {
		name_of(frames[i], name);
		if (!name[0])
			continue;
		at += scnprintf(text + at, size - at, " %s", name);
		shown++;
	}
	return at;
}

static void report_enter(const struct vfrace_call *call)
{
	unsigned long frames[FRAMES];
	char text[VFRACE_REPORT_TEXT];
	u64 args[2] = { (s64)call->index, call->serial };
	unsigned int n;
	int at;

	n = stack_trace_save(frames, ARRAY_SIZE(frames), 0);
	at = scnprintf(text, sizeof(text), "%s", call->name);
	vfrace_stack(text + at, sizeof(text) - at, frames, n);
	vfrace_report(VFRACE_REPORT_ENTER, args, ARRAY_SIZE(args), text);
}

static void report_return(const struct vfrace_call *call)
{
	u64 args[2] = { (s64)call->index, call->serial };

	vfrace_report(VFRACE_REPORT_RETURN, args, ARRAY_SIZE(args), call->name);
}

/* A task inside a helper is listed, so that what the helper does inside is not reported twice. */
#define HELPERS	16
static struct task_struct *in_helper[HELPERS];
static DEFINE_RAW_SPINLOCK(helper_lock);

static bool helper_mark(struct task_struct *from, struct task_struct *to)
{
	unsigned long flags;
	unsigned int i;
	bool found = false;

	raw_spin_lock_irqsave(&helper_lock, flags);
	for (i = 0; i < HELPERS && !found; i++) {
		found = in_helper[i] == from;
		if (found)
			in_helper[i] = to;
	}
	raw_spin_unlock_irqrestore(&helper_lock, flags);
	return found;
}

static bool is_lock(enum kind kind)
{
	return kind >= TAKES && kind <= RELEASES_MAYBE;
}

static void lock_enter(struct vfrace_call *call, enum kind kind)
{
	u64 owner;

	/* The plain functions inside a helper are the helper's. */
	if (helper_mark(current, current))
		return;
	call->reported = true;
	if (kind == TAKES_MAYBE || kind == RELEASES_MAYBE)
		helper_mark(NULL, current);
	call->nested = vfrace_mutex_owner(vfrace_lock) == current;
	if (kind == TAKES || kind == TAKES_MAYBE) {
		owner = vfrace_task_pid(vfrace_mutex_owner(vfrace_lock));
		vfrace_report(VFRACE_REPORT_LOCK_WAIT, &owner, 1, NULL);
	} else {
		/* A helper that is told that nothing was taken does nothing. */
		if (kind == RELEASES || (bool)(u8)call->args[0])
			vfrace_lock_releases();
		vfrace_report(VFRACE_REPORT_LOCK_RELEASE, NULL, 0, NULL);
	}
}

static void lock_return(struct vfrace_call *call, enum kind kind)
{
	u64 nested = call->nested;

	if (!call->reported)
		return;
	if (kind == TAKES_MAYBE || kind == RELEASES_MAYBE)
		helper_mark(current, NULL);
	if (kind != TAKES && kind != TAKES_MAYBE)
		return;
	vfrace_report(VFRACE_REPORT_LOCK_TAKEN, &nested, 1, NULL);
	/* A helper says whether it took it. */
	if (kind == TAKES || (bool)(u8)call->ret)
		vfrace_lock_taken(call->nested);
}

/* Which function of the device the call is for: any of its first three arguments says it. */
static int subject_of(struct vfrace_call *call)
{
	int index = VFRACE_IS_NONE;
	unsigned int i;

	for (i = 0; i < 3 && index == VFRACE_IS_NONE; i++)
		index = vfrace_index_of_pointer(call->args[i], &call->serial);
	/* (PF, index of the VF) */
	if (index == VFRACE_IS_PF &&
	    (!strcmp(call->name, "pci_iov_remove_virtfn") || !strcmp(call->name, "pci_iov_add_virtfn"))) {
		call->serial = 0;
		return (int)call->args[1];
	}
	return index == VFRACE_IS_NONE ? vfrace_platform_subject(call) : index;
}

void vfrace_call_enter(struct vfrace_call *call)
{
	const struct observed *about = by_slot[call->slot];

	if (about && about->kind == CREATES)
		vfrace_functions_created((struct pci_dev *)call->args[0]);
	call->index = VFRACE_IS_NONE;
	call->side = VFRACE_NO_SIDE;
	if (!READ_ONCE(enabled))
		goto released;
	call->index = subject_of(call);
	if (call->index == VFRACE_IS_NONE && about && about->kind == FREES)
		call->index = vfrace_index_of_released(call->args[0], &call->serial);
	vfrace_unplug_watch(call, true);
	call->side = vfrace_side_of(current);
	if (call->side != VFRACE_NO_SIDE && about && !strcmp(about->name, "pci_stop_and_remove_bus_device"))
		WRITE_ONCE(vfrace_sides[call->side].committed, true);
	if (about) {
		switch (about->kind) {
		case FREES:
			/* It is wrapped to be counted. */
			if (READ_ONCE(reduced))
				break;
			fallthrough;
		case REPORTED:
			call->reported = call->index != VFRACE_IS_NONE ||
					 (READ_ONCE(tracing) && call->side != VFRACE_NO_SIDE);
			break;
		case TRACED:
		case CREATES:
			call->reported = READ_ONCE(tracing) && call->side != VFRACE_NO_SIDE;
			break;
		case SLEEPS:
			/* ssleep(1) of sriov_disable(), which lets the hardware settle */
			call->replaced = READ_ONCE(awake) && call->side != VFRACE_NO_SIDE &&
					 call->args[0] >= LONG_SLEEP_MS;
			call->reported = call->replaced;
			break;
		default:
			break;
		}
		if (call->reported)
			report_enter(call);
	}
	vfrace_points_at(call, true);
	/* behind the points: who has the lock now is what the task waits for */
	if (about && is_lock(about->kind))
		lock_enter(call, about->kind);
released:
	/* behind the points: up to here it is one of ours */
	if (about && about->kind == FREES)
		vfrace_functions_released(to_pci_dev((struct device *)call->args[0]));
}

void vfrace_call_return(struct vfrace_call *call)
{
	const struct observed *about = by_slot[call->slot];

	if (call->reported) {
		if (is_lock(about->kind))
			lock_return(call, about->kind);
		else
			report_return(call);
	}
	if (READ_ONCE(enabled)) {
		vfrace_points_at(call, false);
		vfrace_unplug_watch(call, false);
	}
}

/* --- what it costs --- */

#define QUIET_RUNS	20
#define QUIET_CALLS	50		/* of a run */
#define REPORTED_RUNS	24		/* of one call with two reports: fewer than fit at once */

static const struct observed about_nothing = { "vfrace_nothing", REPORTED };

/* Not static: ftrace finds it by its name. */
noinline unsigned long vfrace_nothing(struct pci_dev *dev);
noinline unsigned long vfrace_nothing(struct pci_dev *dev)
{
	barrier();
	return (unsigned long)dev;
}

/* Nanoseconds of a call: of the fastest run, the others were interrupted. */
static u64 time_calls(struct pci_dev *dev, unsigned int runs, unsigned int calls)
{
	u64 best = U64_MAX;
	unsigned int i;

	for (; runs; runs--) {
		u64 began = ktime_get_mono_fast_ns();

		for (i = 0; i < calls; i++)
			vfrace_nothing(dev);
		best = min(best, ktime_get_mono_fast_ns() - began);
	}
	return div_u64(best, calls);
}

/* What a wrapped function costs its caller. While nothing is armed. */
int vfrace_calls_cost(void)
{
	struct pci_dev *pf;
	u64 args[4];
	int slot;

	vfrace_functions_learn(false);
	pf = vfrace_get_pf();
	if (!pf)
		return -ENODEV;
	args[0] = time_calls(NULL, QUIET_RUNS, QUIET_CALLS);
	slot = vfrace_wrap(about_nothing.name);
	if (slot < 0) {
		pci_dev_put(pf);
		return slot;
	}
	by_slot[slot] = &about_nothing;
	args[1] = time_calls(NULL, QUIET_RUNS, QUIET_CALLS);
	WRITE_ONCE(enabled, true);
	args[2] = time_calls(NULL, QUIET_RUNS, QUIET_CALLS);
	args[3] = time_calls(pf, REPORTED_RUNS, 1);
	WRITE_ONCE(enabled, false);
	vfrace_unwrap(about_nothing.name);
	pci_dev_put(pf);
	vfrace_report(VFRACE_REPORT_COST, args, ARRAY_SIZE(args), NULL);
	return 0;
}

int vfrace_calls_init(void)
{
	int ret;

	BUILD_BUG_ON(ARRAY_SIZE(observed) + 1 > VFRACE_SLOTS);
	ret = vfrace_wrap_init();
	if (ret)
		return ret;
	ret = wrap_observed(REPORTED);
	return ret ? ret : vfrace_wrap_begin();
}
