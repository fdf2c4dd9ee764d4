/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of the module share. */
#ifndef VFRACE_H
#define VFRACE_H

#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/types.h>

#include "vfrace_proto.h"

/* vf index of a report that is about the PF, or about no function of ours */
#define VFRACE_IS_PF	-1
#define VFRACE_IS_NONE	-2

/* main.c: what was asked for by the host, and symbols that are not exported */
extern struct mutex *vfrace_lock;		/* pci_rescan_remove_lock */
extern void (*vfrace_iov_remove_virtfn)(struct pci_dev *pf, int id);
extern unsigned int (*vfrace_stack_save_regs)(struct pt_regs *regs, unsigned long *store, unsigned int size,
					       unsigned int skip);

unsigned long vfrace_symbol(const char *name);
pid_t vfrace_lock_owner(void);
bool vfrace_lock_is_mine(void);
struct pci_dev *vfrace_get_pf(void);		/* with a reference, or NULL */
unsigned int vfrace_vf_rid(struct pci_dev *pf, int id);
int vfrace_index_of(struct pci_dev *dev);	/* vf index, VFRACE_IS_PF or VFRACE_IS_NONE */

/* mailbox.c */
int vfrace_mailbox_init(void);
void vfrace_mailbox_exit(void);
bool vfrace_mailbox_ready(void);
bool vfrace_mailbox_poll(struct vfrace_unplug *unplug);
void vfrace_report(u32 kind, const u64 *args, unsigned int nargs, const char *text);
void vfrace_fail(const char *fmt, ...) __printf(1, 2);
u64 vfrace_dropped(void);

/* main.c: called by the mailbox, in task context, one command at a time */
void vfrace_command(u32 id, u32 kind, char *text);

/* agent.c: /dev/vfrace, where init reads its commands */
int vfrace_agent_init(void);
void vfrace_agent_exit(void);
void vfrace_agent_push(u32 id, const char *text);

/* calls.c: entries and returns of kernel functions */
int vfrace_calls_init(void);
void vfrace_calls_exit(void);
void vfrace_calls_enable(bool on);
u64 vfrace_created(void);
u64 vfrace_released(void);

/* unplug.c: the polling handler */
int vfrace_unplug_init(void);
void vfrace_unplug_exit(void);
void vfrace_unplug_arm(bool on);

/* invariants.c */
void vfrace_measure(const char *label);

#endif /* VFRACE_H */
