// SPDX-License-Identifier: GPL-2.0-only
/*
 * The handler of an unplug: a thread on CPU 1 that polls the mailbox while it is armed, or a task of the kernel's own that
 * is watched.
 *
 * The thread must make progress while the host holds a vhost-user answer, i.e. while the other virtual CPU stands still
 * and owns QEMU's global lock. So the loop does nothing that leaves translated code: no cpu_relax() (PAUSE on x86), no sleep
 * (HLT, or an enabled wait on s390), no I/O, no console. Where the schedule holds no message it sleeps between two looks.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/rcupdate.h>
#include <linux/string.h>
#include <linux/wait.h>

#include "vfrace.h"

#define UNPLUG_CPU	1
#define POLL_US		100

static enum { DO_NOTHING, DO_VIRTFN, DO_DEVICE, DO_WRITE, DO_WATCH } what;
static int target;
static char path[128], value[32];
static int watched;			/* slot */
static u32 watched_number;
static u32 watched_calls, watched_left;	/* until it is done */

static struct task_struct *thread;
static bool armed, spins;
static u32 pending;			/* number of an unplug that has come and is not begun */
static DECLARE_WAIT_QUEUE_HEAD(armed_wait);

/* "virtfn INDEX", "device INDEX", "write PATH VALUE", "watch FUNCTION NUMBER [CALLS]". While nothing is armed. */
int vfrace_unplug_set(char *text)
{
	int end = 0, slot;
	char name[64];

	what = DO_NOTHING;
	watched_calls = 1;
	if (sscanf(text, "virtfn %d", &target) == 1) {
		what = DO_VIRTFN;
	} else if (sscanf(text, "device %d", &target) == 1) {
		what = DO_DEVICE;
	} else if (sscanf(text, "write %127s %n", path, &end) == 1 && end && path[0] == '/') {
		strscpy(value, text + end, sizeof(value));
		what = DO_WRITE;
	} else if (sscanf(text, "watch %63s %u %u", name, &watched_number, &watched_calls) >= 2) {
		slot = vfrace_wrap(name);
		if (slot < 0) {
			vfrace_fail("%s cannot be watched in this kernel (%d)", name, slot);
			return slot;
		}
		watched = slot;
		what = DO_WATCH;
	} else {
		vfrace_fail("not an unplug: %s", text);
		return -EINVAL;
	}
	return 0;
}

/*
 * What arch/s390/pci does for a VF: zpci_bus_remove_device() looks the function up and zpci_iov_remove_virtfn() calls
 * pci_iov_remove_virtfn() on its PF under pci_rescan_remove_lock.
 */
static int remove_virtfn(int id)
{
	struct pci_dev *pf = vfrace_get_pf(), *vf;
	int ret = -ENODEV;

	if (!pf)
		return ret;
	vf = vfrace_get_function(id);
	if (vf && id >= 0) {
		pci_lock_rescan_remove();
		vfrace_iov_remove_virtfn(pf, id);
		pci_unlock_rescan_remove();
		ret = 0;
	}
	pci_dev_put(vf);
	pci_dev_put(pf);
	return ret;
}

/* What zpci_bus_remove_device() does for any other function. */
static int remove_device(int index)
{
	struct pci_dev *dev = vfrace_get_function(index);

	if (!dev)
		return -ENODEV;
	pci_lock_rescan_remove();
	pci_stop_and_remove_bus_device(dev);
	pci_unlock_rescan_remove();
	pci_dev_put(dev);
	return 0;
}

static int write_file(void)
{
	struct file *file;
	ssize_t ret;
	loff_t at = 0;

	if (!vfrace_root.mnt)
		return -ENXIO;
	file = file_open_root(&vfrace_root, path + 1, O_WRONLY, 0);
	if (IS_ERR(file))
		return PTR_ERR(file);
	ret = kernel_write(file, value, strlen(value), &at);
	filp_close(file, NULL);
	return ret < 0 ? ret : 0;
}

static void unplug(u32 number)
{
	u64 args[2] = { number, (s64)(what == DO_WRITE ? VFRACE_IS_NONE : target) };
	int ret = 0;

	vfrace_side_start(VFRACE_SIDE_UNPLUG);
	vfrace_report(VFRACE_REPORT_SEEN, args, 2, NULL);
	switch (what) {
	case DO_VIRTFN:
		ret = remove_virtfn(target);
		break;
	case DO_DEVICE:
		ret = remove_device(target);
		break;
	case DO_WRITE:
		ret = write_file();
		break;
	case DO_NOTHING:
	case DO_WATCH:
		break;
	}
	vfrace_side_done(VFRACE_SIDE_UNPLUG);
	args[1] = (s64)ret;
	vfrace_report(VFRACE_REPORT_UNPLUGGED, args, 2, NULL);
}

/*
 * The kernel's own handler is the side while it is in the function that is watched, from the first call in a round until
 * the last of as many as were announced (several functions in one burst).
 */
void vfrace_unplug_watch(struct vfrace_call *call, bool enter)
{
	u64 args[2] = { watched_number, (s64)(enter ? VFRACE_IS_NONE : 0) };

	if (what != DO_WATCH || call->slot != watched || !vfrace_platform_unplugs(call))
		return;
	if (enter && !vfrace_sides[VFRACE_SIDE_UNPLUG].started) {
		watched_left = watched_calls;
		vfrace_side_start(VFRACE_SIDE_UNPLUG);
		vfrace_report(VFRACE_REPORT_SEEN, args, 2, NULL);
	} else if (!enter && vfrace_side_of(current) == VFRACE_SIDE_UNPLUG) {
		if (watched_left > 1) {
			watched_left--;
			return;
		}
		vfrace_side_done(VFRACE_SIDE_UNPLUG);
		vfrace_report(VFRACE_REPORT_UNPLUGGED, args, 2, NULL);
	}
}

bool vfrace_unplug_uses(unsigned int slot)
{
	return what == DO_WATCH && slot == watched;
}

/* Takes what the host has sent, whoever asks first. */
void vfrace_unplug_poll(void)
{
	struct vfrace_unplug got;

	while (vfrace_mailbox_poll(&got)) {
		if (got.action == cpu_to_le32(VFRACE_UNPLUG_RELEASE))
			vfrace_point_release(le32_to_cpu(got.point));
		else
			WRITE_ONCE(pending, le32_to_cpu(got.number));
	}
}

static int unplug_thread(void *unused)
{
	unsigned int n;
	u32 number;

	while (!kthread_should_stop()) {
		wait_event_interruptible(armed_wait, READ_ONCE(armed) || kthread_should_stop());
		for (n = 0; READ_ONCE(armed) && !kthread_should_stop(); n++) {
			vfrace_unplug_poll();
			number = READ_ONCE(pending);
			if (number) {
				WRITE_ONCE(pending, 0);
				unplug(number);
				/* one event a round: leave the CPU to the teardown */
				WRITE_ONCE(armed, false);
			}
			/* A spinning thread must still pass through the scheduler now and then, for every kind of RCU. */
			if (!(n & 0xfff))
				cond_resched_tasks_rcu_qs();
			if (!READ_ONCE(spins))
				usleep_range(POLL_US, 2 * POLL_US);
		}
	}
	return 0;
}

/* @spin: never sleep, since the host may hold a message when the unplug comes. */
void vfrace_unplug_arm(bool on, bool spin)
{
	WRITE_ONCE(pending, 0);
	WRITE_ONCE(spins, spin);
	WRITE_ONCE(armed, on);
	wake_up_interruptible(&armed_wait);
}

int vfrace_unplug_init(void)
{
	if (!cpu_online(UNPLUG_CPU)) {
		pr_err("the handler needs a CPU of its own: start the guest with at least two\n");
		return -ENODEV;
	}
	thread = kthread_create(unplug_thread, NULL, "vfrace-unplug");
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	kthread_bind(thread, UNPLUG_CPU);
	wake_up_process(thread);
	return 0;
}

void vfrace_unplug_exit(void)
{
	vfrace_unplug_arm(false, false);
	kthread_stop(thread);
}
