// SPDX-License-Identifier: GPL-2.0-only
/*
 * Call points: entries and returns of functions where a task is held, or where a value is replaced.
 *
 * A point is described by a command:
 *   ID ROLE SUBJECT FUNCTION PHASE NTH UNTIL WHAT BOUND_US RETURN TEXT
 *   ROLE      teardown, unplug, any
 *   SUBJECT   VF index, -1 the PF, -3 the bridge, -4 any
 *   PHASE     enter, return
 *   UNTIL     none, time, started, committed, at (WHAT: a point's ID), released (by the host), blocked (WHAT: any, rescan
 *             for pci_rescan_remove_lock, or the function whose device_lock it is), done, rests
 *   RETURN    - or a value: the function is not called, or its value is replaced
 * "The other side" is the one whose task is not held.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/string.h>

#include "vfrace.h"

#define POINTS		32
#define TEXT_SIZE	160

enum until {
	UNTIL_NONE, UNTIL_TIME, UNTIL_STARTED, UNTIL_COMMITTED, UNTIL_AT, UNTIL_RELEASED, UNTIL_BLOCKED, UNTIL_DONE,
	UNTIL_RESTS,
};

static const char *const until_names[] = {
	[UNTIL_NONE] = "none", [UNTIL_TIME] = "time", [UNTIL_STARTED] = "started", [UNTIL_COMMITTED] = "committed",
	[UNTIL_AT] = "at", [UNTIL_RELEASED] = "released", [UNTIL_BLOCKED] = "blocked", [UNTIL_DONE] = "done",
	[UNTIL_RESTS] = "rests",
};

struct vfrace_point {
	u32 id;
	int side;			/* VFRACE_NO_SIDE: either */
	int index;
	unsigned int slot;
	bool enter;
	u32 nth;
	enum until until;
	char what[16];
	u64 bound_ns;
	bool replaces;
	long value;
	char text[TEXT_SIZE];
	/* of the round */
	atomic_t count;
	bool reached, released;
};

static struct vfrace_point points[POINTS];
static unsigned int npoints;

void vfrace_points_clear(void)
{
	npoints = 0;
}

void vfrace_points_reset(void)
{
	unsigned int i;

	for (i = 0; i < npoints; i++) {
		atomic_set(&points[i].count, 0);
		points[i].reached = false;
		points[i].released = false;
	}
}

void vfrace_point_release(u32 id)
{
	unsigned int i;

	for (i = 0; i < npoints; i++)
		if (points[i].id == id)
			WRITE_ONCE(points[i].released, true);
}

/* While nothing is armed. */
int vfrace_point_add(char *text)
{
	char role[12], name[64], phase[8], until[12], value[24];
	struct vfrace_point *point = &points[npoints];
	int slot, end = 0;
	u64 bound_us;

	if (npoints == POINTS) {
		vfrace_fail("more than %d points", POINTS);
		return -ENOSPC;
	}
	memset(point, 0, sizeof(*point));
	if (sscanf(text, "%u %11s %d %63s %7s %u %11s %15s %llu %23s %n", &point->id, role, &point->index, name, phase,
		   &point->nth, until, point->what, &bound_us, value, &end) != 10 || !end) {
		vfrace_fail("not a point: %s", text);
		return -EINVAL;
	}
	point->side = !strcmp(role, "teardown") ? VFRACE_SIDE_TEARDOWN :
		      !strcmp(role, "unplug") ? VFRACE_SIDE_UNPLUG : VFRACE_NO_SIDE;
	point->enter = !strcmp(phase, "enter");
	slot = match_string(until_names, ARRAY_SIZE(until_names), until);
	if (slot < 0) {
		vfrace_fail("not a point: %s", text);
		return slot;
	}
	point->until = slot;
	point->bound_ns = bound_us * NSEC_PER_USEC;
	point->replaces = strcmp(value, "-");
	if (point->replaces && kstrtol(value, 0, &point->value)) {
		vfrace_fail("not a value: %s", value);
		return -EINVAL;
	}
	strscpy(point->text, text + end, TEXT_SIZE);
	slot = vfrace_wrap(name);
	if (slot < 0) {
		vfrace_fail("%s cannot be a call point in this kernel (%d)", name, slot);
		return slot;
	}
	point->slot = slot;
	npoints++;
	return 0;
}

/* Whether a point is at the function of @slot. */
bool vfrace_points_use(unsigned int slot)
{
	unsigned int i;

	for (i = 0; i < npoints; i++)
		if (points[i].slot == slot)
			return true;
	return false;
}

static bool is_blocked(struct vfrace_side *other, const struct vfrace_point *point)
{
	struct mutex *lock = vfrace_blocked_on(other->task);
	int index;

	if (!lock)
		return false;
	if (!strcmp(point->what, "any"))
		return true;
	if (kstrtoint(point->what, 10, &index))
		return lock == vfrace_lock_by_name("rescan", 0);
	return lock == vfrace_lock_by_name("device", index);
}

static bool other_reached(u32 id)
{
	unsigned int i;

	for (i = 0; i < npoints; i++)
		if (points[i].id == id)
			return READ_ONCE(points[i].reached);
	return false;
}

static bool has_come(const struct vfrace_point *point, struct vfrace_side *other);

/* A task that is held rests, unless what it waits for has come and it is about to go on. */
static bool other_rests(struct vfrace_side *other)
{
	const struct vfrace_point *held = READ_ONCE(other->held);

	if (!held)
		return vfrace_side_is_blocked(other);
	return held->until == UNTIL_RESTS || !has_come(held, &vfrace_sides[other == vfrace_sides]);
}

static bool has_come(const struct vfrace_point *point, struct vfrace_side *other)
{
	bool started = smp_load_acquire(&other->started);
	u32 id;

	switch (point->until) {
	case UNTIL_STARTED:
		return started;
	case UNTIL_COMMITTED:
		return started && (READ_ONCE(other->committed) || READ_ONCE(other->done) ||
				   vfrace_blocked_on(other->task));
	case UNTIL_AT:
		return !kstrtou32(point->what, 10, &id) && other_reached(id);
	case UNTIL_RELEASED:
		return READ_ONCE(point->released);
	case UNTIL_BLOCKED:
		return started && is_blocked(other, point);
	case UNTIL_DONE:
		return READ_ONCE(other->done);
	case UNTIL_RESTS:
		return other_rests(other);
	case UNTIL_NONE:
	case UNTIL_TIME:
		break;
	}
	return false;
}

static void vfrace_hold(const struct vfrace_point *point, int side)
{
	struct vfrace_side *mine = &vfrace_sides[side], *other = &vfrace_sides[!side];
	u64 begin = ktime_get_mono_fast_ns(), args[2];

	WRITE_ONCE(mine->held, point);
	for (;;) {
		vfrace_unplug_poll();
		args[0] = ktime_get_mono_fast_ns() - begin;
		args[1] = VFRACE_HOLD_REACHED;
		if (has_come(point, other))
			break;
		args[1] = VFRACE_HOLD_STOPPED;
		if (!vfrace_calls_enabled())
			break;
		args[1] = point->until == UNTIL_TIME ? VFRACE_HOLD_REACHED : VFRACE_HOLD_BOUND;
		if (args[0] > point->bound_ns)
			break;
		args[1] = VFRACE_HOLD_MISSED;
		if (point->until != UNTIL_TIME && READ_ONCE(other->done))
			break;
		usleep_range(200, 500);
	}
	WRITE_ONCE(mine->held, NULL);
	vfrace_report(VFRACE_REPORT_HELD, args, ARRAY_SIZE(args), point->text);
}

/* In the context of the caller. */
void vfrace_points_at(struct vfrace_call *call, bool enter)
{
	unsigned int i;

	for (i = 0; i < npoints; i++) {
		struct vfrace_point *point = &points[i];

		if (point->slot != call->slot || point->enter != enter)
			continue;
		if (point->side == VFRACE_NO_SIDE ? call->side == VFRACE_NO_SIDE : point->side != call->side)
			continue;
		if (point->index != VFRACE_IS_ANY && point->index != call->index)
			continue;
		if (atomic_fetch_inc(&point->count) != point->nth)
			continue;
		vfrace_report(VFRACE_REPORT_POINT, NULL, 0, point->text);
		WRITE_ONCE(point->reached, true);
		if (point->until != UNTIL_NONE) {
			if (preemptible())
				vfrace_hold(point, call->side);
			else
				vfrace_fail("%s is called where it must not sleep: no hold there", call->name);
		}
		if (point->replaces) {
			call->replaced = true;
			call->ret = point->value;
		}
	}
}
