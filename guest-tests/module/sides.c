// SPDX-License-Identifier: GPL-2.0-only
/* The two tasks of a race: which task is which side, and where each stands. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/stacktrace.h>
#include <linux/string.h>
#include <linux/workqueue.h>

#include "vfrace.h"

#define WATCH_EVERY	(HZ / 2)
#define CIRCLES		3		/* looks in a row that find it */
#define QUIET_NS	(250 * NSEC_PER_MSEC)	/* longer than a grace period takes under TCG */
#define FRAMES		40
#define CHAIN		8		/* tasks that wait for one another */

struct vfrace_side vfrace_sides[VFRACE_SIDES];

/* While nothing is armed. */
void vfrace_sides_reset(void)
{
	unsigned int i;

	for (i = 0; i < VFRACE_SIDES; i++) {
		struct task_struct *task = vfrace_sides[i].task;

		memset(&vfrace_sides[i], 0, sizeof(vfrace_sides[i]));
		if (task)
			put_task_struct(task);
	}
}

/* The calling task is this side from now on. */
void vfrace_side_start(int side)
{
	if (vfrace_sides[side].task)
		return;			/* one a round */
	get_task_struct(current);
	vfrace_sides[side].task = current;
	smp_store_release(&vfrace_sides[side].started, true);
}

void vfrace_side_done(int side)
{
	if (vfrace_sides[side].started)
		smp_store_release(&vfrace_sides[side].done, true);
}

int vfrace_side_of(struct task_struct *task)
{
	int i;

	for (i = 0; i < VFRACE_SIDES; i++)
		if (READ_ONCE(vfrace_sides[i].task) == task && !READ_ONCE(vfrace_sides[i].done))
			return i;
	return VFRACE_NO_SIDE;
}

/* Whether it has begun and does not go on by itself: done, blocked on a mutex, or asleep without a break for a while. */
bool vfrace_side_is_blocked(struct vfrace_side *side)
{
	unsigned long switches;

	if (!smp_load_acquire(&side->started))
		return false;
	if (READ_ONCE(side->done) || vfrace_blocked_on(side->task))
		return true;
	switches = READ_ONCE(side->task->nvcsw) + READ_ONCE(side->task->nivcsw);
	if (READ_ONCE(side->task->__state) == TASK_RUNNING || switches != side->switches) {
		side->switches = switches;
		side->quiet_since = ktime_get_mono_fast_ns();
		return false;
	}
	return ktime_get_mono_fast_ns() - side->quiet_since > QUIET_NS;
}

/*
 * Whether the way from a side that was started, from each task to the owner of the mutex that it waits for, does not
 * end: it comes back to the side, or it is longer than any that is not a circle.
 */
static bool is_circle_from(struct vfrace_side *mine)
{
	struct task_struct *at = mine->task, *next, *got = NULL;
	struct mutex *lock;
	unsigned int n;

	for (n = 0; n < CHAIN; n++) {
		lock = vfrace_blocked_on(at);
		next = lock ? vfrace_mutex_owner(lock) : NULL;
		if (got)
			put_task_struct(got);
		got = NULL;
		if (!next)
			return false;
		if (next == mine->task)
			return true;
		got = vfrace_get_task(next);
		if (!got)
			return false;
		at = got;
	}
	put_task_struct(got);
	return true;
}

static bool is_circle(void)
{
	int side;

	for (side = 0; side < VFRACE_SIDES; side++) {
		struct vfrace_side *mine = &vfrace_sides[side];

		if (smp_load_acquire(&mine->started) && !READ_ONCE(mine->done) && is_circle_from(mine))
			return true;
	}
	return false;
}

/* While a round is armed, a circle that lasts is reported once, without being asked for. */
static void watch_work(struct work_struct *work);
static DECLARE_DELAYED_WORK(watcher, watch_work);
static unsigned int circles;

static void watch_work(struct work_struct *work)
{
	circles = is_circle() ? circles + 1 : 0;
	if (circles == CIRCLES)
		vfrace_sides_report();
	else
		schedule_delayed_work(&watcher, WATCH_EVERY);
}

void vfrace_sides_watch(bool on)
{
	cancel_delayed_work_sync(&watcher);
	circles = 0;
	if (on)
		schedule_delayed_work(&watcher, WATCH_EVERY);
}

static void report_task(struct task_struct *task, u64 role)
{
	unsigned long frames[FRAMES];
	char text[VFRACE_REPORT_TEXT], name[TASK_COMM_LEN];
	struct mutex *lock = vfrace_blocked_on(task);
	struct task_struct *owner = lock ? vfrace_mutex_owner(lock) : NULL, *alive;
	unsigned int n;
	u64 args[5];
	int at;

	args[0] = role;
	args[1] = task_pid_nr(task);
	args[2] = 0;
	if (owner) {
		alive = vfrace_get_task(owner);
		args[2] = alive ? task_pid_nr(alive) : VFRACE_PID_DEAD;
		if (alive)
			put_task_struct(alive);
	}
	args[3] = READ_ONCE(task->nvcsw) + READ_ONCE(task->nivcsw);
	args[4] = READ_ONCE(task->__state) != TASK_RUNNING;
	strscpy(name, task->comm, sizeof(name));
	strreplace(name, ' ', '_');
	at = scnprintf(text, sizeof(text), "%s ", name);
	if (lock)
		at += vfrace_lock_name(lock, text + at, sizeof(text) - at);
	else
		at += scnprintf(text + at, sizeof(text) - at, "-");
	n = stack_trace_save_tsk(task, frames, ARRAY_SIZE(frames), 0);
	vfrace_stack(text + at, sizeof(text) - at, frames, n);
	vfrace_report(VFRACE_REPORT_STATE, args, ARRAY_SIZE(args), text);
}

/* What was started and is not done says where it is, and so does who has what it waits for, and so on. */
void vfrace_sides_report(void)
{
	struct task_struct *tasks[CHAIN];	/* with references */
	u64 roles[CHAIN];
	unsigned int n = 0, i, j;
	int side;

	for (side = 0; side < VFRACE_SIDES; side++) {
		if (!smp_load_acquire(&vfrace_sides[side].started) || READ_ONCE(vfrace_sides[side].done))
			continue;
		get_task_struct(vfrace_sides[side].task);
		roles[n] = side;
		tasks[n++] = vfrace_sides[side].task;
	}
	for (i = 0; i < n; i++) {
		struct mutex *lock = vfrace_blocked_on(tasks[i]);
		struct task_struct *owner = lock ? vfrace_mutex_owner(lock) : NULL;

		report_task(tasks[i], roles[i]);
		for (j = 0; j < n && owner; j++)
			if (tasks[j] == owner)
				owner = NULL;
		if (!owner || n == CHAIN)
			continue;
		owner = vfrace_get_task(owner);
		if (!owner)
			continue;
		roles[n] = VFRACE_SIDE_OTHER;
		for (side = 0; side < VFRACE_SIDES; side++)
			if (owner == READ_ONCE(vfrace_sides[side].task))
				roles[n] = side;
		tasks[n++] = owner;
	}
	for (i = 0; i < n; i++)
		put_task_struct(tasks[i]);
}
