// SPDX-License-Identifier: GPL-2.0-only
/*
 * vfrace: the guest's half of a test of SR-IOV teardown against unplug.
 *
 * The host sends commands and unplug events through a virtio device (mailbox.c). This module plays the platform that
 * takes a VF away (unplug.c), reports who enters which function of the PCI core (calls.c), measures what should not
 * have changed (invariants.c), and hands shell commands to init (agent.c).
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/uaccess.h>

#include "vfrace.h"

struct mutex *vfrace_lock;
void (*vfrace_iov_remove_virtfn)(struct pci_dev *pf, int id);

unsigned int (*vfrace_stack_save_regs)(struct pt_regs *regs, unsigned long *store, unsigned int size,
					unsigned int skip);
static int (*iov_virtfn_bus)(struct pci_dev *pf, int id);

static unsigned long (*lookup_name)(const char *name);

/* The PF's place, and where its VFs are: routing id of VF 0 and distance to the next. */
static struct {
	unsigned int domain, bus, devfn;
	unsigned int first, stride, count;
} pf_place = { .devfn = ~0u };

unsigned long vfrace_symbol(const char *name)
{
	return lookup_name(name);
}

/* mutex.c keeps the owner in the upper bits of the word and flags in the lower three (MUTEX_FLAGS). */
static struct task_struct *lock_owner_task(void)
{
	return (struct task_struct *)(atomic_long_read(&vfrace_lock->owner) & ~7ul);
}

bool vfrace_lock_is_mine(void)
{
	return lock_owner_task() == current;
}

pid_t vfrace_lock_owner(void)
{
	struct task_struct *owner = lock_owner_task();
	pid_t pid = 0;

	/* The owner may be exiting: read its pid without trusting the pointer. */
	if (owner && copy_from_kernel_nofault(&pid, &owner->pid, sizeof(pid)))
		return -1;
	return pid;
}

struct pci_dev *vfrace_get_pf(void)
{
	if (pf_place.devfn == ~0u)
		return NULL;
	return pci_get_domain_bus_and_slot(pf_place.domain, pf_place.bus, pf_place.devfn);
}

/* By place, not by pointer: a VF that is being removed must not be asked for its physfn. */
int vfrace_index_of(struct pci_dev *dev)
{
	unsigned int rid = PCI_DEVID(dev->bus->number, dev->devfn);

	if (pci_domain_nr(dev->bus) != pf_place.domain)
		return VFRACE_IS_NONE;
	if (!dev->is_virtfn)
		return rid == PCI_DEVID(pf_place.bus, pf_place.devfn) ? VFRACE_IS_PF : VFRACE_IS_NONE;
	if (!pf_place.stride || rid < pf_place.first || (rid - pf_place.first) % pf_place.stride ||
	    (rid - pf_place.first) / pf_place.stride >= pf_place.count)
		return VFRACE_IS_NONE;
	return (rid - pf_place.first) / pf_place.stride;
}

/* Routing id of VF @id, as pci_iov_remove_virtfn() computes it. */
unsigned int vfrace_vf_rid(struct pci_dev *pf, int id)
{
	return PCI_DEVID(iov_virtfn_bus(pf, id), pci_iov_virtfn_devfn(pf, id));
}

static void learn_vfs(void)
{
	struct pci_dev *pf = vfrace_get_pf();

	pf_place.count = 0;
	if (!pf) {
		vfrace_fail("there is no PF at the address given");
		return;
	}
	if (pci_num_vf(pf)) {
		pf_place.first = vfrace_vf_rid(pf, 0);
		pf_place.stride = pci_num_vf(pf) > 1 ? vfrace_vf_rid(pf, 1) - pf_place.first : 1;
		pf_place.count = pci_num_vf(pf);
	}
	pci_dev_put(pf);
}

static void set_pf(const char *text)
{
	unsigned int domain, bus, slot, func;

	if (sscanf(text, "%x:%x:%x.%x", &domain, &bus, &slot, &func) != 4) {
		vfrace_fail("not a PCI address: %s", text);
		return;
	}
	pf_place.domain = domain;
	pf_place.bus = bus;
	pf_place.devfn = PCI_DEVFN(slot, func);
}

void vfrace_command(u32 id, u32 kind, char *text)
{
	u64 done[2] = { id, 0 };

	switch (kind) {
	case VFRACE_COMMAND_EXEC:
		vfrace_agent_push(id, text);
		return;				/* init says when it is done */
	case VFRACE_COMMAND_PF:
		set_pf(text);
		break;
	case VFRACE_COMMAND_ARM:
		learn_vfs();
		vfrace_calls_enable(true);
		vfrace_unplug_arm(!strcmp(text, "unplug"));
		break;
	case VFRACE_COMMAND_DISARM:
		vfrace_unplug_arm(false);
		vfrace_calls_enable(false);
		break;
	case VFRACE_COMMAND_MEASURE:
		vfrace_measure(text);
		break;
	default:
		vfrace_fail("unknown command %u", kind);
		done[1] = 1;
	}
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

	vfrace_lock = (void *)vfrace_symbol("pci_rescan_remove_lock");
	vfrace_iov_remove_virtfn = (void *)vfrace_symbol("pci_iov_remove_virtfn");
	iov_virtfn_bus = (void *)vfrace_symbol("pci_iov_virtfn_bus");
	vfrace_stack_save_regs = (void *)vfrace_symbol("stack_trace_save_regs");
	if (!vfrace_lock || !vfrace_iov_remove_virtfn || !iov_virtfn_bus || !vfrace_stack_save_regs) {
		pr_err("this kernel lacks one of pci_rescan_remove_lock, pci_iov_remove_virtfn, pci_iov_virtfn_bus, stack_trace_save_regs\n");
		return -ENOENT;
	}
	return 0;
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
	/* Probes before the polling thread: patching waits for every task to schedule, a spinning one never does. */
	ret = vfrace_calls_init();
	if (ret)
		goto no_calls;
	ret = vfrace_mailbox_init();
	if (ret)
		goto no_mailbox;
	ret = vfrace_unplug_init();
	if (ret)
		goto no_unplug;
	return 0;

no_unplug:
	vfrace_mailbox_exit();
no_mailbox:
	vfrace_calls_exit();
no_calls:
	vfrace_agent_exit();
	return ret;
}

static void __exit vfrace_exit(void)
{
	vfrace_unplug_exit();
	vfrace_mailbox_exit();
	vfrace_calls_exit();
	vfrace_agent_exit();
}

module_init(vfrace_init);
module_exit(vfrace_exit);
MODULE_DESCRIPTION("Guest half of vfrace: mailbox, platform unplug, observations of SR-IOV teardown");
MODULE_LICENSE("GPL");
