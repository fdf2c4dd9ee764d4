// SPDX-License-Identifier: GPL-2.0-only
/*
 * vfrace_zpci: what QEMU's s390x machine does not tell its guest about an SR-IOV device.
 *
 * A module of its own, and none of it in vfrace.ko: it is a part of the machine, which has to be there before the first
 * function is plugged, whatever observes the guest; and a guest without it is a guest on QEMU as it is, where VFs are
 * functions that belong to nobody. It changes data that the kernel reads. No function of the kernel is replaced, so that
 * all of what handles functions and events is the kernel's own.
 *
 * On a machine the functions of one adapter have the same PCHID, and each has a routing id (RID) and, if it is a VF, a
 * number (CLP "query PCI function", struct clp_rsp_query_pci in asm/pci_clp.h). zpci puts functions with the same PCHID
 * on one bus and finds the PF of a VF by its RID and the PF's SR-IOV capability (zpci_bus_device_register(),
 * zpci_iov_find_parent_pf()). QEMU answers with zeroes. Here all of it is derived from the function id, see zpci.h.
 *
 * What is supplied, and where:
 * - PCHID (0x0100 + C), RID, VF number, PF flag: written into struct zpci_dev when it comes to zpci_bus_device_register(),
 *   which is the first to look at them. QEMU sends no topology id that would have to be the same, too.
 * - The PF's configuration space gets the two capabilities that are not there without PCI Express: PCI Express itself,
 *   without which pci_iov_init() does not look any further, and SR-IOV. VF Enable is a bit that is remembered. What
 *   follows from it, VFs that come and go, is the host's business.
 * - VIRTIO_F_SR_IOV. The PF's driver is virtio-pci itself, as on x86: its .remove() is one of those that were reported,
 *   and the PF stays a network function with queues, which it would not be with a driver of ours. QEMU offers the bit
 *   only with the capability (virtio_pci_device_plugged()), and the driver does not enable SR-IOV without it. It is set
 *   among the negotiated ones when virtio_pci_sriov_configure() is about to look for it; the device never hears of it.
 * - The surprise form of an unplug. QEMU only asks to deconfigure a function (event code 0x0303). For each function id in
 *   the parameter "surprise" the next such event is handed on as 0x0304: it is gone already. When the kernel is through
 *   with it, the function is deconfigured, which QEMU waits for.
 *
 * It is not unloaded: what it supplied stays in use.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/spinlock.h>
#include <linux/virtio_config.h>
#include <linux/workqueue.h>
#include <asm/pci.h>

#include "virtio_pci_common.h"
#include "zpci.h"

static bool on = true;
module_param(on, bool, 0444);
MODULE_PARM_DESC(on, "0: do nothing, so that VFs are isolated functions");

#define SURPRISES	256

static unsigned int surprise[SURPRISES];
static unsigned int nsurprise;
module_param_array(surprise, uint, &nsurprise, 0644);
MODULE_PARM_DESC(surprise, "function ids whose next deconfiguration request is handed on as their loss; 0: none");

/* --- the PF's configuration space --- */

#define EXPRESS		0xc0		/* virtio's capabilities end before 0xb0 */
#define EXPRESS_SIZE	PCI_CAP_EXP_ENDPOINT_SIZEOF_V2
#define SRIOV		PCI_CFG_SPACE_SIZE
#define SRIOV_SIZE	PCI_EXT_CAP_SRIOV_SIZEOF

static struct pf_space {
	u8 express[EXPRESS_SIZE], sriov[SRIOV_SIZE];
} spaces[ZPCI_ADAPTERS][ZPCI_PFS];

/* The kernel's accessors, which go to QEMU. Config space is accessed under pci_lock. */
static struct pci_ops theirs;
static struct pci_ops *replaced;

static void put16(u8 *at, u16 value)
{
	at[0] = value;
	at[1] = value >> 8;
}

static void put32(u8 *at, u32 value)
{
	put16(at, value);
	put16(at + 2, value >> 16);
}

/* As after a reset. The next capability of the first one is what QEMU has as the first. */
static void reset_space(struct pf_space *space, const struct zpci_place *at)
{
	memset(space, 0, sizeof(*space));

	space->express[0] = PCI_CAP_ID_EXP;
	put16(space->express + PCI_EXP_FLAGS, 2 | PCI_EXP_TYPE_ENDPOINT << 4);
	put32(space->express + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_RBER);
	put32(space->express + PCI_EXP_LNKCAP, PCI_EXP_LNKCAP_SLS_2_5GB | 1 << 4);
	put16(space->express + PCI_EXP_LNKSTA, PCI_EXP_LNKSTA_CLS_2_5GB | 1 << 4);

	put32(space->sriov, PCI_EXT_CAP_ID_SRIOV | 1 << 16);
	put16(space->sriov + PCI_SRIOV_INITIAL_VF, at->total);
	put16(space->sriov + PCI_SRIOV_TOTAL_VF, at->total);
	space->sriov[PCI_SRIOV_FUNC_LINK] = at->devfn;
	put16(space->sriov + PCI_SRIOV_VF_OFFSET, at->pfs);
	put16(space->sriov + PCI_SRIOV_VF_STRIDE, at->pfs);
	put16(space->sriov + PCI_SRIOV_VF_DID, 0x1041);	/* virtio-net */
	put32(space->sriov + PCI_SRIOV_SUP_PGSIZE, 0x553);
	put32(space->sriov + PCI_SRIOV_SYS_PGSIZE, 1);
}

static struct pf_space *space_of(struct pci_bus *bus, unsigned int devfn, struct zpci_place *at)
{
	struct zpci_bus *zbus = bus->sysdata;
	struct zpci_dev *zdev = zbus->function[devfn & 0xff];

	if (!zdev || !zpci_place_of(zdev->fid, at) || at->vf || !at->total)
		return NULL;
	return &spaces[at->adapter][at->devfn];
}

/* Bytes beyond the first 256 that are nobody's read as zero. */
static bool is_ours(unsigned int where)
{
	return where >= PCI_CFG_SPACE_SIZE || where - EXPRESS < EXPRESS_SIZE;
}

static u8 *register_at(struct pf_space *space, unsigned int where)
{
	if (where - EXPRESS < EXPRESS_SIZE)
		return &space->express[where - EXPRESS];
	if (where - SRIOV < SRIOV_SIZE)
		return &space->sriov[where - SRIOV];
	return NULL;
}

static bool is_writable(unsigned int where)
{
	switch (where) {
	case EXPRESS + PCI_EXP_DEVCTL ... EXPRESS + PCI_EXP_DEVCTL + 1:
	case EXPRESS + PCI_EXP_LNKCTL ... EXPRESS + PCI_EXP_LNKCTL + 1:
	case EXPRESS + PCI_EXP_DEVCTL2 ... EXPRESS + PCI_EXP_DEVCTL2 + 1:
	case SRIOV + PCI_SRIOV_CTRL ... SRIOV + PCI_SRIOV_CTRL + 1:
	case SRIOV + PCI_SRIOV_NUM_VF ... SRIOV + PCI_SRIOV_NUM_VF + 1:
	case SRIOV + PCI_SRIOV_SYS_PGSIZE ... SRIOV + PCI_SRIOV_SYS_PGSIZE + 3:
		return true;
	default:
		return false;
	}
}

/* Accesses are aligned, so that one is either ours or QEMU's. */
static int read_space(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 *value)
{
	struct zpci_place at;
	struct pf_space *space = space_of(bus, devfn, &at);
	int i, ret;

	if (!space)
		return theirs.read(bus, devfn, where, size, value);
	if (!is_ours(where)) {
		ret = theirs.read(bus, devfn, where, size, value);
		if (ret != PCIBIOS_SUCCESSFUL)
			return ret;
		if (where == PCI_CAPABILITY_LIST) {
			space->express[1] = *value;
			*value = (*value & ~0xffu) | EXPRESS;
		}
		/* several PFs: function 0 is not the only one */
		i = PCI_HEADER_TYPE - where;
		if (at.pfs > 1 && i >= 0 && i < size)
			*value |= (u32)PCI_HEADER_TYPE_MFD << 8 * i;
		return ret;
	}
	*value = 0;
	for (i = 0; i < size; i++) {
		u8 *byte = register_at(space, where + i);

		if (byte)
			*value |= (u32)*byte << 8 * i;
	}
	return PCIBIOS_SUCCESSFUL;
}

static int write_space(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 value)
{
	struct zpci_place at;
	struct pf_space *space = space_of(bus, devfn, &at);
	int i;

	if (!space || !is_ours(where))
		return theirs.write(bus, devfn, where, size, value);
	for (i = 0; i < size; i++) {
		u8 *byte = register_at(space, where + i);

		if (byte && is_writable(where + i))
			*byte = value >> 8 * i;
	}
	return PCIBIOS_SUCCESSFUL;
}

/* --- where the kernel is told --- */

/*
 * Callbacks of ftrace at the first instruction. They look at arguments and write to memory, and leave the registers
 * alone: unlike a kprobe they get along with vfrace.ko, which may redirect the same functions, and they may be called
 * twice then.
 */

/*
 * The first arguments are in registers 2 to 6 (s390x ELF ABI supplement). ftrace_regs_get_argument() says the same, but
 * in 6.12 by way of regs_get_register(), which is not exported.
 */
static __always_inline unsigned long argument(struct ftrace_regs *fregs, unsigned int n)
{
#ifdef arch_ftrace_regs
	return arch_ftrace_regs(fregs)->regs.gprs[2 + n];
#else
	return fregs->regs.gprs[2 + n];
#endif
}

/* zpci_bus_device_register(zdev, ops) */
static void notrace at_register(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *hook,
				struct ftrace_regs *fregs)
{
	struct zpci_dev *zdev = (void *)argument(fregs, 0);
	struct pci_ops *ops = (void *)argument(fregs, 1);
	struct zpci_place at;

	if (!zpci_place_of(zdev->fid, &at)) {
		if (zdev->fid >> 24 == ZPCI_FID_MAGIC)
			pr_err("function %08x: not an id of the scheme\n", zdev->fid);
		return;
	}
	zdev->pchid = ZPCI_FIRST_PCHID + at.adapter;
	zdev->rid_available = 1;
	zdev->rid = at.devfn;
	zdev->vfn = at.vf;
	zdev->is_physfn = !at.vf && at.total;
	if (zdev->is_physfn)
		reset_space(&spaces[at.adapter][at.devfn], &at);
	pr_info("function %08x: PCHID %04x RID %04x, %s %u\n", zdev->fid, zdev->pchid, zdev->rid,
		at.vf ? "VF" : "PF, VFs:", at.vf ? at.vf : at.total);
	/* One set of accessors for all buses. Functions come one after the other, under zpci_add_remove_lock. */
	if (replaced)
		return;
	theirs = *ops;
	replaced = ops;
	smp_wmb();			/* ours call theirs */
	WRITE_ONCE(ops->read, read_space);
	WRITE_ONCE(ops->write, write_space);
}

/* virtio_pci_sriov_configure(pdev, num_vfs) */
static void notrace at_configure(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *hook,
				 struct ftrace_regs *fregs)
{
	struct pci_dev *dev = (void *)argument(fregs, 0);
	struct virtio_pci_device *vp = pci_get_drvdata(dev);
	struct zpci_place at;

	if (vp && to_vp_device(&vp->vdev)->pci_dev == dev && space_of(dev->bus, dev->devfn, &at))
		__virtio_set_bit(&vp->vdev, VIRTIO_F_SR_IOV);
}

/* --- events --- */

static int (*deconfigure)(u32 fid);

/* Functions whose loss was told, and whether the kernel is through with them. A fid of 0: free. */
static struct {
	u32 fid;
	bool through;
} lost[SURPRISES];
static DEFINE_RAW_SPINLOCK(events_lock);

/* True: @fid was among those that are to go without being asked, and now is among those that are lost. */
static bool notrace is_surprise(u32 fid)
{
	unsigned int i, j, n = min_t(unsigned int, READ_ONCE(nsurprise), SURPRISES);
	unsigned long flags;
	bool found = false;

	raw_spin_lock_irqsave(&events_lock, flags);
	for (i = 0; i < n && !found; i++) {
		if (surprise[i] != fid)
			continue;
		for (j = 0; j < SURPRISES && lost[j].fid; j++)
			;
		if (j == SURPRISES)
			break;
		lost[j].fid = fid;
		lost[j].through = false;
		surprise[i] = 0;
		found = true;
	}
	raw_spin_unlock_irqrestore(&events_lock, flags);
	return found;
}

/* zpci_event_availability(data) */
static void notrace at_event(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *hook,
			     struct ftrace_regs *fregs)
{
	struct zpci_availability *event = (void *)argument(fregs, 0);
	struct zpci_place at;

	if (event->pec != ZPCI_PEC_DECONFIGURE || !zpci_place_of(event->fid, &at) || !is_surprise(event->fid))
		return;
	event->pec = ZPCI_PEC_LOST;
	pr_info("function %08x: event %04x handed on as %04x\n", event->fid, ZPCI_PEC_DECONFIGURE, ZPCI_PEC_LOST);
}

/* What the platform has done before it tells of a loss. QEMU waits for it and lets go of the function then. */
static void give_back(struct work_struct *work)
{
	unsigned int i;

	for (i = 0; i < SURPRISES; i++) {
		u32 fid = READ_ONCE(lost[i].fid);

		if (!fid || !READ_ONCE(lost[i].through))
			continue;
		if (deconfigure(fid))
			pr_err("function %08x cannot be given back\n", fid);
		WRITE_ONCE(lost[i].fid, 0);
	}
}

static DECLARE_WORK(give_back_work, give_back);

/*
 * clp_get_state(fid, state): the handler of a loss asks whether the function is reserved by now, which is the last thing
 * that it does. To look at the zpci_dev instead would take references, and locks with them.
 */
static void notrace at_state(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *hook,
			     struct ftrace_regs *fregs)
{
	u32 fid = argument(fregs, 0);
	unsigned long flags;
	bool found = false;
	unsigned int i;

	raw_spin_lock_irqsave(&events_lock, flags);
	for (i = 0; i < SURPRISES && fid && !found; i++) {
		found = lost[i].fid == fid;
		if (found)
			WRITE_ONCE(lost[i].through, true);
	}
	raw_spin_unlock_irqrestore(&events_lock, flags);
	if (found)
		schedule_work(&give_back_work);
}

/* --- set-up --- */

static struct hook {
	char name[32];
	struct ftrace_ops ops;
} hooks[] = {
	{ "virtio_pci_sriov_configure", { .func = at_configure } },
	{ "zpci_event_availability", { .func = at_event } },
	{ "clp_get_state", { .func = at_state } },
	/* the last one: what it replaces is not put back */
	{ "zpci_bus_device_register", { .func = at_register } },
};

static int __init zpci_init(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long (*lookup)(const char *name);
	unsigned long address;
	unsigned int i;
	int ret;

	if (!on) {
		pr_info("off: functions are as QEMU describes them\n");
		return 0;
	}
	/*
	 * Not exported; a kprobe says where it is. Functions are found by their addresses: ftrace would compare the name
	 * of each function that there is, which takes a third of a second a time under TCG.
	 */
	ret = register_kprobe(&probe);
	if (ret) {
		pr_err("this kernel has no %s (%d)\n", probe.symbol_name, ret);
		return ret;
	}
	unregister_kprobe(&probe);
	lookup = (void *)probe.addr;
	deconfigure = (void *)lookup("sclp_pci_deconfigure");
	if (!deconfigure) {
		pr_err("this kernel has no sclp_pci_deconfigure\n");
		return -ENOENT;
	}
	for (i = 0; i < ARRAY_SIZE(hooks); i++) {
		address = lookup(hooks[i].name);
		ret = address ? ftrace_set_filter_ip(&hooks[i].ops, address, 0, 1) : -ENOENT;
		if (!ret)
			ret = register_ftrace_function(&hooks[i].ops);
		if (ret)
			goto undo;
	}
	return 0;

undo:
	pr_err("nothing can be told at %s (%d)\n", hooks[i].name, ret);
	while (i--)
		unregister_ftrace_function(&hooks[i].ops);
	return ret;
}

module_init(zpci_init);
MODULE_DESCRIPTION("RID, VF number, SR-IOV capability and surprise events that QEMU's s390x machine lacks");
MODULE_LICENSE("GPL");
