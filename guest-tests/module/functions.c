// SPDX-License-Identifier: GPL-2.0-only
/* The PF, its VFs and the bridge above them: which of them a call is about, which lock is whose. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/version.h>

#include "vfrace.h"

#define KNOWN	(256 + 8)		/* with room for some that wait to be released */

static int (*iov_virtfn_bus)(struct pci_dev *pf, int id);

/* The PF's place, and where its VFs are: routing id of VF 0 and distance to the next. */
static struct {
	unsigned int domain, bus, devfn;
	unsigned int first, stride, count;
} pf_place = { .devfn = ~0u };

/* pci_devs of ours that are not released yet. Read without the lock; a slot that changes is one of another device. */
static struct {
	struct pci_dev *dev;
	int index;
} known[KNOWN];
static DEFINE_RAW_SPINLOCK(known_lock);
static atomic64_t created, released;

u64 vfrace_created(void)
{
	return atomic64_read(&created);
}

u64 vfrace_released(void)
{
	return atomic64_read(&released);
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

int vfrace_index_of_pointer(unsigned long pointer)
{
	unsigned int i;

	if (!pointer)
		return VFRACE_IS_NONE;
	for (i = 0; i < KNOWN; i++) {
		struct pci_dev *dev = READ_ONCE(known[i].dev);

		/* the kobject is the first member of the device */
		if (dev && (pointer == (unsigned long)dev || pointer == (unsigned long)&dev->dev))
			return READ_ONCE(known[i].index);
	}
	return VFRACE_IS_NONE;
}

static void remember(struct pci_dev *dev, int index)
{
	unsigned long flags;
	unsigned int i, free = KNOWN;

	raw_spin_lock_irqsave(&known_lock, flags);
	for (i = 0; i < KNOWN; i++) {
		if (known[i].dev == dev)
			break;
		if (!known[i].dev && free == KNOWN)
			free = i;
	}
	if (i == KNOWN)
		i = free;
	if (i < KNOWN) {
		known[i].index = index;
		WRITE_ONCE(known[i].dev, dev);
	}
	raw_spin_unlock_irqrestore(&known_lock, flags);
}

void vfrace_functions_created(struct pci_dev *dev)
{
	int index = vfrace_index_of(dev);

	if (dev->is_virtfn)
		atomic64_inc(&created);
	if (index != VFRACE_IS_NONE)
		remember(dev, index);
}

void vfrace_functions_released(struct pci_dev *dev)
{
	unsigned long flags;
	unsigned int i;

	if (dev->is_virtfn)
		atomic64_inc(&released);
	raw_spin_lock_irqsave(&known_lock, flags);
	for (i = 0; i < KNOWN; i++)
		if (known[i].dev == dev)
			WRITE_ONCE(known[i].dev, NULL);
	raw_spin_unlock_irqrestore(&known_lock, flags);
}

/* Routing id of VF @id, as pci_iov_remove_virtfn() computes it. */
static unsigned int vf_rid(struct pci_dev *pf, int id)
{
	return PCI_DEVID(iov_virtfn_bus(pf, id), pci_iov_virtfn_devfn(pf, id));
}

struct pci_dev *vfrace_get_function(int index)
{
	struct pci_dev *pf = vfrace_get_pf(), *dev = NULL;
	unsigned int rid;

	if (!pf || index == VFRACE_IS_PF)
		return pf;
	if (index == VFRACE_IS_BRIDGE) {
		dev = pci_dev_get(pci_upstream_bridge(pf));
	} else if (index >= 0 && index < pci_sriov_get_totalvfs(pf)) {
		rid = vf_rid(pf, index);
		dev = pci_get_domain_bus_and_slot(pci_domain_nr(pf->bus), PCI_BUS_NUM(rid), rid & 0xff);
	}
	pci_dev_put(pf);
	return dev;
}

void vfrace_functions_learn(void)
{
	struct pci_dev *pf = vfrace_get_pf(), *dev;
	int i;

	pf_place.count = 0;
	if (!pf) {
		vfrace_fail("there is no PF at the address given");
		return;
	}
	remember(pf, VFRACE_IS_PF);
	dev = pci_upstream_bridge(pf);
	if (dev)
		remember(dev, VFRACE_IS_BRIDGE);
	/* Where they will be is known before they are there. */
	pf_place.count = pci_sriov_get_totalvfs(pf);
	if (pf_place.count) {
		pf_place.first = vf_rid(pf, 0);
		pf_place.stride = pf_place.count > 1 ? vf_rid(pf, 1) - pf_place.first : 1;
	}
	for (i = 0; i < pci_num_vf(pf); i++) {
		dev = vfrace_get_function(i);
		if (dev)
			remember(dev, i);
		pci_dev_put(dev);
	}
	pci_dev_put(pf);
}

void vfrace_functions_set_pf(const char *text)
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

/* --- locks --- */

/* "rescan": pci_rescan_remove_lock; "device": the device_lock of function @index. */
struct mutex *vfrace_lock_by_name(const char *name, int index)
{
	unsigned int i;

	if (!strcmp(name, "rescan"))
		return vfrace_lock;
	for (i = 0; i < KNOWN; i++) {
		struct pci_dev *dev = READ_ONCE(known[i].dev);

		if (dev && known[i].index == index)
			return &dev->dev.mutex;
	}
	return NULL;
}

int vfrace_lock_name(struct mutex *lock, char *text, size_t size)
{
	unsigned int i;

	if (lock == vfrace_lock)
		return scnprintf(text, size, "pci_rescan_remove_lock");
	for (i = 0; i < KNOWN; i++) {
		struct pci_dev *dev = READ_ONCE(known[i].dev);

		if (!dev || lock != &dev->dev.mutex)
			continue;
		switch (known[i].index) {
		case VFRACE_IS_PF:
			return scnprintf(text, size, "device_lock(pf)");
		case VFRACE_IS_BRIDGE:
			return scnprintf(text, size, "device_lock(bridge)");
		default:
			return scnprintf(text, size, "device_lock(vf%d)", known[i].index + 1);
		}
	}
	return scnprintf(text, size, "mutex:%ps", lock);
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0)
struct mutex *vfrace_blocked_on(struct task_struct *task)
{
	return READ_ONCE(task->blocked_on);
}
#else
/* Older kernels note the waiter, which does not name its lock: look for the task among the waiters of the locks we know. */
static bool waits_for(struct mutex *lock, struct task_struct *task)
{
	struct waiter {			/* the head of struct mutex_waiter, kernel/locking/mutex.h */
		struct list_head list;
		struct task_struct *task;
	} *waiter;
	unsigned long flags;
	bool found = false;

	raw_spin_lock_irqsave(&lock->wait_lock, flags);
	list_for_each_entry(waiter, &lock->wait_list, list)
		found = found || waiter->task == task;
	raw_spin_unlock_irqrestore(&lock->wait_lock, flags);
	return found;
}

struct mutex *vfrace_blocked_on(struct task_struct *task)
{
	unsigned int i;

	if (waits_for(vfrace_lock, task))
		return vfrace_lock;
	for (i = 0; i < KNOWN; i++) {
		struct pci_dev *dev = READ_ONCE(known[i].dev);

		if (dev && waits_for(&dev->dev.mutex, task))
			return &dev->dev.mutex;
	}
	return NULL;
}
#endif

/* mutex.c keeps the owner in the upper bits of the word and flags in the lower three (MUTEX_FLAGS). */
struct task_struct *vfrace_mutex_owner(struct mutex *lock)
{
	return (struct task_struct *)(atomic_long_read(&lock->owner) & ~7ul);
}

pid_t vfrace_mutex_owner_pid(struct mutex *lock)
{
	struct task_struct *owner = vfrace_mutex_owner(lock);
	pid_t pid = 0;

	/* The owner may be exiting: read its pid without trusting the pointer. */
	if (owner && copy_from_kernel_nofault(&pid, &owner->pid, sizeof(pid)))
		return -1;
	return pid;
}

int vfrace_functions_init(void)
{
	iov_virtfn_bus = (void *)vfrace_symbol("pci_iov_virtfn_bus");
	return iov_virtfn_bus ? 0 : -ENOENT;
}
