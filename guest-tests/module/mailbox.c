// SPDX-License-Identifier: GPL-2.0-only
/* The mailbox: a virtio driver for the three queues described in vfrace_proto.h. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/utsname.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/workqueue.h>

#include "vfrace.h"

#define UNPLUGS		8
#define COMMANDS	8
#define REPORTS		192

static struct virtqueue *queues[VFRACE_QUEUES];
static struct vfrace_unplug *unplugs;
static struct vfrace_command *commands;
static struct vfrace_report *reports;
static struct vfrace_report *free_reports[REPORTS];
static unsigned int nfree;
static u64 next_number, dropped;
static bool ready;

/* Raw: reports are made in probe handlers, with preemption off. Never held across anything that needs the host. */
static DEFINE_RAW_SPINLOCK(report_lock);

u64 vfrace_dropped(void)
{
	return READ_ONCE(dropped);
}

void vfrace_report(u32 kind, const u64 *args, unsigned int nargs, const char *text)
{
	size_t length = text ? min_t(size_t, strlen(text), VFRACE_REPORT_TEXT) : 0;
	struct vfrace_report *report;
	struct scatterlist sg;
	unsigned long flags;
	unsigned int i, len;

	raw_spin_lock_irqsave(&report_lock, flags);
	if (!ready) {
		dropped++;
		goto out;
	}
	while ((report = virtqueue_get_buf(queues[VFRACE_QUEUE_REPORT], &len)))
		free_reports[nfree++] = report;
	if (!nfree) {
		dropped++;
		next_number++;		/* the host sees the gap */
		goto out;
	}
	report = free_reports[--nfree];
	report->number = cpu_to_le64(next_number++);
	report->guest_ns = cpu_to_le64(ktime_get_mono_fast_ns());
	report->kind = cpu_to_le32(kind);
	report->pid = cpu_to_le32(task_pid_nr(current));
	report->cpu = cpu_to_le32(raw_smp_processor_id());
	report->length = cpu_to_le32(length);
	for (i = 0; i < VFRACE_REPORT_ARGS; i++)
		report->args[i] = cpu_to_le64(i < nargs ? args[i] : 0);
	memcpy(report->comm, current->comm, VFRACE_COMM);
	if (length)
		memcpy(report->text, text, length);
	sg_init_one(&sg, report, sizeof(*report));
	/* No kick: the host polls. A kick is MMIO and would wait for QEMU's global lock. */
	if (virtqueue_add_outbuf(queues[VFRACE_QUEUE_REPORT], &sg, 1, report, GFP_ATOMIC)) {
		free_reports[nfree++] = report;
		dropped++;
	}
out:
	raw_spin_unlock_irqrestore(&report_lock, flags);
}

void vfrace_fail(const char *fmt, ...)
{
	char text[128];
	va_list args;

	va_start(args, fmt);
	vscnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	pr_err("%s\n", text);
	vfrace_report(VFRACE_REPORT_FAILED, NULL, 0, text);
}

static int give_unplug(struct vfrace_unplug *unplug)
{
	struct scatterlist sg;

	sg_init_one(&sg, unplug, sizeof(*unplug));
	return virtqueue_add_inbuf(queues[VFRACE_QUEUE_UNPLUG], &sg, 1, unplug, GFP_ATOMIC);
}

/*
 * By the polling thread and by tasks that are held, never in an interrupt: interrupts stay on, since turning them on
 * again leaves translated code when one is pending.
 */
static DEFINE_RAW_SPINLOCK(unplug_lock);

/* True: @unplug has been filled. Touches shared memory and nothing else; a lock that is taken is not waited for. */
bool vfrace_mailbox_poll(struct vfrace_unplug *unplug)
{
	struct vfrace_unplug *got = NULL;
	unsigned int len;

	if (!READ_ONCE(ready) || !raw_spin_trylock(&unplug_lock))
		return false;
	got = virtqueue_get_buf(queues[VFRACE_QUEUE_UNPLUG], &len);
	if (got) {
		*unplug = *got;
		if (len < sizeof(*got))
			unplug->action = cpu_to_le32(VFRACE_UNPLUG_NOP);
		/* Published without a kick, for the same reason as a report: the host looks when it needs a buffer. */
		give_unplug(got);
	}
	raw_spin_unlock(&unplug_lock);
	return got;
}

static int give_command(struct vfrace_command *command)
{
	struct scatterlist sg;

	sg_init_one(&sg, command, sizeof(*command));
	return virtqueue_add_inbuf(queues[VFRACE_QUEUE_COMMAND], &sg, 1, command, GFP_KERNEL);
}

static void command_work(struct work_struct *work);
static DECLARE_DELAYED_WORK(command_worker, command_work);

/*
 * The device has one interrupt vector (QEMU's vhost-user-base). virtio-pci wants two if a queue has a callback, or the
 * interrupt line, which s390 has not: there nobody calls, and commands are looked for at every tick. On CPU 0, away from
 * the handler.
 */
static const bool polls = IS_ENABLED(CONFIG_S390);

static void look_again(void)
{
	if (polls && READ_ONCE(ready))
		schedule_delayed_work_on(0, &command_worker, 1);
}

static void command_work(struct work_struct *work)
{
	struct vfrace_command *command;
	unsigned int len;

	do {
		virtqueue_disable_cb(queues[VFRACE_QUEUE_COMMAND]);
		while ((command = virtqueue_get_buf(queues[VFRACE_QUEUE_COMMAND], &len))) {
			static char text[VFRACE_COMMAND_TEXT + 1];	/* one work item, one user */
			size_t length = min_t(size_t, le32_to_cpu(command->length), VFRACE_COMMAND_TEXT);

			memcpy(text, command->text, length);
			text[length] = 0;
			vfrace_command(le32_to_cpu(command->id), le32_to_cpu(command->kind), text);
			give_command(command);
			virtqueue_kick(queues[VFRACE_QUEUE_COMMAND]);
		}
	} while (!virtqueue_enable_cb(queues[VFRACE_QUEUE_COMMAND]));
	look_again();
}

static void command_ready(struct virtqueue *vq)
{
	schedule_delayed_work(&command_worker, 0);
}

static void free_buffers(void)
{
	kfree(unplugs);
	kfree(commands);
	kfree(reports);
	unplugs = NULL;
	commands = NULL;
	reports = NULL;
	nfree = 0;
}

static int mailbox_probe(struct virtio_device *vdev)
{
	struct virtqueue_info info[VFRACE_QUEUES] = {
		[VFRACE_QUEUE_UNPLUG] = { .name = "unplug" },
		[VFRACE_QUEUE_COMMAND] = { .name = "command", .callback = polls ? NULL : command_ready },
		[VFRACE_QUEUE_REPORT] = { .name = "report" },
	};
	u64 version = VFRACE_PROTO_VERSION;
	unsigned int i;
	int ret;

	if (ready)
		return -EBUSY;
	unplugs = kcalloc(UNPLUGS, sizeof(*unplugs), GFP_KERNEL);
	commands = kcalloc(COMMANDS, sizeof(*commands), GFP_KERNEL);
	reports = kcalloc(REPORTS, sizeof(*reports), GFP_KERNEL);
	ret = -ENOMEM;
	if (!unplugs || !commands || !reports)
		goto no_memory;
	for (i = 0; i < REPORTS; i++)
		free_reports[nfree++] = &reports[i];

	ret = virtio_find_vqs(vdev, VFRACE_QUEUES, queues, info, NULL);
	if (ret)
		goto no_memory;
	virtio_device_ready(vdev);
	for (i = 0; i < UNPLUGS && !ret; i++)
		ret = give_unplug(&unplugs[i]);
	for (i = 0; i < COMMANDS && !ret; i++)
		ret = give_command(&commands[i]);
	if (ret)
		goto no_buffers;
	/* One kick each, so that the host's side has seen every queue start. */
	virtqueue_kick(queues[VFRACE_QUEUE_UNPLUG]);
	virtqueue_kick(queues[VFRACE_QUEUE_COMMAND]);
	virtqueue_kick(queues[VFRACE_QUEUE_REPORT]);
	WRITE_ONCE(ready, true);
	vfrace_report(VFRACE_REPORT_HELLO, &version, 1, utsname()->release);
	look_again();
	return 0;

no_buffers:
	virtio_reset_device(vdev);
	vdev->config->del_vqs(vdev);
no_memory:
	free_buffers();
	return ret;
}

static void mailbox_remove(struct virtio_device *vdev)
{
	unsigned long flags;

	vfrace_unplug_arm(false, false);
	raw_spin_lock_irqsave(&report_lock, flags);
	WRITE_ONCE(ready, false);
	raw_spin_unlock_irqrestore(&report_lock, flags);
	virtio_reset_device(vdev);
	cancel_delayed_work_sync(&command_worker);
	vdev->config->del_vqs(vdev);
	free_buffers();
}

static const struct virtio_device_id mailbox_ids[] = {
	{ VFRACE_VIRTIO_ID, VIRTIO_DEV_ANY_ID },
	{ }
};
MODULE_DEVICE_TABLE(virtio, mailbox_ids);

static struct virtio_driver mailbox_driver = {
	.driver.name = KBUILD_MODNAME,
	.id_table = mailbox_ids,
	.probe = mailbox_probe,
	.remove = mailbox_remove,
};

int vfrace_mailbox_init(void)
{
	return register_virtio_driver(&mailbox_driver);
}

void vfrace_mailbox_exit(void)
{
	unregister_virtio_driver(&mailbox_driver);
}
