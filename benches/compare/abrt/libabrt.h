/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* What abrt's kernel.c asks of abrt and libreport, so that it can be compiled alone. */
#ifndef STUB_LIBABRT_H
#define STUB_LIBABRT_H
#include <assert.h>
#include <ctype.h>
#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct abrt_koops_line_info {
    char *ptr;
    int level;
};

enum { libreport_g_verbose = 0 };
#define VERB3 if (0)
#define log_debug(...) ((void)0)
#define log_warning(...) ((void)0)
#define error_msg(...) ((void)0)
#define error_msg_and_die(...) abort()

char *abrt_koops_extract_version(const char *line);
int abrt_koops_line_skip_level(const char **c);
void abrt_koops_line_skip_jiffies(const char **c);
void abrt_koops_extract_oopses_from_lines(GList **list, const struct abrt_koops_line_info *lines, int count);
void abrt_koops_extract_oopses(GList **list, char *buffer, size_t length);
#endif
