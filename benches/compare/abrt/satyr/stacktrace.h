/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* What abrt's kernel.c asks of satyr, which only makes hashes there: nothing is found. */
#ifndef STUB_SATYR_STACKTRACE_H
#define STUB_SATYR_STACKTRACE_H
enum { SR_REPORT_KERNELOOPS };
enum { SR_DUPHASH_NOHASH = 1, SR_DUPHASH_NONORMALIZE = 2, SR_DUPHASH_KOOPS_COMPAT = 4 };
struct sr_stacktrace;
struct sr_thread;
static inline struct sr_stacktrace *sr_stacktrace_parse(int kind, const char *text, char **error)
{
    (void)kind, (void)text, (void)error;
    return 0;
}
static inline struct sr_thread *sr_stacktrace_find_crash_thread(struct sr_stacktrace *stacktrace)
{
    (void)stacktrace;
    return 0;
}
static inline char *sr_thread_get_duphash(struct sr_thread *thread, int frames, char *prefix, int flags)
{
    (void)thread, (void)frames, (void)prefix, (void)flags;
    return 0;
}
static inline void sr_stacktrace_free(struct sr_stacktrace *stacktrace)
{
    (void)stacktrace;
}
#endif
