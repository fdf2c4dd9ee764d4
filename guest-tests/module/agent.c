// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/vfrace: init reads shell commands from it, a line each ("ID TEXT"), and writes what became of them:
 *   ready             it reads commands from now on
 *   task ROLE         the writing task is ROLE in the scenario; the teardown is kept on CPU 0, away from the handler
 *   output ID TEXT    a line that command ID printed
 *   done ID STATUS    command ID ended
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpumask.h>
#include <linux/fs.h>
#include <linux/fs_struct.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/path.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "vfrace.h"

struct line {
	struct list_head list;
	size_t length, at;
	char text[];
};

static LIST_HEAD(lines);
static DEFINE_MUTEX(lines_lock);
static DECLARE_WAIT_QUEUE_HEAD(lines_wait);

void vfrace_agent_push(u32 id, const char *text)
{
	size_t size = strlen(text) + 16;
	struct line *line = kzalloc(sizeof(*line) + size, GFP_KERNEL);

	if (!line) {
		vfrace_fail("no memory for command %u", id);
		return;
	}
	line->length = scnprintf(line->text, size, "%u %s\n", id, text);
	mutex_lock(&lines_lock);
	list_add_tail(&line->list, &lines);
	mutex_unlock(&lines_lock);
	wake_up_interruptible(&lines_wait);
}

static ssize_t agent_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	struct line *line;
	ssize_t ret;

	if (wait_event_interruptible(lines_wait, !list_empty(&lines)))
		return -ERESTARTSYS;
	mutex_lock(&lines_lock);
	line = list_first_entry_or_null(&lines, struct line, list);
	ret = -EAGAIN;			/* another reader was faster */
	if (line) {
		ret = min(count, line->length - line->at);
		if (copy_to_user(buf, line->text + line->at, ret)) {
			ret = -EFAULT;
		} else {
			line->at += ret;
			if (line->at == line->length) {
				list_del(&line->list);
				kfree(line);
			}
		}
	}
	mutex_unlock(&lines_lock);
	return ret;
}

static void agent_line(char *text)
{
	u64 args[2] = { };
	int status, at = 0;
	u32 id;

	if (!strcmp(text, "ready")) {
		vfrace_report(VFRACE_REPORT_AGENT, NULL, 0, NULL);
	} else if (!strncmp(text, "task ", 5)) {
		if (!strcmp(text + 5, "teardown")) {
			set_cpus_allowed_ptr(current, cpumask_of(0));
			vfrace_side_start(VFRACE_SIDE_TEARDOWN);
		}
		vfrace_report(VFRACE_REPORT_TASK, NULL, 0, text + 5);
	} else if (sscanf(text, "output %u %n", &id, &at) == 1 && at) {
		args[0] = id;
		vfrace_report(VFRACE_REPORT_OUTPUT, args, 1, text + at);
	} else if (sscanf(text, "done %u %d", &id, &status) == 2) {
		/* The command of the teardown is the only one while it is under way. */
		vfrace_side_done(VFRACE_SIDE_TEARDOWN);
		args[0] = id;
		args[1] = (s64)status;
		vfrace_report(VFRACE_REPORT_DONE, args, 2, NULL);
	} else {
		vfrace_fail("init wrote something unknown: %.40s", text);
	}
}

static ssize_t agent_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	char text[VFRACE_REPORT_TEXT];
	size_t length = min(count, sizeof(text) - 1);
	char *rest = text, *one;

	if (copy_from_user(text, buf, length))
		return -EFAULT;
	text[length] = 0;
	while ((one = strsep(&rest, "\n")))
		if (*one)
			agent_line(one);
	return count;			/* what is too long for a report is cut */
}

/* What init sees as /. A kernel thread of newer kernels (7.3) sees an empty tree. */
struct path vfrace_root;
static bool have_root;

static int agent_open(struct inode *inode, struct file *file)
{
	mutex_lock(&lines_lock);
	if (!have_root)
		get_fs_root(current->fs, &vfrace_root);
	have_root = true;
	mutex_unlock(&lines_lock);
	return 0;
}

static const struct file_operations agent_fops = {
	.owner = THIS_MODULE,
	.open = agent_open,
	.read = agent_read,
	.write = agent_write,
};

static struct miscdevice agent_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = KBUILD_MODNAME,
	.fops = &agent_fops,
};

int vfrace_agent_init(void)
{
	return misc_register(&agent_device);
}

void vfrace_agent_exit(void)
{
	struct line *line, *next;

	misc_deregister(&agent_device);
	if (have_root)
		path_put(&vfrace_root);
	list_for_each_entry_safe(line, next, &lines, list)
		kfree(line);
}
