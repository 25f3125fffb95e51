/* sweep.h — trilith train --sweep: a grid of runs, one after another, each a process of its own.
 *
 * A YAML file like --config's, in which any setting may be a list; the runs are all combinations, in the file's order, the
 * last key turning fastest. Each is a run folder OUT/KEY=VALUE,…; OUT/sweep.json, sweep.md and report.html tell of all
 * and are made again after every run. Started again, the same sweep goes on where it stopped. */
#ifndef TL_CLI_SWEEP_H
#define TL_CLI_SWEEP_H

#include "cli/cli.h"

/* seeds: 0, or each combination with that many seeds. Returns an exit code: 0 when every run finished or the sweep was
 * asked to stop, 1 when a run failed, 2 when the grid or the folder is at fault. */
int tl__sweep_run(tl_cli *cli, const char *file, const char *out, int64_t seeds);

#endif
