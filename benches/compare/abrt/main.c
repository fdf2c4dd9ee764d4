/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Feeds one console to abrt's oops extractor and prints the headline of each oops that it finds, a line each. */
#include <glib.h>
#include <stdio.h>
#include <string.h>

void abrt_koops_extract_oopses(GList **list, char *buffer, size_t length);

int main(int argc, char **argv)
{
    char *text;
    gsize length;
    GList *oopses = NULL;

    if (argc != 2 || !g_file_get_contents(argv[1], &text, &length, NULL))
        return 2;
    abrt_koops_extract_oopses(&oopses, text, length);
    for (GList *oops = oopses; oops; oops = oops->next) {
        /* the first line is the kernel's version, or empty */
        const char *title = strchr(oops->data, '\n');
        title = title ? title + 1 : "";
        printf("%.*s\n", (int)strcspn(title, "\n"), title);
    }
    return 0;
}
