// SPDX-License-Identifier: GPL-2.0-only
/*
 * Functions of the kernel that are called through this module.
 *
 * ftrace calls us at the first instruction of a function that is wrapped, and we go on in a wrapper of our own instead,
 * as a live patch does. The wrapper runs in the context of the caller and may sleep; it calls the function itself,
 * which ftrace lets pass because it returns to that very wrapper. So a task that is held at an entry or a return stands
 * in an ordinary C function and keeps nothing but what it held anyway.
 *
 * Where a function returns to is not always where it was called: a wrapped function that ends by jumping to another one
 * (a tail call) leaves its own return address, in its own wrapper. Hence one wrapper for each function.
 *
 * Up to VFRACE_ARGS arguments in registers are handed on. Functions with more of them, or with structures by value,
 * must not be wrapped.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/ftrace.h>
#include <linux/module.h>
#include <linux/mutex.h>

#include "vfrace.h"

#define NAME_SIZE	64

struct slot {
	unsigned long address;
	char name[NAME_SIZE];
	bool off;			/* was wrapped, and is not */
};

static struct slot slots[VFRACE_SLOTS];
static unsigned int nslots;
static DEFINE_MUTEX(slots_lock);
static atomic_t inside;			/* tasks in a wrapper */
static unsigned long sizes[VFRACE_SLOTS];	/* of the wrappers, bytes */

typedef unsigned long (*function)(unsigned long, unsigned long, unsigned long, unsigned long, unsigned long,
				  unsigned long);

static __always_inline unsigned long wrapped(unsigned int n, unsigned long a, unsigned long b, unsigned long c,
					     unsigned long d, unsigned long e, unsigned long f)
{
	function original = (function)slots[n].address;
	struct vfrace_call call = {
		.slot = n,
		.name = slots[n].name,
		.args = { a, b, c, d, e, f },
	};

	/* Only a task can be held, and only a task is of interest. */
	if (!in_task()) {
		call.ret = original(a, b, c, d, e, f);
		barrier();		/* no tail call: the return address tells redirect() where it comes from */
		return call.ret;
	}
	atomic_inc(&inside);
	vfrace_call_enter(&call);
	if (!call.replaced)
		call.ret = original(a, b, c, d, e, f);
	vfrace_call_return(&call);
	atomic_dec(&inside);
	return call.ret;
}

#define WRAPPER(n)										\
	static noinline unsigned long vfrace_wrap_##n(unsigned long a, unsigned long b, unsigned long c,	\
						      unsigned long d, unsigned long e, unsigned long f)	\
	{											\
		return wrapped(0##n, a, b, c, d, e, f);						\
	}
#define WRAPPERS(tens)										\
	WRAPPER(tens##0) WRAPPER(tens##1) WRAPPER(tens##2) WRAPPER(tens##3)			\
	WRAPPER(tens##4) WRAPPER(tens##5) WRAPPER(tens##6) WRAPPER(tens##7)
#define NAMES(tens)										\
	vfrace_wrap_##tens##0, vfrace_wrap_##tens##1, vfrace_wrap_##tens##2, vfrace_wrap_##tens##3,	\
	vfrace_wrap_##tens##4, vfrace_wrap_##tens##5, vfrace_wrap_##tens##6, vfrace_wrap_##tens##7

/* octal, so that a row has eight */
WRAPPERS(0) WRAPPERS(1) WRAPPERS(2) WRAPPERS(3) WRAPPERS(4) WRAPPERS(5) WRAPPERS(6) WRAPPERS(7)

static const function wrappers[VFRACE_SLOTS] = {
	NAMES(0), NAMES(1), NAMES(2), NAMES(3), NAMES(4), NAMES(5), NAMES(6), NAMES(7)
};

static void notrace redirect(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *ops,
			     struct ftrace_regs *fregs)
{
	unsigned int i, n = smp_load_acquire(&nslots);

	for (i = 0; i < n; i++) {
		/* ip is the call to ftrace, which may stand behind a landing pad */
		if (ip - slots[i].address >= 16)
			continue;
		if (parent_ip - (unsigned long)wrappers[i] >= sizes[i])
			ftrace_regs_set_instruction_pointer(fregs, (unsigned long)wrappers[i]);
		return;
	}
}

static struct ftrace_ops ops = {
	.func = redirect,
	.flags = FTRACE_OPS_FL_DYNAMIC | FTRACE_OPS_FL_IPMODIFY,
};

static bool registered;

/*
 * The function is wrapped from vfrace_wrap_begin() on, or at once if that has been called. Patching waits for every task to
 * pass through the scheduler: not while the handler polls.
 */
int vfrace_wrap(const char *name)
{
	unsigned long address;
	unsigned int i;
	int ret;

	mutex_lock(&slots_lock);
	for (i = 0; i < nslots; i++) {
		if (strcmp(slots[i].name, name))
			continue;
		ret = slots[i].off ? ftrace_set_filter_ip(&ops, slots[i].address, 0, 0) : 0;
		if (!ret) {
			slots[i].off = false;
			ret = i;
		}
		goto out;
	}
	ret = -ENOSPC;
	if (nslots == VFRACE_SLOTS || strlen(name) >= NAME_SIZE)
		goto out;
	ret = -ENOENT;
	address = vfrace_symbol(name);
	if (!address)
		goto out;
	strscpy(slots[nslots].name, name, NAME_SIZE);
	slots[nslots].address = address;
	smp_store_release(&nslots, nslots + 1);
	ret = ftrace_set_filter_ip(&ops, address, 0, 0);
	if (ret)
		smp_store_release(&nslots, nslots - 1);
	else
		ret = nslots - 1;
out:
	mutex_unlock(&slots_lock);
	return ret;
}

/* It keeps its slot. What is inside of it goes on as it is. */
int vfrace_unwrap(const char *name)
{
	unsigned int i;
	int ret = 0;

	mutex_lock(&slots_lock);
	for (i = 0; i < nslots; i++) {
		if (strcmp(slots[i].name, name) || slots[i].off)
			continue;
		ret = ftrace_set_filter_ip(&ops, slots[i].address, 1, 0);
		slots[i].off = !ret;
	}
	mutex_unlock(&slots_lock);
	return ret;
}

int vfrace_wrap_begin(void)
{
	int ret = register_ftrace_function(&ops);

	registered = !ret;
	return ret;
}

int vfrace_wrap_init(void)
{
	unsigned int i;

	for (i = 0; i < VFRACE_SLOTS; i++) {
		sizes[i] = vfrace_symbol_size((unsigned long)wrappers[i]);
		if (!sizes[i])
			return -ENOENT;
	}
	return 0;
}

void vfrace_wrap_exit(void)
{
	if (registered)
		unregister_ftrace_function(&ops);
	registered = false;
	/* A task that was redirected just now is not counted yet. */
	do {
		msleep(20);
	} while (atomic_read(&inside));
}
