// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is different on s390: a function is known to the platform's code (arch/s390/pci) as a struct zpci_dev before and
 * after it has a pci_dev, and by its function id before that.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kref.h>
#include <linux/pci.h>
#include <linux/string.h>
#include <asm/pci.h>

#include "vfrace.h"
#include "zpci.h"

static u32 pf_fid;			/* 0: not known */

/*
 * pcibios_bus_add_device() sets is_virtfn, which is after pci_device_add(). The platform knew before. Where two releases
 * have taken its zpci_dev away, is_virtfn is left.
 */
bool vfrace_is_vf(const struct pci_dev *dev)
{
	const struct zpci_bus *zbus = dev->sysdata;
	const struct zpci_dev *zdev = zbus->function[dev->devfn];

	return dev->is_virtfn || (zdev && zdev->vfn);
}

void vfrace_platform_learn(struct pci_dev *pf)
{
	pf_fid = to_zpci(pf)->fid;
}

/* By the numbers alone: nothing is looked up, no reference is taken. */
static int index_of_fid(u32 fid)
{
	struct zpci_place pf, at;

	if (fid == pf_fid && fid)
		return VFRACE_IS_PF;
	if (!zpci_place_of(pf_fid, &pf) || !zpci_place_of(fid, &at))
		return VFRACE_IS_NONE;
	if (at.adapter != pf.adapter || at.pfs != pf.pfs || !at.vf || at.devfn % at.pfs != pf.devfn)
		return VFRACE_IS_NONE;
	return at.vf - 1;
}

/* Functions of arch/s390/pci whose first argument says the function, but not as a pci_dev. */
int vfrace_platform_subject(const struct vfrace_call *call)
{
	const void *first = (const void *)call->args[0];

	if (strncmp(call->name, "zpci_", 5) || !first)
		return VFRACE_IS_NONE;
	if (!strcmp(call->name, "zpci_event_availability"))
		return index_of_fid(((const struct zpci_availability *)first)->fid);
	if (!strcmp(call->name, "zpci_release_device"))
		return index_of_fid(container_of((struct kref *)first, struct zpci_dev, kref)->fid);
	if (!strcmp(call->name, "zpci_bus_remove_device") || !strcmp(call->name, "zpci_deconfigure_device") ||
	    !strcmp(call->name, "zpci_event_hard_deconfigured") || !strcmp(call->name, "zpci_device_reserved") ||
	    !strcmp(call->name, "zpci_scan_configured_device") || !strcmp(call->name, "zpci_bus_scan_device") ||
	    !strcmp(call->name, "zpci_disable_device"))
		return index_of_fid(((const struct zpci_dev *)first)->fid);
	return VFRACE_IS_NONE;
}

/* Of all events only those that take a function of ours away are an unplug. */
bool vfrace_platform_unplugs(const struct vfrace_call *call)
{
	const struct zpci_availability *event = (const void *)call->args[0];

	if (strcmp(call->name, "zpci_event_availability"))
		return true;
	return (event->pec == ZPCI_PEC_DECONFIGURE || event->pec == ZPCI_PEC_LOST) &&
	       index_of_fid(event->fid) != VFRACE_IS_NONE;
}
