// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who enters which function of the PCI core, for which VF, from where.
 *
 * The probes sit on function entries and go through ftrace (CONFIG_KPROBES_ON_FTRACE): a probe that traps would need
 * QEMU's global lock and stand still while the host holds an answer. They only look; they change nothing but timing.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/device.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/sched.h>

#include "vfrace.h"

#define FRAMES	8

enum subject {
	ON_PF_AND_INDEX,		/* f(struct pci_dev *pf, int id) */
	ON_PCI_DEV,			/* f(struct pci_dev *) */
	ON_DEVICE,			/* f(struct device *) that may belong to a pci_dev */
};

struct call {
	struct kretprobe probe;
	enum subject subject;
	bool required;
};

static bool enabled;
static atomic64_t created, released;

u64 vfrace_created(void)
{
	return atomic64_read(&created);
}

u64 vfrace_released(void)
{
	return atomic64_read(&released);
}

void vfrace_calls_enable(bool on)
{
	WRITE_ONCE(enabled, on);
}

/* --- calls that are reported with their stack --- */

static int subject_of(struct call *call, struct pt_regs *regs)
{
	struct device *dev;

	switch (call->subject) {
	case ON_PF_AND_INDEX:
		return regs_get_kernel_argument(regs, 1);
	case ON_PCI_DEV:
		return vfrace_index_of((struct pci_dev *)regs_get_kernel_argument(regs, 0));
	case ON_DEVICE:
		dev = (struct device *)regs_get_kernel_argument(regs, 0);
		if (dev->bus == &pci_bus_type)
			return vfrace_index_of(to_pci_dev(dev));
	}
	return VFRACE_IS_NONE;
}

static void report_enter(const char *name, int index, struct pt_regs *regs)
{
	unsigned long frames[FRAMES];
	char text[VFRACE_REPORT_TEXT];
	unsigned int i, n;
	u64 arg = (s64)index;
	int at;

	/* the first frame is the function itself */
	n = vfrace_stack_save_regs(regs, frames, ARRAY_SIZE(frames), 1);
	at = scnprintf(text, sizeof(text), "%s", name);
	for (i = 0; i < n; i++)
		at += scnprintf(text + at, sizeof(text) - at, " %ps", (void *)frames[i]);
	vfrace_report(VFRACE_REPORT_ENTER, &arg, 1, text);
}

static int call_enter(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct call *call = container_of(get_kretprobe(ri), struct call, probe);
	int *index = (int *)ri->data;

	*index = VFRACE_IS_NONE;
	if (READ_ONCE(enabled))
		*index = subject_of(call, regs);
	if (*index == VFRACE_IS_NONE)
		return 1;		/* the return is of no interest */
	report_enter(call->probe.kp.symbol_name, *index, regs);
	return 0;
}
NOKPROBE_SYMBOL(call_enter);

static int call_return(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	u64 arg = (s64)*(int *)ri->data;

	vfrace_report(VFRACE_REPORT_RETURN, &arg, 1, get_kretprobe(ri)->kp.symbol_name);
	return 0;
}
NOKPROBE_SYMBOL(call_return);

#define CALL(name, on, need) {					\
	.probe = {						\
		.kp.symbol_name = name,				\
		.entry_handler = call_enter,			\
		.handler = call_return,				\
		.data_size = sizeof(int),			\
		.maxactive = 64,				\
	},							\
	.subject = on,						\
	.required = need,					\
}

static struct call calls[] = {
	CALL("sriov_disable", ON_PCI_DEV, true),
	CALL("pci_iov_remove_virtfn", ON_PF_AND_INDEX, true),
	CALL("pci_stop_and_remove_bus_device", ON_PCI_DEV, true),
	CALL("device_del", ON_DEVICE, true),
	CALL("virtio_pci_remove", ON_PCI_DEV, false),
};

/* --- the lock --- */

/*
 * The variants v1..v5 take the lock in helpers that may or may not call the plain functions. A task inside a helper is
 * listed here, so that what the helper does inside is not reported twice.
 */
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

struct lock_call {
	struct kretprobe probe;
	bool takes;			/* as against: releases */
	bool helper;
	bool required;
	bool registered;
};

static int lock_enter(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct lock_call *call = container_of(get_kretprobe(ri), struct lock_call, probe);
	bool *mine = (bool *)ri->data;
	u64 owner;

	if (!READ_ONCE(enabled) || helper_mark(current, current))
		return 1;
	if (call->helper)
		helper_mark(NULL, current);
	*mine = vfrace_lock_is_mine();
	if (call->takes) {
		owner = vfrace_lock_owner();
		vfrace_report(VFRACE_REPORT_LOCK_WAIT, &owner, 1, NULL);
	} else {
		vfrace_report(VFRACE_REPORT_LOCK_RELEASE, NULL, 0, NULL);
	}
	return 0;
}
NOKPROBE_SYMBOL(lock_enter);

static int lock_return(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct lock_call *call = container_of(get_kretprobe(ri), struct lock_call, probe);
	u64 nested = *(bool *)ri->data;

	if (call->helper)
		helper_mark(current, NULL);
	if (call->takes)
		vfrace_report(VFRACE_REPORT_LOCK_TAKEN, &nested, 1, NULL);
	return 0;
}
NOKPROBE_SYMBOL(lock_return);

#define LOCK_CALL(name, take, help, need) {			\
	.probe = {						\
		.kp.symbol_name = name,				\
		.entry_handler = lock_enter,			\
		.handler = lock_return,				\
		.data_size = sizeof(bool),			\
		.maxactive = 64,				\
	},							\
	.takes = take,						\
	.helper = help,						\
	.required = need,					\
}

static struct lock_call lock_calls[] = {
	LOCK_CALL("pci_lock_rescan_remove", true, false, true),
	LOCK_CALL("pci_unlock_rescan_remove", false, false, true),
	LOCK_CALL("pci_lock_rescan_remove_nested", true, true, false),
	LOCK_CALL("pci_lock_rescan_remove_reentrant", true, true, false),
	LOCK_CALL("pci_unlock_rescan_remove_reentrant", false, true, false),
};

/* --- life and death of VFs, always counted --- */

static int count_created(struct kprobe *kp, struct pt_regs *regs)
{
	struct pci_dev *dev = (struct pci_dev *)regs_get_kernel_argument(regs, 0);

	if (dev->is_virtfn)
		atomic64_inc(&created);
	return 0;
}

static int count_released(struct kprobe *kp, struct pt_regs *regs)
{
	struct pci_dev *dev = to_pci_dev((struct device *)regs_get_kernel_argument(regs, 0));

	if (dev->is_virtfn)
		atomic64_inc(&released);
	return 0;
}

static struct kprobe counters[] = {
	{ .symbol_name = "pci_device_add", .pre_handler = count_created },
	{ .symbol_name = "pci_release_dev", .pre_handler = count_released },
};

static bool call_registered[ARRAY_SIZE(calls)];
static unsigned int ncounters;

void vfrace_calls_exit(void)
{
	unsigned int i;

	vfrace_calls_enable(false);
	for (i = 0; i < ARRAY_SIZE(calls); i++)
		if (call_registered[i])
			unregister_kretprobe(&calls[i].probe);
	for (i = 0; i < ARRAY_SIZE(lock_calls); i++)
		if (lock_calls[i].registered)
			unregister_kretprobe(&lock_calls[i].probe);
	while (ncounters)
		unregister_kprobe(&counters[--ncounters]);
}

int vfrace_calls_init(void)
{
	unsigned int i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(calls); i++) {
		ret = register_kretprobe(&calls[i].probe);
		call_registered[i] = !ret;
		if (ret && calls[i].required) {
			pr_err("cannot observe %s (%d)\n", calls[i].probe.kp.symbol_name, ret);
			goto undo;
		}
	}
	for (i = 0; i < ARRAY_SIZE(lock_calls); i++) {
		ret = register_kretprobe(&lock_calls[i].probe);
		lock_calls[i].registered = !ret;
		if (ret && lock_calls[i].required) {
			pr_err("cannot observe %s (%d)\n", lock_calls[i].probe.kp.symbol_name, ret);
			goto undo;
		}
	}
	for (; ncounters < ARRAY_SIZE(counters); ncounters++) {
		ret = register_kprobe(&counters[ncounters]);
		if (ret) {
			pr_err("cannot observe %s (%d)\n", counters[ncounters].symbol_name, ret);
			goto undo;
		}
	}
	return 0;

undo:
	vfrace_calls_exit();
	return ret;
}
