/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a function id on s390x says. QEMU takes it from the command line and hands it to the guest; host and guest have
 * to come to the same numbers.
 *
 *	FID   0xfa C M VV DD	(-device zpci,fid=)
 *	      C   4 bits	adapter, 0 to 15
 *	      M   4 bits	number of PFs of this adapter, less one
 *	      VV  8 bits	of a PF: how many VFs it can have (TotalVFs), 0 for a function without SR-IOV;
 *				of a VF: its number, from 1
 *	      DD  8 bits	device and function number, which is the RID on bus 0
 *	UID   0x1 C DD		(-device zpci,uid=) 16 bits. The first function of an adapter that comes gives the domain
 *				its number.
 *
 * With P = M + 1 PFs, PF p has devfn p, and its VF n has devfn p + P * n: First VF Offset and VF Stride are P. So one PF
 * can have 255 VFs, two can have 127 each. A FID that contradicts itself is none of the scheme. Examples, adapter 0: PF
 * with 4 VFs fa000400 at 1000:00:00.0, its VFs fa000101 to fa000404 at 1000:00:00.1 to .4; two PFs with 8 VFs each
 * fa010800 and fa010801, VF 3 of the second one fa010307 at 1000:00:00.7.
 */
#ifndef VFRACE_ZPCI_H
#define VFRACE_ZPCI_H

#include <linux/types.h>

#define ZPCI_FID_MAGIC	0xfa
#define ZPCI_ADAPTERS	16
#define ZPCI_PFS	16		/* at most, of an adapter */
#define ZPCI_FIRST_PCHID 0x0100		/* of adapter 0 */

struct zpci_place {
	unsigned int adapter, pfs, devfn;
	unsigned int vf;		/* number of the VF, 0 for a PF */
	unsigned int total;		/* VFs, of a PF */
};

/* False: not one of ours. */
static inline bool zpci_place_of(u32 fid, struct zpci_place *at)
{
	unsigned int number = (fid >> 8) & 0xff;

	if (fid >> 24 != ZPCI_FID_MAGIC)
		return false;
	*at = (struct zpci_place) {
		.adapter = (fid >> 20) & 0xf,
		.pfs = ((fid >> 16) & 0xf) + 1,
		.devfn = fid & 0xff,
	};
	if (at->devfn < at->pfs) {
		at->total = number;
		return at->devfn + at->pfs * number <= 0xff;
	}
	at->vf = at->devfn / at->pfs;
	return at->vf == number;
}

/* What follows the fixed part of a "store event information" response (struct zpci_ccdf_avail, arch/s390/pci). */
struct zpci_availability {
	u32 reserved1;
	u32 fh;
	u32 fid;
	u32 reserved2[4];
	u16 reserved3;
	u16 pec;
} __packed;

#define ZPCI_PEC_DECONFIGURE	0x0303	/* deconfiguration requested */
#define ZPCI_PEC_LOST		0x0304	/* configured -> standby or reserved */

#endif /* VFRACE_ZPCI_H */
