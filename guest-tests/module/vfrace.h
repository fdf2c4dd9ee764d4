/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of the module share. */
#ifndef VFRACE_H
#define VFRACE_H

#include <linux/mutex.h>
#include <linux/path.h>
#include <linux/pci.h>
#include <linux/types.h>

#include "vfrace_proto.h"

/* main.c: symbols that are not exported */
extern struct mutex *vfrace_lock;		/* pci_rescan_remove_lock */
extern void (*vfrace_iov_remove_virtfn)(struct pci_dev *pf, int id);

unsigned long vfrace_symbol(const char *name);
unsigned long vfrace_symbol_size(unsigned long address);

/* main.c: called by the mailbox, in task context, one command at a time */
void vfrace_command(u32 id, u32 kind, char *text);

/* functions.c: the PF, its VFs and the bridge */
int vfrace_functions_init(void);
void vfrace_functions_set_pf(const char *text);
void vfrace_functions_learn(bool required);
void vfrace_functions_created(struct pci_dev *dev);
void vfrace_functions_released(struct pci_dev *dev);
int vfrace_index_of(struct pci_dev *dev);		/* by its place; VFRACE_IS_NONE if it is not ours */
/* @pointer is to its pci_dev, device or kobject; @serial is its number among those that were known */
int vfrace_index_of_pointer(unsigned long pointer, u64 *serial);
int vfrace_index_of_released(unsigned long pointer, u64 *serial);
/* One after the other, for @at from 0; NULL: there is none at this place. False behind the last. Not to be kept. */
bool vfrace_known(unsigned int at, struct pci_dev **dev, int *index);
struct pci_bus *vfrace_bus(void);			/* the PF's, whether that is there or not; or NULL */
struct pci_bus *vfrace_vf_bus(struct pci_dev *pf);	/* the VFs', if it is another one and there; or NULL */
unsigned int vfrace_domain(void);

/* A function of the device or the bridge, as it was at one moment. Pointers are for comparison only. */
struct vfrace_function {
	struct pci_dev *dev;
	int index;
	unsigned int references;
	bool registered;		/* between device_add() and device_del() */
	struct device_private *p;
	struct device *parent;
	struct device_driver *driver;
	struct pci_bus *bus;
};

#define VFRACE_KNOWN	(256 + 8)	/* with room for some that wait to be released */

unsigned int vfrace_functions_snapshot(struct vfrace_function *functions);	/* of VFRACE_KNOWN */

struct pci_dev *vfrace_get_pf(void);			/* with a reference, or NULL */
struct pci_dev *vfrace_get_function(int index);		/* likewise */
u64 vfrace_created(void);
u64 vfrace_released(void);

/* locks.c: who has which lock and who waits for it */
struct mutex *vfrace_lock_by_name(const char *name, int index);
int vfrace_lock_name(struct mutex *lock, char *text, size_t size);
struct mutex *vfrace_blocked_on(struct task_struct *task);
struct task_struct *vfrace_mutex_owner(struct mutex *lock);
s64 vfrace_task_pid(struct task_struct *task);		/* 0 for none, VFRACE_PID_DEAD if it cannot be read */
struct task_struct *vfrace_get_task(struct task_struct *task);	/* with a reference, NULL if it is no more */
void vfrace_locks_init(void);
s64 vfrace_lock_depth(void);				/* -1: this kernel has no such word */
s64 vfrace_lock_owner_word(void);			/* pid, 0, or -1 likewise */
void vfrace_lock_forget(void);
void vfrace_lock_taken(bool nested);
void vfrace_lock_releases(void);

/* mailbox.c */
int vfrace_mailbox_init(void);
void vfrace_mailbox_exit(void);
bool vfrace_mailbox_poll(struct vfrace_unplug *unplug);
void vfrace_report(u32 kind, const u64 *args, unsigned int nargs, const char *text);
void vfrace_fail(const char *fmt, ...) __printf(1, 2);
u64 vfrace_dropped(void);

/* agent.c: /dev/vfrace, where init reads its commands */
int vfrace_agent_init(void);
void vfrace_agent_exit(void);
void vfrace_agent_push(u32 id, const char *text);
extern struct path vfrace_root;			/* empty until init has opened it */

/* wrap.c: functions of the kernel that are called through us */
#define VFRACE_ARGS	6

struct vfrace_call {
	unsigned int slot;
	const char *name;
	unsigned long args[VFRACE_ARGS];
	unsigned long ret;
	bool replaced;			/* at the entry: do not call it, ret is its value */
	int index;			/* the function that it is called for */
	u64 serial;			/* and which pci_dev of it, or 0 */
	int side;			/* of the task, or VFRACE_NO_SIDE */
	bool reported, nested;		/* calls.c */
};

#define VFRACE_SLOTS	64

int vfrace_wrap_init(void);
int vfrace_wrap_begin(void);
void vfrace_wrap_exit(void);
int vfrace_wrap(const char *name);	/* slot of a function that is wrapped */
int vfrace_unwrap(const char *name);

/* calls.c: what is reported of the calls; called by wrap.c in the context of the caller */
int vfrace_calls_init(void);
void vfrace_calls_enable(bool on, bool trace, bool nosleep);
void vfrace_calls_reduce(void);
int vfrace_calls_cost(void);
bool vfrace_calls_enabled(void);
void vfrace_call_enter(struct vfrace_call *call);
void vfrace_call_return(struct vfrace_call *call);
unsigned int vfrace_stack(char *text, size_t size, const unsigned long *frames, unsigned int n);

/* sides.c: the two tasks of a race */
#define VFRACE_SIDES	2
#define VFRACE_NO_SIDE	-1

struct vfrace_side {
	struct task_struct *task;	/* with a reference */
	const struct vfrace_point *held;	/* where, or NULL */
	bool started, done, committed;
	unsigned long switches;		/* context switches when last looked at */
	u64 quiet_since;
};

extern struct vfrace_side vfrace_sides[VFRACE_SIDES];

void vfrace_sides_reset(void);
void vfrace_side_start(int side);
void vfrace_side_done(int side);
int vfrace_side_of(struct task_struct *task);
bool vfrace_side_is_blocked(struct vfrace_side *side);
void vfrace_sides_report(void);
void vfrace_sides_watch(bool on);

/* points.c: where a task is held */
int vfrace_point_add(char *text);
void vfrace_points_clear(void);
void vfrace_points_reset(void);
void vfrace_point_release(u32 id);
void vfrace_points_at(struct vfrace_call *call, bool enter);
bool vfrace_points_use(unsigned int slot);

/* unplug.c: the handler of an unplug */
int vfrace_unplug_init(void);
void vfrace_unplug_exit(void);
void vfrace_unplug_arm(bool on, bool spin);
int vfrace_unplug_set(char *text);
void vfrace_unplug_poll(void);
void vfrace_unplug_watch(struct vfrace_call *call, bool enter);
bool vfrace_unplug_uses(unsigned int slot);

/* s390.c: what only its platform code knows */
#ifdef CONFIG_S390
bool vfrace_is_vf(const struct pci_dev *dev);
void vfrace_platform_learn(struct pci_dev *pf);
int vfrace_platform_subject(const struct vfrace_call *call);
bool vfrace_platform_unplugs(const struct vfrace_call *call);	/* whether a call that is watched is an unplug */
#else
static inline bool vfrace_is_vf(const struct pci_dev *dev)
{
	return dev->is_virtfn;
}

static inline void vfrace_platform_learn(struct pci_dev *pf)
{
}

static inline int vfrace_platform_subject(const struct vfrace_call *call)
{
	return VFRACE_IS_NONE;
}

static inline bool vfrace_platform_unplugs(const struct vfrace_call *call)
{
	return true;
}
#endif

/* lists.c: the lists that functions are on */
struct vfrace_lists {
	unsigned int lists, entries, defects;
	char text[160];			/* the first defect */
};

void vfrace_lists_walk(struct vfrace_lists *lists);

/* invariants.c */
void vfrace_measure(const char *label);
int vfrace_repair(const char *text);

#endif /* VFRACE_H */
