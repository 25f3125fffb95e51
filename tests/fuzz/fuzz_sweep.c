/* fuzz_sweep.c — a sweep's folder whose sweep.json and one run's metrics.jsonl are any bytes: either one sentence, or a
 * table and a whole page that holds no markup but its own. The input is the two files, parted by the byte 0xff. */
#include <string.h>
#include "folder.h"
#include "observe/sweep_report.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (make_folder()) {
        char run[96];
        snprintf(run, sizeof run, "%s/a", folder);
        assert(mkdir(run, 0700) == 0);
    }
    const uint8_t *end = size ? memchr(data, 0xff, size) : NULL;
    size_t first = end ? (size_t)(end - data) : size;
    put_file("sweep.json", data, first);
    put_file("a/metrics.jsonl", end ? end + 1 : data, end ? size - first - 1 : 0);
    tl_error err = {0};
    if (tl__sweep_report_write(folder, &err) != 0) {
        assert(err.status == TL_EFORMAT && strlen(err.text) > 10);
        return 0;
    }
    char path[128], *page, *table;
    size_t n;
    snprintf(path, sizeof path, "%s/report.html", folder);
    if (tl__file_slurp(&page, &n, path, (size_t)1 << 30, NULL) != 0) abort();
    assert(strlen(page) == n);
    assert(n > 16 && strcmp(page + n - 8, "</html>\n") == 0);
    assert(!strstr(page, "<script") && !strstr(page, "<img") && !strstr(page, "=\"javascript"));
    free(page);
    snprintf(path, sizeof path, "%s/sweep.md", folder);
    if (tl__file_slurp(&table, &n, path, (size_t)1 << 30, NULL) != 0) abort();
    assert(strlen(table) == n && n > 0 && table[n - 1] == '\n');
    free(table);
    return 0;
}
