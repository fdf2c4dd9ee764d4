// SPDX-License-Identifier: GPL-2.0-only
/*
 * A PF driver that can be unloaded, whose .remove() takes its time, and that can enable SR-IOV in its .probe(). It matches
 * nothing by itself: a device is given to it by driver_override.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/module.h>
#include <linux/pci.h>

static unsigned int remove_ms;
module_param(remove_ms, uint, 0644);
MODULE_PARM_DESC(remove_ms, "milliseconds that .remove() sleeps before it disables SR-IOV");

static unsigned int vfs;
module_param(vfs, uint, 0644);
MODULE_PARM_DESC(vfs, "VFs that .probe() enables");

static int pf_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	int ret = pci_enable_device_mem(pdev);

	if (ret)
		return ret;
	pci_set_master(pdev);
	if (vfs)
		ret = pci_enable_sriov(pdev, vfs);
	if (ret)
		pci_disable_device(pdev);
	return ret;
}

static void pf_remove(struct pci_dev *pdev)
{
	msleep(remove_ms);
	pci_disable_sriov(pdev);
	pci_disable_device(pdev);
}

/* empty: driver_override only */
static const struct pci_device_id pf_ids[] = {
	{ }
};

static struct pci_driver pf_driver = {
	.name = KBUILD_MODNAME,
	.id_table = pf_ids,
	.probe = pf_probe,
	.remove = pf_remove,
	.sriov_configure = pci_sriov_configure_simple,
};
module_pci_driver(pf_driver);

MODULE_DESCRIPTION("PF driver for vfrace: unloadable, slow to remove, SR-IOV from .probe()");
MODULE_LICENSE("GPL");
