/* sweep.c — owns a sweep: the grid that a YAML file spells, its runs as child processes one after another, and
 * sweep.json.
 *
 * Promises: a run that fails, or dies of whatever, costs only itself; what finished is never run again; what was
 * interrupted goes on from its checkpoint with its bits. Each run is this very program with the settings on its command
 * line, so that nothing of one run can reach the next. */
#include "cli/sweep.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/child.h"
#include "io/file.h"
#include "observe/sweep_report.h"
#include "train/run_folder.h"

enum { MOST_AXES = 16, MOST_RUNS = 10000, MOST_NAME = 120, PATH_BYTES = 4096 };

typedef struct axis {
    int option;
    const char **values; /* as tl__cli_value_text spells them, so that equal ones are equal text */
    int n;
} axis;

typedef struct sweep {
    tl_cli *cli;
    const char *file, *out;
    axis axes[MOST_AXES];
    int n_axes, runs;
    bool numbered; /* names are numbers: spelled out they would be too long, or not all different */
    bool quiet;
    json_t *settings; /* what makes it this sweep and no other */
    json_t *rows;     /* [runs] in the grid's order */
} sweep;

/* ---- the grid ---- */

static const tl_option *option_of(const sweep *s, int i) {
    return &s->cli->command->options[i];
}

static int option_named(const sweep *s, const char *name) {
    return tl__options_find(s->cli->command->options, name, strlen(name));
}

static int add_axis(sweep *s, int option, const char *const *values, int n, const char *spelled, tl_error *err) {
    const char *name = option_of(s, option)->name;
    if (s->cli->source[option] == TL_FROM_COMMAND_LINE)
        return tl__fail(err, TL_EINVALID,
                        "%s is a list, and --%s on the command line is one value; leave one of them out", spelled,
                        name);
    if (s->n_axes == MOST_AXES)
        return tl__fail(err, TL_EINVALID, "%s is the %dth setting with a list; a sweep may have %d", spelled,
                        MOST_AXES + 1, MOST_AXES);
    axis *a = &s->axes[s->n_axes++];
    *a = (axis){.option = option, .values = calloc((size_t)n, sizeof *a->values)};
    if (!a->values) return tl__fail(err, TL_ENOMEM, "no memory for the sweep");
    for (int k = 0; k < n; k++) {
        int status = tl__option_set(s->cli, option, &values[k], 1, spelled, TL_FROM_YAML, err);
        if (status) return status;
        char *text = tl__cli_value_text(s->cli, option);
        if (!text) return tl__fail(err, TL_ENOMEM, "no memory for the sweep");
        a->values[k] = tl__cli_keep(s->cli, text);
        free(text);
        for (int j = 0; j < k; j++)
            if (strcmp(a->values[j], a->values[k]) == 0)
                return tl__fail(err, TL_EINVALID, "%s lists %.80s twice, which would be the same run; keep one",
                                spelled, a->values[k]);
        a->n = k + 1;
    }
    if ((int64_t)s->runs * n > MOST_RUNS)
        return tl__fail(err, TL_EINVALID, "%s makes more than %d runs; list fewer values", spelled, MOST_RUNS);
    s->runs *= n;
    return 0;
}

static int add_entry(sweep *s, const tl_yaml_entry *e, tl_error *err) {
    int i = tl__cli_yaml_option(s->cli, e, s->file, err);
    if (i < 0) return i;
    char spelled[512];
    snprintf(spelled, sizeof spelled, "%.400s line %d: '%.60s'", s->file, e->line, e->key);
    if (i == option_named(s, "out"))
        return tl__fail(
            err, TL_EINVALID,
            "%s belongs on the command line: it names the folder in which every run has a folder of its own", spelled);
    if (e->n == 0)
        return tl__fail(err, TL_EINVALID, "%s is an empty list, which leaves nothing to run; name a value", spelled);
    if (option_of(s, i)->kind != TL_OPTION_LIST && e->n > 1) return add_axis(s, i, e->values, e->n, spelled, err);
    if (s->cli->source[i] == TL_FROM_COMMAND_LINE) return 0;
    return tl__option_set(s->cli, i, e->values, e->n, spelled, TL_FROM_YAML, err);
}

static int add_seeds(sweep *s, int64_t seeds, tl_error *err) {
    int i = option_named(s, "seed");
    for (int a = 0; a < s->n_axes; a++)
        if (s->axes[a].option == i)
            return tl__fail(err, TL_EINVALID, "%s lists seeds and --seeds counts them; leave one of them out", s->file);
    int64_t first = *(const int64_t *)((const char *)s->cli->values + option_of(s, i)->offset);
    char text[24];
    const char **values = calloc((size_t)seeds, sizeof *values);
    if (!values) return tl__fail(err, TL_ENOMEM, "no memory for the sweep");
    for (int64_t k = 0; k < seeds; k++) {
        snprintf(text, sizeof text, "%lld", (long long)(first + k));
        values[k] = tl__cli_keep(s->cli, text);
    }
    s->cli->source[i] = TL_FROM_YAML; /* --seed says only where to begin */
    int status = add_axis(s, i, values, (int)seeds, "--seeds", err);
    free(values);
    return status;
}

static int read_grid(sweep *s, int64_t seeds, tl_error *err) {
    char *bytes;
    size_t size;
    tl_yaml yaml = {0};
    int status = tl__file_slurp(&bytes, &size, s->file, 1 << 20, err);
    if (status) return status;
    status = tl__yaml_parse(&yaml, bytes, size, s->file, err);
    for (int i = 0; status == 0 && i < yaml.n; i++) status = add_entry(s, &yaml.entries[i], err);
    tl__yaml_free(&yaml);
    free(bytes);
    if (status == 0 && seeds > 1) status = add_seeds(s, seeds, err);
    if (status == 0 && s->n_axes == 0)
        status =
            tl__fail(err, TL_EINVALID,
                     "%s gives no setting more than one value, so there is nothing to sweep; write a list, such as "
                     "lr: [1e-3, 3e-3], or add --seeds N",
                     s->file);
    if (status == 0 && !tl__cli_given(s->cli, "data"))
        status = tl__fail(err, TL_EINVALID, "no data is named, neither in %s nor with --data", s->file);
    return status;
}

/* ---- one run of it ---- */

static const char *value_of(const sweep *s, int run, int axis_index) {
    for (int a = s->n_axes - 1; a > axis_index; a--) run /= s->axes[a].n;
    return s->axes[axis_index].values[run % s->axes[axis_index].n];
}

/* "depth=4,lr=0.001": what differs, in letters that any file system and shell takes. */
static void spell_name(const sweep *s, int run, char *out, size_t size) {
    size_t used = 0;
    if (s->numbered) {
        snprintf(out, size, "run-%05d", run + 1);
        return;
    }
    for (int a = 0; a < s->n_axes && used < size; a++) {
        used += (size_t)snprintf(out + used, size - used, "%s%s=%s", a ? "," : "",
                                 option_of(s, s->axes[a].option)->name, value_of(s, run, a));
    }
    for (char *c = out; *c; c++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-=,", *c)) *c = '-';
}

static int choose_names(sweep *s, tl_error *err) {
    json_t *seen = json_object();
    char name[2 * PATH_BYTES];
    for (int run = 0; run < s->runs && !s->numbered; run++) {
        spell_name(s, run, name, sizeof name);
        s->numbered = strlen(name) > MOST_NAME || json_object_get(seen, name);
        json_object_set_new(seen, name, json_true());
    }
    json_decref(seen);
    if (strlen(s->out) + MOST_NAME + 64 > PATH_BYTES)
        return tl__fail(err, TL_EINVALID, "--out: the path is too long for the runs' folders in it");
    return 0;
}

static void folder_of(const sweep *s, int run, char name[MOST_NAME + 1], char path[PATH_BYTES]) {
    spell_name(s, run, name, MOST_NAME + 1);
    tl__path_join(path, PATH_BYTES, s->out, name);
}

/* Settings that a run has from the user, by option: given, and part of what a YAML file may hold. */
static bool is_setting(const sweep *s, int i) {
    const tl_option *o = option_of(s, i);
    return o->kind != TL_OPTION_HEADING && !o->not_in_yaml && s->cli->source[i] != TL_FROM_DEFAULT &&
           i != option_named(s, "out");
}

/* The command line of a run. Prepared text is kept once, for all. */
static void make_arguments(sweep *s, int run, const char *folder, tl_arguments *a) {
    char path[PATH_BYTES];
    tl__arguments_add(a, "trilith", NULL);
    tl__arguments_add(a, s->cli->command->name, NULL);
    tl__arguments_add(a, "out", folder);
    for (int i = 0; i < tl__options_count(s->cli->command->options); i++) {
        if (!is_setting(s, i)) continue;
        int at = 0;
        while (at < s->n_axes && s->axes[at].option != i) at++;
        if (at < s->n_axes) tl__arguments_add(a, option_of(s, i)->name, value_of(s, run, at));
        else tl__arguments_add_option(a, s->cli, i);
    }
    tl__path_join(path, sizeof path, s->out, "data");
    if (!tl__cli_given(s->cli, "cache")) tl__arguments_add(a, "cache", path);
    tl__path_join(path, sizeof path, folder, "run.json");
    if (tl__path_exists(path)) tl__arguments_add(a, "--resume", NULL);
    if (s->quiet) tl__arguments_add(a, "--quiet", NULL);
}

/* ---- the child ---- */

static volatile sig_atomic_t stop_asked;
static volatile pid_t child; /* 0: none */

static void on_signal(int number) {
    (void)number;
    stop_asked = 1;
    if (child > 0) kill(child, SIGTERM);
}

static void catch_signals(sigset_t *held) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    action.sa_flags |= SA_RESETHAND; /* a second Ctrl-C ends it at once */
    sigaction(SIGINT, &action, NULL);
    sigemptyset(held);
    sigaddset(held, SIGTERM), sigaddset(held, SIGUSR1), sigaddset(held, SIGINT);
}

typedef struct listener {
    char *last;
    size_t size;
} listener;

/* A line of the child's standard error: remembered, since the last one says why it failed; shown when it says how the
 * run goes on. */
static void hear(void *user, const char *line) {
    static const char *const shown[] = {"step ", "depth ", "plan ", "warning: ", "error: "};
    const listener *l = user;
    if (!*line) return;
    snprintf(l->last, l->size, "%s", line);
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        if (strncmp(line, shown[i], strlen(shown[i])) == 0) fprintf(stderr, "  %s\n", line);
}

/* 0: it ended well. Else `why` says how it did not. */
static int run_child(sweep *s, int run, const char *folder, const sigset_t *held, char *why, size_t why_size) {
    tl_arguments a = {0};
    sigset_t before;
    int ends[2], status = 0;
    make_arguments(s, run, folder, &a);
    *why = 0;
    if (a.failed || pipe2(ends, O_CLOEXEC)) {
        snprintf(why, why_size, "no memory or no file descriptor to start it");
        tl__arguments_free(&a);
        return -1;
    }
    pid_t parent = getpid();
    sigprocmask(SIG_BLOCK, held,
                &before); /* from the look at stop_asked until `child` is known, none may come between */
    pid_t pid = stop_asked ? 0 : fork();
    if (pid == 0 && !stop_asked) {
        prctl(PR_SET_PDEATHSIG, SIGTERM); /* a sweep that is killed takes its run along, which leaves a checkpoint */
        if (getppid() != parent) _exit(TL_EXIT_FAILED);
        dup2(ends[1], STDERR_FILENO);
        sigprocmask(SIG_SETMASK, &before, NULL);
        execv("/proc/self/exe", a.list);
        _exit(127);
    }
    child = pid > 0 ? pid : 0;
    sigprocmask(SIG_SETMASK, &before, NULL);
    close(ends[1]);
    tl__arguments_free(&a);
    if (pid > 0) {
        tl__child_lines(ends[0], hear, &(listener){why, why_size});
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
        }
        child = 0;
    }
    close(ends[0]);
    if (pid < 0) {
        snprintf(why, why_size, "no process could be started for it: %s", strerror(errno));
        return -1;
    }
    if (stop_asked || (WIFEXITED(status) && WEXITSTATUS(status) == 0)) return 0;
    if (WIFSIGNALED(status))
        snprintf(why, why_size, "ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (!*why) snprintf(why, why_size, "ended with exit status %d", WEXITSTATUS(status));
    return -1;
}

/* ---- sweep.json ---- */

static json_t *list_settings(const sweep *s) {
    json_t *all = json_object();
    for (int i = 0; i < tl__options_count(s->cli->command->options); i++) {
        if (!is_setting(s, i) || i == option_named(s, "threads")) continue;
        const tl_option *o = option_of(s, i);
        int at = 0;
        while (at < s->n_axes && s->axes[at].option != i) at++;
        json_t *value = NULL;
        if (at < s->n_axes || o->kind == TL_OPTION_LIST) {
            const tl_list *list = (const void *)((char *)s->cli->values + o->offset);
            const char *const *texts = at < s->n_axes ? s->axes[at].values : list->values;
            value = json_array();
            for (int k = 0; k < (at < s->n_axes ? s->axes[at].n : list->n); k++)
                json_array_append_new(value, json_string(texts[k]));
        } else {
            char *text = tl__cli_value_text(s->cli, i);
            value = json_string(text ? text : "");
            free(text);
        }
        json_object_set_new(all, o->name, value);
    }
    return all;
}

static void tell_row(sweep *s, int run, const char *status, const char *error) {
    char name[MOST_NAME + 1], path[PATH_BYTES];
    folder_of(s, run, name, path);
    json_t *row = tl__sweep_row(path), *values = json_object();
    for (int a = 0; a < s->n_axes; a++)
        json_object_set_new(values, option_of(s, s->axes[a].option)->name, json_string(value_of(s, run, a)));
    json_object_set_new(row, "name", json_string(name));
    json_object_set_new(row, "values", values);
    if (status) json_object_set_new(row, "status", json_string(status));
    json_object_set_new(row, "error", error ? json_string(error) : json_null());
    if (run < (int)json_array_size(s->rows)) json_array_set_new(s->rows, (size_t)run, row);
    else json_array_append_new(s->rows, row);
}

static int put_all(sweep *s, const tl_run_folder *folder, tl_error *err) {
    json_t *axes = json_array();
    for (int a = 0; a < s->n_axes; a++) json_array_append_new(axes, json_string(option_of(s, s->axes[a].option)->name));
    json_t *all = json_pack("{s:s,s:o,s:O,s:o}", "version", tl_version(), "axes", axes, "settings", s->settings, "runs",
                            tl__sweep_sorted(s->rows));
    int status = all ? tl__run_folder_put(folder, "sweep.json", all, err)
                     : tl__fail(err, TL_ENOMEM, "no memory for the table of the sweep");
    json_decref(all);
    return status ? status : tl__sweep_report_write(s->out, err);
}

/* The folder, and what is in it already: nothing, or this very sweep. */
static int open_folder(sweep *s, tl_run_folder *folder, tl_error *err) {
    char path[PATH_BYTES], difference[512];
    tl__path_join(path, sizeof path, s->out, "run.json");
    if (tl__path_exists(path))
        return tl__fail(err, TL_EEXISTS, "%s holds a run, not a sweep; choose another --out", s->out);
    int status = tl__run_folder_open(folder, s->out, true, err);
    if (status) return status;
    json_t *earlier;
    status = tl__run_folder_get(folder, "sweep.json", &earlier, err);
    const json_t *was = json_object_get(earlier, "settings");
    if (status == 0 && earlier && tl__settings_differ(was, s->settings, difference, sizeof difference))
        status = tl__fail(err, TL_EEXISTS, "%s holds another sweep: %s; choose another --out", s->out, difference);
    json_decref(earlier);
    if (status) tl__run_folder_close(folder);
    return status;
}

/* ---- the whole ---- */

static int run_all(sweep *s, const tl_run_folder *folder, tl_error *err) {
    sigset_t held;
    catch_signals(&held);
    for (int run = 0; run < s->runs; run++) tell_row(s, run, NULL, NULL);
    int status = put_all(s, folder, err);
    for (int run = 0; status == 0 && !stop_asked && run < s->runs; run++) {
        char name[MOST_NAME + 1], path[PATH_BYTES], why[2048];
        folder_of(s, run, name, path);
        const json_t *row = json_array_get(s->rows, (size_t)run);
        bool before = strcmp(json_string_value(json_object_get(row, "status")), "finished") == 0;
        if (!s->quiet)
            fprintf(stderr, "run %d of %d  %s%s\n", run + 1, s->runs, name, before ? ": finished earlier" : "");
        if (before) continue;
        bool failed = run_child(s, run, path, &held, why, sizeof why) != 0;
        /* "trilith train: " of its sentence is not needed here */
        const char *reason =
            strncmp(why, s->cli->name, strlen(s->cli->name)) == 0 ? why + strlen(s->cli->name) + 2 : why;
        tell_row(s, run, failed ? "failed" : NULL, failed ? reason : NULL);
        if (failed) fprintf(stderr, "%s: run %s failed: %s\n", s->cli->name, name, reason);
        status = put_all(s, folder, err);
    }
    return status;
}

static int tell_end(const sweep *s) {
    int finished = 0, failed = 0;
    for (int run = 0; run < s->runs; run++) {
        const char *status = json_string_value(json_object_get(json_array_get(s->rows, (size_t)run), "status"));
        finished += strcmp(status, "finished") == 0;
        failed += strcmp(status, "failed") == 0;
    }
    if (stop_asked)
        fprintf(stderr, "stopped as asked, %d of %d runs finished; the same command goes on\n", finished, s->runs);
    else if (!s->quiet)
        fprintf(stderr, "done     %d of %d runs finished\nreport   %s/report.html\n", finished, s->runs, s->out);
    if (!failed || stop_asked) return TL_EXIT_DONE;
    fprintf(stderr, "%s: %d of %d runs failed; %s/sweep.md says why\n", s->cli->name, failed, s->runs, s->out);
    return TL_EXIT_FAILED;
}

int tl__sweep_run(tl_cli *cli, const char *file, const char *out, int64_t seeds) {
    sweep s = {.cli = cli, .file = file, .out = out, .runs = 1, .rows = json_array()};
    tl_run_folder folder;
    tl_error err = {0};
    s.quiet = tl__cli_given(cli, "quiet");
    int code = TL_EXIT_DONE, status = read_grid(&s, seeds, &err);
    if (!status) status = choose_names(&s, &err);
    if (!status) s.settings = list_settings(&s);
    if (!status) status = open_folder(&s, &folder, &err);
    if (!status) {
        status = run_all(&s, &folder, &err);
        tl__run_folder_close(&folder);
        if (!status) code = tell_end(&s);
    }
    if (status) code = tl__cli_fail(cli, &err);
    for (int a = 0; a < s.n_axes; a++) free(s.axes[a].values);
    json_decref(s.settings);
    json_decref(s.rows);
    return code;
}
