// SPDX-License-Identifier: GPL-2.0-only
/* The PF, its VFs and the bridge above them: which of them a call is about, which lock is whose. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/spinlock.h>

#include "vfrace.h"

#define KNOWN	VFRACE_KNOWN
#define RELEASED	512		/* the last ones that were released */

static int (*iov_virtfn_bus)(struct pci_dev *pf, int id);

/* The PF's place, and where its VFs are: routing id of VF 0 and distance to the next. */
static struct {
	unsigned int domain, bus, devfn;
	unsigned int first, stride, count;
} pf_place = { .devfn = ~0u };

/* pci_devs of ours that are not released yet. Read without the lock; a slot that changes is one of another device. */
struct one {
	struct pci_dev *dev;
	int index;
	u64 serial;
};

static struct one known[KNOWN];
static unsigned int high;		/* no place from here on was ever used */
/* Where pci_devs of ours were. A place is one no more when another pci_dev comes to be there. */
static struct one gone[RELEASED];
static unsigned int next_gone;
static u64 last_serial;
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
	if (!vfrace_is_vf(dev))
		return rid == PCI_DEVID(pf_place.bus, pf_place.devfn) ? VFRACE_IS_PF : VFRACE_IS_NONE;
	if (!pf_place.stride || rid < pf_place.first || (rid - pf_place.first) % pf_place.stride ||
	    (rid - pf_place.first) / pf_place.stride >= pf_place.count)
		return VFRACE_IS_NONE;
	return (rid - pf_place.first) / pf_place.stride;
}

static bool is_about(const struct pci_dev *dev, unsigned long pointer)
{
	/* the kobject is the first member of the device */
	return dev && (pointer == (unsigned long)dev || pointer == (unsigned long)&dev->dev);
}

int vfrace_index_of_pointer(unsigned long pointer, u64 *serial)
{
	unsigned int i, n = READ_ONCE(high);

	if (!pointer)
		return VFRACE_IS_NONE;
	for (i = 0; i < n; i++) {
		if (!is_about(READ_ONCE(known[i].dev), pointer))
			continue;
		*serial = READ_ONCE(known[i].serial);
		return READ_ONCE(known[i].index);
	}
	return VFRACE_IS_NONE;
}

/* Which function was at @pointer, if it was released and nothing else came to be there. */
int vfrace_index_of_released(unsigned long pointer, u64 *serial)
{
	unsigned long flags;
	unsigned int i;
	int index = VFRACE_IS_NONE;

	raw_spin_lock_irqsave(&known_lock, flags);
	for (i = 0; i < RELEASED; i++) {
		if (!is_about(gone[i].dev, pointer))
			continue;
		*serial = gone[i].serial;
		index = gone[i].index;
	}
	raw_spin_unlock_irqrestore(&known_lock, flags);
	return index;
}

bool vfrace_known(unsigned int at, struct pci_dev **dev, int *index)
{
	if (at >= READ_ONCE(high))
		return false;
	*dev = READ_ONCE(known[at].dev);
	*index = READ_ONCE(known[at].index);
	return true;
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
	if (i == KNOWN && free < KNOWN) {
		i = free;
		known[i].serial = ++last_serial;
	}
	if (i < KNOWN) {
		known[i].index = index;
		WRITE_ONCE(known[i].dev, dev);
		if (i >= high)
			WRITE_ONCE(high, i + 1);
	}
	raw_spin_unlock_irqrestore(&known_lock, flags);
}

void vfrace_functions_created(struct pci_dev *dev)
{
	int index = vfrace_index_of(dev);
	unsigned long flags;
	unsigned int i;

	if (vfrace_is_vf(dev))
		atomic64_inc(&created);
	raw_spin_lock_irqsave(&known_lock, flags);
	for (i = 0; i < RELEASED; i++)
		if (gone[i].dev == dev)
			gone[i].dev = NULL;
	raw_spin_unlock_irqrestore(&known_lock, flags);
	if (index != VFRACE_IS_NONE)
		remember(dev, index);
}

void vfrace_functions_released(struct pci_dev *dev)
{
	unsigned long flags;
	unsigned int i;
	u64 serial;

	/* A second time: the memory is no pci_dev any more. */
	if (vfrace_index_of_released((unsigned long)dev, &serial) >= 0) {
		atomic64_inc(&released);
		return;
	}
	if (vfrace_is_vf(dev))
		atomic64_inc(&released);
	raw_spin_lock_irqsave(&known_lock, flags);
	for (i = 0; i < high; i++) {
		if (known[i].dev != dev)
			continue;
		gone[next_gone] = known[i];
		next_gone = (next_gone + 1) % RELEASED;
		WRITE_ONCE(known[i].dev, NULL);
	}
	raw_spin_unlock_irqrestore(&known_lock, flags);
}

/* None of them is released while this looks: that takes the same lock first. */
unsigned int vfrace_functions_snapshot(struct vfrace_function *functions)
{
	unsigned long flags;
	unsigned int i, n = 0;

	raw_spin_lock_irqsave(&known_lock, flags);
	for (i = 0; i < high; i++) {
		struct pci_dev *dev = known[i].dev;

		if (!dev)
			continue;
		functions[n++] = (struct vfrace_function) {
			.dev = dev,
			.index = known[i].index,
			.references = kref_read(&dev->dev.kobj.kref),
			.registered = device_is_registered(&dev->dev),
			.p = dev->dev.p,
			.parent = dev->dev.parent,
			.driver = dev->dev.driver,
			.bus = dev->bus,
		};
	}
	raw_spin_unlock_irqrestore(&known_lock, flags);
	return n;
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

unsigned int vfrace_domain(void)
{
	return pf_place.domain;
}

/* Buses of the machine stay while nothing is going on. */
struct pci_bus *vfrace_bus(void)
{
	return pf_place.devfn == ~0u ? NULL : pci_find_bus(pf_place.domain, pf_place.bus);
}

struct pci_bus *vfrace_vf_bus(struct pci_dev *pf)
{
	unsigned int number;

	if (!pci_sriov_get_totalvfs(pf))
		return NULL;
	number = PCI_BUS_NUM(vf_rid(pf, 0));
	return number == pf->bus->number ? NULL : pci_find_bus(pci_domain_nr(pf->bus), number);
}

/* While nothing is armed. Without a PF nothing changes, which is an error if it is @required. */
void vfrace_functions_learn(bool required)
{
	struct pci_dev *pf = vfrace_get_pf(), *dev;
	int i;

	if (!pf) {
		if (required)
			vfrace_fail("there is no PF at the address given");
		return;
	}
	pf_place.count = 0;
	vfrace_platform_learn(pf);
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

int vfrace_functions_init(void)
{
	iov_virtfn_bus = (void *)vfrace_symbol("pci_iov_virtfn_bus");
	return iov_virtfn_bus ? 0 : -ENOENT;
}
