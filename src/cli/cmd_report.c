/* cmd_report.c — `trilith report`: make a run's report.html again, during the run or years after it. */
#include <stdio.h>
#include "cli/cli.h"
#include "io/file.h"
#include "observe/report.h"
#include "observe/sweep_report.h"

typedef struct settings {
    bool json;
} settings;

static const tl_option options[] = {
    {"json", TL_FLAG(settings, json), .not_in_yaml = true, .help = "Print {\"report\": PATH} and nothing else."}, {0}};

static int run(tl_cli *cli) {
    const settings *o = cli->values;
    char path[4096];
    tl_error err = {0};
    const char *folder = cli->operands.values[0];
    tl__path_join(path, sizeof path, folder, "sweep.json");
    int status = tl__path_exists(path) ? tl__sweep_report_write(folder, &err) : tl__report_write(folder, &err);
    if (status < 0) return tl__cli_fail(cli, &err);
    tl__path_join(path, sizeof path, cli->operands.values[0], "report.html");
    if (o->json) return tl__cli_print_json(cli, json_pack("{s:s}", "report", path));
    printf("%s\n", path);
    return TL_EXIT_DONE;
}

const tl_command tl__cmd_report = {
    .name = "report",
    .summary = "make a run's report.html again",
    .usage = "RUN",
    .about = "Reads the run folder alone (config.yaml, plan.json, metrics.jsonl, samples.jsonl; whatever of them is "
             "there) and writes "
             "report.html into it: one page that needs no network and no script. The run may still be going on. Of a "
             "sweep's folder (sweep.json) it makes the "
             "sweep's page and its table sweep.md.",
    .examples = "  trilith report runs/demo\n"
                "      writes runs/demo/report.html and prints its path",
    .options = options,
    .values_bytes = sizeof(settings),
    .operand = "RUN",
    .least_operands = 1,
    .most_operands = 1,
    .run = run,
};
