// SPDX-License-Identifier: GPL-2.0-only
/*
 * vfrace: the guest's half of a test of SR-IOV teardown against unplug.
 *
 * The host sends commands and unplug events through a virtio device (mailbox.c). This module plays the platform that
 * takes a VF away (unplug.c), stands at the entry of functions of the PCI core (wrap.c), reports who calls them
 * (calls.c) and holds a task there (points.c), knows who has which lock (locks.c), measures what should not have
 * changed (invariants.c, lists.c), and hands shell commands to init (agent.c).
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kprobes.h>
#include <linux/module.h>

#include "vfrace.h"

struct mutex *vfrace_lock;
void (*vfrace_iov_remove_virtfn)(struct pci_dev *pf, int id);

static unsigned long (*lookup_name)(const char *name);
static int (*lookup_size)(unsigned long address, unsigned long *size, unsigned long *offset);

unsigned long vfrace_symbol(const char *name)
{
	return lookup_name(name);
}

/* Bytes of the function at @address, 0 if it is unknown. */
unsigned long vfrace_symbol_size(unsigned long address)
{
	unsigned long size = 0, offset;

	return lookup_size(address, &size, &offset) ? size : 0;
}

/*
 * unplug: poll for one unplug; spin: without sleeping; trace: report all calls that are known of both sides; nosleep:
 * the teardown's long sleep returns at once; few: nothing is wrapped but what the judge cannot do without.
 */
static void arm(const char *text)
{
	vfrace_sides_reset();
	vfrace_points_reset();
	vfrace_functions_learn(true);
	if (strstr(text, "few"))
		vfrace_calls_reduce();
	vfrace_calls_enable(true, strstr(text, "trace"), strstr(text, "nosleep"));
	vfrace_sides_watch(true);
	vfrace_unplug_arm(strstr(text, "unplug"), strstr(text, "spin"));
}

void vfrace_command(u32 id, u32 kind, char *text)
{
	u64 done[2] = { id, 0 };
	int ret = 0;

	switch (kind) {
	case VFRACE_COMMAND_EXEC:
		vfrace_agent_push(id, text);
		return;				/* init says when it is done */
	case VFRACE_COMMAND_PF:
		vfrace_functions_set_pf(text);
		break;
	case VFRACE_COMMAND_ARM:
		arm(text);
		break;
	case VFRACE_COMMAND_DISARM:
		vfrace_sides_watch(false);
		vfrace_unplug_arm(false, false);
		vfrace_calls_enable(false, false, false);
		break;
	case VFRACE_COMMAND_MEASURE:
		vfrace_measure(text);
		break;
	case VFRACE_COMMAND_POINT:
		if (*text)
			ret = vfrace_point_add(text);
		else
			vfrace_points_clear();
		break;
	case VFRACE_COMMAND_UNPLUG:
		ret = vfrace_unplug_set(text);
		break;
	case VFRACE_COMMAND_STATES:
		vfrace_sides_report();
		break;
	case VFRACE_COMMAND_REPAIR:
		ret = vfrace_repair(text);
		break;
	case VFRACE_COMMAND_COST:
		ret = vfrace_calls_cost();
		break;
	default:
		vfrace_fail("unknown command %u", kind);
		ret = -EINVAL;
	}
	done[1] = (s64)ret;
	vfrace_report(VFRACE_REPORT_DONE, done, 2, NULL);
}

/* kallsyms_lookup_name() is not exported; a kprobe can name it and tells where it is. */
static int __init find_symbols(void)
{
	struct kprobe kp = { .symbol_name = "kallsyms_lookup_name" };
	int ret = register_kprobe(&kp);

	if (ret)
		return ret;
	/* with IBT the probe sits behind the landing pad: the entry is what kallsyms says */
	lookup_name = (void *)kp.addr;
	unregister_kprobe(&kp);
	lookup_name = (void *)lookup_name("kallsyms_lookup_name");

	lookup_size = (void *)vfrace_symbol("kallsyms_lookup_size_offset");
	vfrace_lock = (void *)vfrace_symbol("pci_rescan_remove_lock");
	vfrace_iov_remove_virtfn = (void *)vfrace_symbol("pci_iov_remove_virtfn");
	if (!vfrace_lock || !vfrace_iov_remove_virtfn || !lookup_size) {
		pr_err("this kernel lacks one of pci_rescan_remove_lock, pci_iov_remove_virtfn, kallsyms_lookup_size_offset\n");
		return -ENOENT;
	}
	vfrace_locks_init();
	return vfrace_functions_init();
}

static int __init vfrace_init(void)
{
	int ret;

	ret = find_symbols();
	if (ret)
		return ret;
	ret = vfrace_agent_init();
	if (ret)
		return ret;
	/* Before the polling thread: patching waits for every task to schedule, a spinning one never does. */
	ret = vfrace_calls_init();
	if (ret)
		goto no_calls;
	ret = vfrace_mailbox_init();
	if (ret)
		goto no_calls;
	ret = vfrace_unplug_init();
	if (ret)
		goto no_unplug;
	return 0;

no_unplug:
	vfrace_mailbox_exit();
no_calls:
	vfrace_calls_enable(false, false, false);
	vfrace_wrap_exit();
	vfrace_agent_exit();
	return ret;
}

static void __exit vfrace_exit(void)
{
	vfrace_sides_watch(false);
	vfrace_calls_enable(false, false, false);
	vfrace_unplug_exit();
	vfrace_mailbox_exit();
	vfrace_wrap_exit();
	vfrace_sides_reset();
	vfrace_agent_exit();
}

module_init(vfrace_init);
module_exit(vfrace_exit);
MODULE_DESCRIPTION("Guest half of vfrace: mailbox, unplug, call points, observations of SR-IOV teardown");
MODULE_LICENSE("GPL");
