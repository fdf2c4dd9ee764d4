// SPDX-License-Identifier: GPL-2.0-only
/*
 * The lists that functions are on, looked at while nothing is going on: bus->devices and bus->children under
 * pci_bus_sem, and the klists of parent, drivers and bus type (drivers/base/base.h) under their own locks. The klists
 * need VFRACE_KLISTS, i.e. the kernel's source; with its headers alone they are left out.
 *
 * Every link is checked both ways. Nothing in a list is trusted: links are read so that a wrong one does not fault,
 * the entries are compared by their addresses only, and no references are taken. A lock that somebody has is tried for
 * a while and not waited for: that would make us part of what we look at.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/device.h>
#include <linux/klist.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>

#ifdef VFRACE_KLISTS
#include "base.h"
#endif
#include "vfrace.h"

#define LONGEST		4096
#define LOCK_TRIES	200		/* one a millisecond */
#define LOOKS		5		/* a defect that goes away was somebody at work */
#define LOOK_MS		20
#define DRIVERS		4
#define DEAD		1ul		/* KNODE_DEAD, lib/klist.c */

enum kind { DEVICES, BUSES, CHILDREN, DRIVER, TYPE };

static struct vfrace_function functions[VFRACE_KNOWN];
static unsigned int nfunctions, counts[VFRACE_KNOWN];
static struct rw_semaphore *bus_sem;
#ifdef VFRACE_KLISTS
static struct klist *type_klist;	/* of the PCI bus type: it does not go away */
static struct device_driver *drivers[DRIVERS];	/* built in, likewise */
#endif

/* The list that is being walked. */
static struct {
	enum kind kind;
	const char *what, *owner;
	struct klist *klist;
} now;

static __printf(2, 3) void defect(struct vfrace_lists *result, const char *fmt, ...)
{
	va_list args;
	int at;

	if (result->defects++)
		return;
	at = scnprintf(result->text, sizeof(result->text), "%s of %s: ", now.what, now.owner);
	va_start(args, fmt);
	vscnprintf(result->text + at, sizeof(result->text) - at, fmt, args);
	va_end(args);
}

static const char *name_of(int index)
{
	static char name[16];

	switch (index) {
	case VFRACE_IS_PF:
		return "pf";
	case VFRACE_IS_BRIDGE:
		return "bridge";
	default:
		snprintf(name, sizeof(name), "vf%d", index + 1);
		return name;
	}
}

static bool read_links(const struct list_head *at, struct list_head *links)
{
	return !copy_from_kernel_nofault(links, at, sizeof(*links));
}

#ifdef VFRACE_KLISTS
static struct device_private *private_of(struct klist_node *knode)
{
	switch (now.kind) {
	case CHILDREN:
		return container_of(knode, struct device_private, knode_parent);
	case DRIVER:
		return container_of(knode, struct device_private, knode_driver);
	case TYPE:
		return container_of(knode, struct device_private, knode_bus);
	default:
		return NULL;
	}
}

/* The device whose entry this is. It may be gone: an address, to be compared. */
static struct device *device_at(struct device_private *p)
{
	struct device *dev = NULL;

	return copy_from_kernel_nofault(&dev, &p->device, sizeof(dev)) ? NULL : dev;
}
#else
static struct device_private *private_of(struct klist_node *knode)
{
	return NULL;
}

static struct device *device_at(struct device_private *p)
{
	return NULL;
}
#endif

static void see_device(struct vfrace_lists *result, struct list_head *node, struct klist_node *knode)
{
	struct device_private *p = NULL;
	struct pci_dev *dev = NULL;
	unsigned long address;
	unsigned int i;
	u64 serial;
	int index;

	if (now.kind == BUSES)
		return;
	if (now.kind == DEVICES)
		dev = container_of(node, struct pci_dev, bus_list);
	else
		p = private_of(knode);
	address = p ? (unsigned long)device_at(p) : (unsigned long)dev;
	for (i = 0; i < nfunctions; i++)
		if (p ? functions[i].p == p : functions[i].dev == dev)
			counts[i]++;
	index = address ? vfrace_index_of_released(address, &serial) : VFRACE_IS_NONE;
	if (index != VFRACE_IS_NONE)
		defect(result, "%s is on it, which is released", name_of(index));
}

static void see(struct vfrace_lists *result, struct list_head *node, unsigned int n)
{
	struct klist_node *knode = NULL;
	unsigned long klist = 0;

	result->entries++;
	if (now.klist) {
		knode = container_of(node, struct klist_node, n_node);
		if (copy_from_kernel_nofault(&klist, &knode->n_klist, sizeof(klist)))
			return;
		if (klist & DEAD)
			defect(result, "entry %u is dead", n);
		else if (klist != (unsigned long)now.klist)
			defect(result, "entry %u belongs to another list", n);
	}
	see_device(result, node, knode);
}

static void walk(struct vfrace_lists *result, struct list_head *head)
{
	struct list_head *at, *next, links, others;
	unsigned int n, back;

	result->lists++;
	if (!read_links(head, &links)) {
		defect(result, "the head cannot be read");
		return;
	}
	for (at = head, n = 1; n <= LONGEST; n++) {
		next = links.next;
		if (!read_links(next, &others)) {
			defect(result, "the link to entry %u leads to %px", n, next);
			return;
		}
		if (others.prev != at) {
			defect(result, "entry %u does not point back to the one before, but to %px", n, others.prev);
			return;
		}
		if (next == head)
			break;
		see(result, next, n);
		at = next;
		links = others;
	}
	for (at = head, back = 1; back <= LONGEST && read_links(at, &links); back++) {
		at = links.prev;
		if (at == head)
			break;
	}
	if (n > LONGEST)
		defect(result, "it does not end");
	else if (back != n)
		defect(result, "%u entries forwards, %u backwards", n - 1, back - 1);
}

/* Whether a function belongs on the list with @owner, going by its own fields. */
static bool belongs(const struct vfrace_function *f, const void *owner)
{
	if (!f->registered)
		return false;
	switch (now.kind) {
	case DEVICES:
		return f->bus == owner;
	case CHILDREN:
		return f->parent == owner;
	case DRIVER:
		return f->driver == owner;
	case TYPE:
		return true;
	case BUSES:
		break;
	}
	return false;
}

static void check_counts(struct vfrace_lists *result, const void *owner)
{
	unsigned int i;

	for (i = 0; i < nfunctions; i++) {
		const struct vfrace_function *f = &functions[i];
		bool expected = belongs(f, owner);

		if (counts[i] == expected)
			continue;
		if (counts[i] > 1)
			defect(result, "%s is on it %u times", name_of(f->index), counts[i]);
		else if (expected)
			defect(result, "%s is not on it", name_of(f->index));
		else if (!f->registered)
			defect(result, "%s is on it, which is removed", name_of(f->index));
		else
			defect(result, "%s is on it and should not be", name_of(f->index));
	}
}

static void begin(enum kind kind, const char *what, const char *owner, struct klist *klist)
{
	now.kind = kind;
	now.what = what;
	now.owner = owner;
	now.klist = klist;
	memset(counts, 0, sizeof(counts));
}

static void walk_bus(struct vfrace_lists *result, struct pci_bus *bus)
{
	const char *name = dev_name(&bus->dev);
	unsigned int tries = 0;

	begin(DEVICES, "devices", name, NULL);
	while (!down_read_trylock(bus_sem)) {
		if (++tries == LOCK_TRIES) {
			vfrace_fail("the lists of bus %s cannot be looked at, pci_bus_sem is taken", name);
			return;
		}
		usleep_range(1000, 2000);
	}
	walk(result, &bus->devices);
	check_counts(result, bus);
	begin(BUSES, "children", name, NULL);
	walk(result, &bus->children);
	up_read(bus_sem);
}

#ifdef VFRACE_KLISTS
static void walk_klist(struct vfrace_lists *result, enum kind kind, const char *what, const char *owner,
		       struct klist *klist, const void *of)
{
	unsigned int tries = 0;

	begin(kind, what, owner, klist);
	while (!spin_trylock(&klist->k_lock)) {
		if (++tries == LOCK_TRIES) {
			vfrace_fail("%s of %s cannot be looked at, its lock is taken", what, owner);
			return;
		}
		usleep_range(1000, 2000);
	}
	walk(result, &klist->k_list);
	spin_unlock(&klist->k_lock);
	check_counts(result, of);
}

/* Those that functions are bound to, and built-in ones that they were bound to. */
static void learn_drivers(struct device_driver **bound)
{
	unsigned int i, n;

	memcpy(bound, drivers, sizeof(drivers));
	for (i = 0; i < nfunctions; i++) {
		struct device_driver *driver = functions[i].registered ? functions[i].driver : NULL;

		for (n = 0; n < DRIVERS && driver && bound[n]; n++)
			if (bound[n] == driver)
				driver = NULL;
		if (!driver || n == DRIVERS)
			continue;
		bound[n] = driver;
		for (n = 0; n < DRIVERS && !driver->owner; n++) {
			if (!drivers[n]) {
				drivers[n] = driver;
				break;
			}
		}
	}
}

static void look_at_klists(struct vfrace_lists *result, struct pci_bus *bus)
{
	struct device_driver *bound[DRIVERS];
	unsigned int i;

	if (bus && bus->bridge && bus->bridge->p)
		walk_klist(result, CHILDREN, "children", dev_name(bus->bridge), &bus->bridge->p->klist_children,
			   bus->bridge);
	for (i = 0; i < nfunctions && !type_klist; i++)
		if (functions[i].registered && functions[i].p->knode_bus.n_klist)
			type_klist = (void *)((unsigned long)functions[i].p->knode_bus.n_klist & ~DEAD);
	if (type_klist)
		walk_klist(result, TYPE, "devices", "bus pci", type_klist, NULL);
	learn_drivers(bound);
	for (i = 0; i < DRIVERS && bound[i]; i++)
		walk_klist(result, DRIVER, "devices of driver", bound[i]->name, &bound[i]->p->klist_devices, bound[i]);
}
#else
static void look_at_klists(struct vfrace_lists *result, struct pci_bus *bus)
{
	pr_info_once("drivers/base/base.h is not there: the lists of the driver core are not looked at\n");
}
#endif

static void look(struct vfrace_lists *result)
{
	struct pci_bus *bus = vfrace_bus(), *root = pci_find_bus(vfrace_domain(), 0), *other;
	struct pci_dev *pf;

	memset(result, 0, sizeof(*result));
	nfunctions = vfrace_functions_snapshot(functions);
	if (root)
		walk_bus(result, root);
	if (bus && bus != root)
		walk_bus(result, bus);
	pf = vfrace_get_pf();
	other = pf ? vfrace_vf_bus(pf) : NULL;
	if (other)
		walk_bus(result, other);
	pci_dev_put(pf);
	look_at_klists(result, bus);
}

/* While nothing is armed. One user: the work item of the commands. */
void vfrace_lists_walk(struct vfrace_lists *result)
{
	unsigned int looks;

	if (!bus_sem)
		bus_sem = (void *)vfrace_symbol("pci_bus_sem");
	memset(result, 0, sizeof(*result));
	if (!bus_sem) {
		vfrace_fail("this kernel has no pci_bus_sem: its lists are not looked at");
		return;
	}
	for (looks = 0; looks < LOOKS; looks++) {
		if (looks)
			msleep(LOOK_MS);
		look(result);
		if (!result->defects)
			return;
	}
}
