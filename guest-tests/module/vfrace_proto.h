/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What host and guest say to each other over the mailbox, a virtio device with three virtqueues. All fields are
 * little endian. The host's mirror of this file is src/guest/proto.rs; a unit test there compares the two.
 *
 * Queue 0, "unplug": buffers that the device fills with a struct vfrace_unplug. The guest polls the used ring and
 *   never waits for the interrupt: while the host holds a vhost-user answer, QEMU's global lock is taken and no
 *   interrupt is delivered, but a change in shared memory is seen.
 * Queue 1, "command": buffers that the device fills with a struct vfrace_command, with an interrupt, which is not waited
 *   for on s390.
 * Queue 2, "report": buffers that the driver fills with a struct vfrace_report. The driver does not kick (a kick is
 *   MMIO and would wait for the global lock); the host polls the available ring.
 */
#ifndef VFRACE_PROTO_H
#define VFRACE_PROTO_H

#include <linux/types.h>

#define VFRACE_PROTO_VERSION	3

/*
 * QEMU's vhost-user-test-device-pci takes any id that QEMU has a name for. 38 is reserved in the virtio
 * specification for an audio policy device that no Linux driver claims.
 */
#define VFRACE_VIRTIO_ID	38

#define VFRACE_QUEUE_UNPLUG	0
#define VFRACE_QUEUE_COMMAND	1
#define VFRACE_QUEUE_REPORT	2
#define VFRACE_QUEUES		3

#define VFRACE_COMMAND_TEXT	1000
#define VFRACE_REPORT_TEXT	432

/* vfrace_unplug.action */
#define VFRACE_UNPLUG_NOP	0	/* only say that it was seen */
#define VFRACE_UNPLUG_ACT	1	/* do what VFRACE_COMMAND_UNPLUG said */
#define VFRACE_UNPLUG_RELEASE	2	/* let go of the task that is held at a point */

struct vfrace_unplug {
	__le32 number;			/* running, from 1; 0 for a release */
	__le32 action;
	__le32 point;			/* number of the point, for a release */
	__le32 reserved;
};

/* vfrace_command.kind */
#define VFRACE_COMMAND_EXEC	1	/* text is a line of shell for init */
#define VFRACE_COMMAND_PF	2	/* text is the PF's address, DDDD:BB:DD.F */
#define VFRACE_COMMAND_ARM	3	/* report calls; words, see main.c */
#define VFRACE_COMMAND_DISARM	4
#define VFRACE_COMMAND_MEASURE	5	/* text is a label */
/*
 * ID ROLE SUBJECT FUNCTION PHASE NTH UNTIL WHAT BOUND_US RETURN TEXT, see points.c; without text: forget all points.
 */
#define VFRACE_COMMAND_POINT	6
/*
 * What the next unplug does: "virtfn INDEX", "device INDEX", "write PATH VALUE", or "watch FUNCTION NUMBER [CALLS]"
 * if it is not the module that does it.
 */
#define VFRACE_COMMAND_UNPLUG	7
#define VFRACE_COMMAND_STATES	8	/* report where both sides stand */
#define VFRACE_COMMAND_REPAIR	9	/* text is the number of references to give to the PF */
#define VFRACE_COMMAND_COST	10	/* measure what a call through the module costs */

struct vfrace_command {
	__le32 id;			/* running, from 1 */
	__le32 kind;
	__le32 length;			/* bytes of text */
	__le32 reserved;
	__u8 text[VFRACE_COMMAND_TEXT];
};

/* A function in args[] and commands: the index of a VF as in virtfnN, from 0, or one of these */
#define VFRACE_IS_PF		-1
#define VFRACE_IS_NONE		-2	/* none of ours */
#define VFRACE_IS_BRIDGE	-3
#define VFRACE_IS_ANY		-4	/* commands only: any, or none */

/* vfrace_report.kind, what args[] and text mean */
#define VFRACE_REPORT_HELLO	1	/* args: protocol version; text: release */
#define VFRACE_REPORT_AGENT	2	/* init reads commands */
#define VFRACE_REPORT_OUTPUT	3	/* args: command id; text: output */
#define VFRACE_REPORT_DONE	4	/* args: command id, exit status */
#define VFRACE_REPORT_TASK	5	/* text: role of the running task */
#define VFRACE_REPORT_SEEN	6	/* args: unplug number, function */
#define VFRACE_REPORT_UNPLUGGED	7	/* args: unplug number, 0 or a negative error number */
/* args: function, serial number of its pci_dev or 0; text: call, then callers, by spaces */
#define VFRACE_REPORT_ENTER	8
#define VFRACE_REPORT_RETURN	9	/* args: as above; text: call */
#define VFRACE_REPORT_LOCK_WAIT	10	/* args: owner's pid */
#define VFRACE_REPORT_LOCK_TAKEN 11	/* args: 1 if nested */
#define VFRACE_REPORT_LOCK_RELEASE 12
/*
 * args: references of the PF and of its bus, VFs created and released, owner of the lock, depth word, reports dropped,
 * references of the VFs' own bus or -1, owner word (pid) or -1, lists walked, entries seen there, defects found.
 * text, by lines: the label; "r" and the VFs that are there, "g" and what is removed but not released, each as
 * FIRST-LAST:REFERENCES, the PF as pf:REFERENCES; "l" and the first defect
 */
#define VFRACE_REPORT_MEASURED	13
#define VFRACE_REPORT_FAILED	14	/* text: why */
#define VFRACE_REPORT_POINT	15	/* text: the point as the command had it */
#define VFRACE_REPORT_HELD	16	/* args: nanoseconds, end (VFRACE_HOLD_*); text: the point */
/* args: side, pid, pid of the lock's owner, context switches so far, 0 if it can run; text: name, lock or "-", stack */
#define VFRACE_REPORT_STATE	17
/*
 * pci_rescan_remove_lock is not as the task that takes or releases it should find it. args: 0 taken or 1 about to be
 * released, pid of the mutex' owner, owner word (pid) or -1, depth word or -1, what that should be or -1
 */
#define VFRACE_REPORT_LOCK_ODD	18
/* args: nanoseconds of a call: as it is, passed through, looked at, reported at entry and return */
#define VFRACE_REPORT_COST	19

/* ends of a hold */
#define VFRACE_HOLD_REACHED	0
#define VFRACE_HOLD_BOUND	1
#define VFRACE_HOLD_MISSED	2	/* the other side is done */
#define VFRACE_HOLD_STOPPED	3	/* disarmed */

/* sides, VFRACE_REPORT_STATE */
#define VFRACE_SIDE_TEARDOWN	0
#define VFRACE_SIDE_UNPLUG	1
#define VFRACE_SIDE_OTHER	2	/* who keeps one of them from going on */

#define VFRACE_PID_DEAD		4294967295	/* instead of a pid: a task that is no more */

#define VFRACE_REPORT_ARGS	12
#define VFRACE_COMM		16

struct vfrace_report {
	__le64 number;			/* running, from 0 */
	__le64 guest_ns;
	__le32 kind;
	__le32 pid;
	__le32 cpu;
	__le32 length;			/* bytes of text */
	__le64 args[VFRACE_REPORT_ARGS];
	__u8 comm[VFRACE_COMM];
	__u8 text[VFRACE_REPORT_TEXT];
};

#endif /* VFRACE_PROTO_H */
