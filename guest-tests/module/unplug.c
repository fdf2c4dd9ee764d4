// SPDX-License-Identifier: GPL-2.0-only
/*
 * The unplug handler: a thread on CPU 1 that polls the mailbox while it is armed.
 *
 * It must make progress while the host holds a vhost-user answer, i.e. while the other virtual CPU stands still and
 * owns QEMU's global lock. So the loop does nothing that leaves translated code: no cpu_relax() (PAUSE), no sleep
 * (HLT), no I/O, no console.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/rcupdate.h>
#include <linux/wait.h>

#include "vfrace.h"

#define UNPLUG_CPU	1

static struct task_struct *thread;
static bool armed;
static DECLARE_WAIT_QUEUE_HEAD(armed_wait);

/*
 * What arch/s390/pci does for a VF: zpci_bus_remove_device() looks the function up and zpci_iov_remove_virtfn() calls
 * pci_iov_remove_virtfn() on its PF under pci_rescan_remove_lock.
 */
static void unplug_platform(struct pci_dev *pf, int id)
{
	unsigned int rid = vfrace_vf_rid(pf, id);
	struct pci_dev *vf;

	vf = pci_get_domain_bus_and_slot(pci_domain_nr(pf->bus), PCI_BUS_NUM(rid), rid & 0xff);
	if (!vf)
		return;
	pci_lock_rescan_remove();
	vfrace_iov_remove_virtfn(pf, id);
	pci_unlock_rescan_remove();
	pci_dev_put(vf);
}

static void unplug(const struct vfrace_unplug *unplug)
{
	u64 args[2] = { le32_to_cpu(unplug->number), le32_to_cpu(unplug->vf) };
	struct pci_dev *pf;

	vfrace_report(VFRACE_REPORT_SEEN, args, 2, NULL);
	if (unplug->action == cpu_to_le32(VFRACE_UNPLUG_PLATFORM)) {
		pf = vfrace_get_pf();
		if (pf) {
			if (args[1] < pci_sriov_get_totalvfs(pf))
				unplug_platform(pf, args[1]);
			pci_dev_put(pf);
		}
	}
	vfrace_report(VFRACE_REPORT_UNPLUGGED, args, 1, NULL);
}

static int unplug_thread(void *unused)
{
	struct vfrace_unplug got;
	unsigned int n;

	while (!kthread_should_stop()) {
		wait_event_interruptible(armed_wait, READ_ONCE(armed) || kthread_should_stop());
		for (n = 0; READ_ONCE(armed) && !kthread_should_stop(); n++) {
			if (vfrace_mailbox_poll(&got)) {
				unplug(&got);
				/* one event a round: leave the CPU to the teardown */
				WRITE_ONCE(armed, false);
			}
			/* A spinning thread must still pass through the scheduler now and then, for every kind of RCU. */
			if (!(n & 0xfff))
				cond_resched_tasks_rcu_qs();
		}
	}
	return 0;
}

void vfrace_unplug_arm(bool on)
{
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
	vfrace_unplug_arm(false);
	kthread_stop(thread);
}
