// SPDX-License-Identifier: GPL-2.0-only
/* Who has which lock, who waits for it, and whether the words that a variant keeps about its lock agree with that. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/pci.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/version.h>

#include "vfrace.h"

/* "rescan": pci_rescan_remove_lock; "device": the device_lock of function @index. */
struct mutex *vfrace_lock_by_name(const char *name, int index)
{
	struct pci_dev *dev;
	unsigned int i;
	int its;

	if (!strcmp(name, "rescan"))
		return vfrace_lock;
	for (i = 0; vfrace_known(i, &dev, &its); i++)
		if (dev && its == index)
			return &dev->dev.mutex;
	return NULL;
}

int vfrace_lock_name(struct mutex *lock, char *text, size_t size)
{
	struct pci_dev *dev;
	unsigned int i;
	int index;

	if (lock == vfrace_lock)
		return scnprintf(text, size, "pci_rescan_remove_lock");
	for (i = 0; vfrace_known(i, &dev, &index); i++) {
		if (!dev || lock != &dev->dev.mutex)
			continue;
		switch (index) {
		case VFRACE_IS_PF:
			return scnprintf(text, size, "device_lock(pf)");
		case VFRACE_IS_BRIDGE:
			return scnprintf(text, size, "device_lock(bridge)");
		default:
			return scnprintf(text, size, "device_lock(vf%d)", index + 1);
		}
	}
	return scnprintf(text, size, "mutex:%ps", lock);
}

#if defined(CONFIG_PREEMPT_RT)
/* The head of struct rt_mutex_waiter, kernel/locking/rtmutex_common.h. */
struct waiter {
	struct {
		struct rb_node entry;
		int prio;
		u64 deadline;
	} tree, pi_tree;
	struct task_struct *task;
	struct rt_mutex_base *lock;
	unsigned int wake_state;
};

/* The waiter is on the task's stack, and stays there while we have its pi_lock: it is taken to write pi_blocked_on. */
struct mutex *vfrace_blocked_on(struct task_struct *task)
{
	struct rt_mutex_base *lock = NULL;
	struct waiter *waiter;
	unsigned long flags;

	raw_spin_lock_irqsave(&task->pi_lock, flags);
	waiter = (struct waiter *)task->pi_blocked_on;
	/* A spinlock, which is an rt_mutex as well, does not count: its owner goes on. */
	if (waiter && waiter->wake_state != TASK_RTLOCK_WAIT)
		lock = waiter->lock;
	raw_spin_unlock_irqrestore(&task->pi_lock, flags);
	return lock ? container_of(lock, struct mutex, rtmutex) : NULL;
}

/* rtmutex.c keeps the owner in the word, and whether somebody waits in its lowest bit (RT_MUTEX_HAS_WAITERS). */
struct task_struct *vfrace_mutex_owner(struct mutex *lock)
{
	return (struct task_struct *)((unsigned long)READ_ONCE(lock->rtmutex.owner) & ~1ul);
}
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0)
struct mutex *vfrace_blocked_on(struct task_struct *task)
{
	return READ_ONCE(task->blocked_on);
}
#else
/* Older kernels note the waiter, which does not name its lock: look among the waiters of the locks we know. */
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
	struct pci_dev *dev;
	unsigned int i;
	int index;

	if (waits_for(vfrace_lock, task))
		return vfrace_lock;
	for (i = 0; vfrace_known(i, &dev, &index); i++)
		if (dev && waits_for(&dev->dev.mutex, task))
			return &dev->dev.mutex;
	return NULL;
}
#endif

#if !defined(CONFIG_PREEMPT_RT)
/* mutex.c keeps the owner in the upper bits of the word and flags in the lower three (MUTEX_FLAGS). */
struct task_struct *vfrace_mutex_owner(struct mutex *lock)
{
	return (struct task_struct *)(atomic_long_read(&lock->owner) & ~7ul);
}
#endif

/* The task may be exiting: its pid is read without trusting the pointer. */
s64 vfrace_task_pid(struct task_struct *task)
{
	pid_t pid = 0;

	if (task && copy_from_kernel_nofault(&pid, &task->pid, sizeof(pid)))
		return VFRACE_PID_DEAD;
	return pid;
}

struct task_struct *vfrace_get_task(struct task_struct *task)
{
	struct task_struct *process, *thread;

	rcu_read_lock();
	for_each_process_thread(process, thread) {
		if (thread == task) {
			get_task_struct(thread);
			rcu_read_unlock();
			return thread;
		}
	}
	rcu_read_unlock();
	return NULL;
}

/* --- what a variant keeps about its lock --- */

/*
 * The nesting word, under any of the names that the variants give it. One counts what was taken beyond the first time,
 * the others count from one.
 */
static const struct {
	const char *name;
	size_t size;
	bool beyond;
} depth_words[] = {
	{ "pci_rescan_remove_reentrant_count", sizeof(size_t), true },
	{ "pci_rescan_remove_count", sizeof(unsigned int) },
	{ "pci_rescan_remove_depth", sizeof(unsigned int) },
};

static unsigned long depth_word;
static size_t depth_size;
static bool depth_beyond;
static struct task_struct **owner_word;

/* How often the owner has taken it as we saw it; -1 if it was taken before we looked. Written by the owner. */
static int levels = -1;

void vfrace_locks_init(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(depth_words) && !depth_word; i++) {
		depth_word = vfrace_symbol(depth_words[i].name);
		depth_size = depth_words[i].size;
		depth_beyond = depth_words[i].beyond;
	}
	owner_word = (void *)vfrace_symbol("pci_rescan_remove_owner");
}

/* One that went below zero is what 32 bits make of it. */
s64 vfrace_lock_depth(void)
{
	if (!depth_word)
		return -1;
	if (depth_size == sizeof(size_t))
		return min_t(size_t, READ_ONCE(*(size_t *)depth_word), U32_MAX);
	return READ_ONCE(*(unsigned int *)depth_word);
}

s64 vfrace_lock_owner_word(void)
{
	return owner_word ? vfrace_task_pid(READ_ONCE(*owner_word)) : -1;
}

/* What was seen of the lock so far does not count: calls are not looked at. */
void vfrace_lock_forget(void)
{
	WRITE_ONCE(levels, -1);
}

/* In the context of the task that has the lock, or believes so. */
static void check(bool releases)
{
	s64 depth = vfrace_lock_depth(), expected = -1;
	struct task_struct *owner = vfrace_mutex_owner(vfrace_lock);
	u64 args[5];

	if (depth_word && levels > 0)
		expected = depth_beyond ? levels - 1 : levels;
	if (owner == current && (!owner_word || READ_ONCE(*owner_word) == current) &&
	    (expected < 0 || depth == expected))
		return;
	args[0] = releases;
	args[1] = vfrace_task_pid(owner);
	args[2] = vfrace_lock_owner_word();
	args[3] = depth;
	args[4] = expected;
	vfrace_report(VFRACE_REPORT_LOCK_ODD, args, ARRAY_SIZE(args), NULL);
}

void vfrace_lock_taken(bool nested)
{
	if (!nested)
		levels = 1;
	else if (levels > 0)
		levels++;
	check(false);
}

void vfrace_lock_releases(void)
{
	check(true);
	/* Only what the owner does counts. */
	if (levels > 0 && vfrace_mutex_owner(vfrace_lock) == current)
		levels--;
}
