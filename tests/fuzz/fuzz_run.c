/* fuzz_run.c — a run folder whose files are any bytes: the report of it is always whole, is UTF-8, and holds no markup
 * but its own. The input is the four files one after the other, parted by the byte 0xff, which none of them may hold.
 */
#include <string.h>
#include <utf8proc.h>
#include "folder.h"
#include "observe/report.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const names[] = {"metrics.jsonl", "plan.json", "samples.jsonl", "config.yaml"};
    (void)make_folder();
    for (int i = 0; i < 4; i++) {
        const uint8_t *end = size ? memchr(data, 0xff, size) : NULL;
        size_t n = end && i < 3 ? (size_t)(end - data) : size;
        put_file(names[i], data, n);
        size_t past = n + (end && i < 3);
        data += past;
        size -= past;
    }
    tl_error err = {0};
    if (tl__report_write(folder, &err) != 0) abort(); /* a folder that can be read always gives a report */
    char path[128], *page;
    size_t n;
    snprintf(path, sizeof path, "%s/report.html", folder);
    if (tl__file_slurp(&page, &n, path, (size_t)1 << 30, NULL) != 0) abort();
    assert(strlen(page) == n);
    assert(n > 16 && strcmp(page + n - 8, "</html>\n") == 0);
    assert(!strstr(page, "<script") && !strstr(page, "<img") && !strstr(page, "onerror=\""));
    for (size_t at = 0; at < n;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)page + at, (utf8proc_ssize_t)(n - at), &c);
        assert(used > 0);
        at += (size_t)used;
    }
    free(page);
    return 0;
}
