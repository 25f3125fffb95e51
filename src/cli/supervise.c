/* supervise.c — owns a job of several ranks from outside: starts it through the launcher, hears what it says, and
 * starts it again from its newest checkpoint with the ranks that are left.
 *
 * Promises: a job is started again only after a loss (status 75, or a rank's death by a signal); what would fail again
 * (wrong usage, a run that failed, a rank that computed wrongly) is not tried again. Starting again without a newer
 * checkpoint is done --max-restarts times at most, and without a host that the launcher cannot reach once for each
 * host, so that it ends. What the user asks by a signal reaches the job,
 * which checkpoints and stops. The supervisor computes nothing and holds nothing: killed, it takes the job along in
 * order. */
#include "cli/supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/hosts.h"
#include "io/file.h"
#include "train/checkpoint_format.h"

enum { PATH_BYTES = 4096, LEAST_RULE = 40 };

/* ---- what it says ---- */

static void lose(tl_job_news *news, long rank, const char *how) {
    if (rank < 0 || rank >= news->ranks || news->lost[rank]) return;
    news->lost[rank] = true;
    if (!news->how[0]) snprintf(news->how, sizeof news->how, "%s", how);
}

/* "mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 9 (Killed)." */
static void hear_mpirun(tl_job_news *news, const char *line) {
    static const char begin[] = "noticed that process rank ";
    const char *at = strstr(line, begin);
    const char *node = at ? strstr(at, " on node ") : NULL, *by = node ? strstr(node, " exited on signal ") : NULL;
    char how[160];
    if (!by) return;
    snprintf(how, sizeof how, "killed by signal %ld on %.*s", strtol(by + 18, NULL, 10), (int)(by - node - 9),
             node + 9);
    lose(news, strtol(at + sizeof begin - 1, NULL, 10), how);
}

/* "srun: error: node1: task 2: Killed" */
static void hear_srun(tl_job_news *news, const char *line) {
    static const char begin[] = "srun: error: ";
    const char *task = strstr(line, ": task ");
    char how[160], *end;
    if (strncmp(line, begin, sizeof begin - 1) != 0 || !task) return;
    long rank = strtol(task + 7, &end, 10);
    if (end == task + 7 || (strncmp(end, ": Killed", 8) && strncmp(end, ": Segmentation fault", 20))) return;
    snprintf(how, sizeof how, "killed on %.*s", (int)(task - line - (long)sizeof begin + 1), line + sizeof begin - 1);
    lose(news, rank, how);
}

/* A rank's own sentence says of who is lost "rank 2 (node7) has not come and is silent for 4.0 s", as often as there
 * are; a keeper's "rank 2 (node7) was killed by signal 9". */
static void hear_rank(tl_job_news *news, const char *line) {
    static const char *const words[] = {") has not come and is silent for ", ") has come and is silent for ",
                                        ") is silent for ", ") was killed by signal "};
    for (const char *at = line; (at = strstr(at, "rank ")); at += 5) {
        char *end;
        long rank = strtol(at + 5, &end, 10);
        if (end == at + 5 || *end != ' ' || end[1] != '(') continue;
        const char *close = strchr(end, ')');
        for (int i = 0; close && i < 4; i++) {
            char how[160];
            if (strncmp(close, words[i], strlen(words[i])) != 0) continue;
            if (i < 3) snprintf(how, sizeof how, "no word from %.*s", (int)(close - end - 2), end + 2);
            else
                snprintf(how, sizeof how, "killed by signal %ld on %.*s", strtol(close + strlen(words[i]), NULL, 10),
                         (int)(close - end - 2), end + 2);
            lose(news, rank, how);
        }
    }
}

/* What is between `before` and `after` (NULL: the end) is the name of a host that cannot be reached. */
static void hear_gone(tl_job_news *news, const char *line, const char *before, const char *after) {
    const char *from = strstr(line, before);
    if (!from) return;
    from += strlen(before);
    from += strspn(from, " ");
    const char *to = after ? strstr(from, after) : from + strcspn(from, " \r");
    if (!to || to == from || to - from >= TL_JOB_HOST || news->gones == TL_JOB_GONE) return;
    if ((size_t)(to - from) > strcspn(from, " ")) return;
    for (int i = 0; i < news->gones; i++)
        if (strncmp(news->gone[i], from, (size_t)(to - from)) == 0 && !news->gone[i][to - from]) return;
    snprintf(news->gone[news->gones++], TL_JOB_HOST, "%.*s", (int)(to - from), from);
}

/* mpirun's notices, within rules, when a daemon of its is silent or was never heard of; and ssh's lines. */
static void hear_host(tl_job_news *news, const char *line) {
    if (strstr(line, "Remote daemon:")) hear_gone(news, line, " on node ", NULL);
    if (news->noise) hear_gone(news, line, "target node: ", NULL);
    if (strncmp(line, "ssh: ", 5) != 0) return;
    hear_gone(news, line, "connect to host ", " port ");
    hear_gone(news, line, "Could not resolve hostname ", ": ");
}

static void keep_notice(tl_job_news *news, const char *line) {
    int n = snprintf(news->notice + news->notice_bytes, sizeof news->notice - news->notice_bytes, "%s\n", line);
    news->notice_bytes += (size_t)n;
    if (news->notice_bytes >= sizeof news->notice) news->notice_bytes = sizeof news->notice - 1;
}

/* "[node7:01234] …": the launcher's and MPI's own libraries. */
static bool from_library(const char *line) {
    const char *colon = strchr(line, ':'), *close = strchr(line, ']');
    return *line == '[' && colon && close && close > colon + 1 &&
           strspn(colon + 1, "0123456789") == (size_t)(close - colon - 1);
}

bool tl__job_hear(tl_job_news *news, const char *line) {
    bool rule = strlen(line) >= LEAST_RULE && strspn(line, "-") == strlen(line);
    hear_mpirun(news, line);
    hear_srun(news, line);
    hear_host(news, line);
    if (rule) news->noise = !news->noise;
    if (rule || news->noise || from_library(line) || strncmp(line, "mpirun", 6) == 0 ||
        strncmp(line, "ssh: ", 5) == 0 || strncmp(line, "srun: ", 6) == 0 || strncmp(line, "slurmstepd: ", 12) == 0) {
        if (!rule && *line) keep_notice(news, line);
        return false;
    }
    if (*line) news->spoke = true;
    hear_rank(news, line);
    return true;
}

tl_verdict tl__job_verdict(int status, int *code) {
    if (WIFSIGNALED(status)) {
        *code = 128 + WTERMSIG(status);
        return TL_JOB_AGAIN;
    }
    *code = WEXITSTATUS(status);
    if (*code == TL_EXIT_DONE) return TL_JOB_DONE;
    return *code == TL_EXIT_LOST || *code > 128 ? TL_JOB_AGAIN : TL_JOB_GIVE_UP;
}

/* ---- the child ---- */

static volatile sig_atomic_t stop_asked;
static volatile pid_t child; /* 0: none */

/* mpirun hands SIGUSR1 on to the ranks, which checkpoint and stop; after its own SIGTERM it would give them a second.
 * Asked a second time, it ends at once. */
static void on_signal(int number) {
    (void)number;
    if (child > 0) kill(child, stop_asked ? SIGTERM : SIGUSR1);
    stop_asked = 1;
}

static void catch_signals(sigset_t *held) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(held);
    const int all[] = {SIGTERM, SIGINT, SIGUSR1};
    for (int i = 0; i < 3; i++) {
        sigaction(all[i], &action, NULL);
        sigaddset(held, all[i]);
    }
}

static bool is_supervision(const tl_option *o) {
    static const char *const names[] = {"supervise", "ranks", "max-restarts", "launcher", "resume", "sweep", "seeds"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(o->name, names[i]) == 0) return true;
    return false;
}

static int make_arguments(tl_arguments *a, tl_hosts *hosts, const tl_cli *cli, const tl_supervise_options *o, int ranks,
                          bool resume, tl_error *err) {
    char number[16], self[PATH_BYTES];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0) return tl__fail_errno(err, "cannot tell where this program lies");
    self[n] = 0;
    TRY(tl__hosts_launcher(a, hosts, o->launcher, err));
    snprintf(number, sizeof number, "%d", ranks);
    tl__arguments_add(a, "-n", NULL);
    tl__arguments_add(a, number, NULL);
    tl__arguments_add(a, self, NULL);
    tl__arguments_add(a, cli->command->name, NULL);
    for (int i = 0; i < tl__options_count(cli->command->options); i++)
        if (cli->source[i] == TL_FROM_COMMAND_LINE && !is_supervision(&cli->command->options[i]))
            tl__arguments_add_option(a, cli, i);
    if (resume) tl__arguments_add(a, "--resume", NULL);
    return a->failed ? tl__fail(err, TL_ENOMEM, "no memory for the job's command line") : 0;
}

typedef struct listener {
    tl_job_news *news;
    char last[4096];
} listener;

/* Ranks that give up together say much the same: a line is shown once in a row. */
static void show(void *user, const char *line) {
    listener *l = user;
    if (!tl__job_hear(l->news, line) || strcmp(line, l->last) == 0) return;
    fprintf(stderr, "%s\n", line);
    snprintf(l->last, sizeof l->last, "%s", line);
}

/* mpirun waits for its daemon on a host that went away for eight minutes (idle) or fifteen (it had just sent
 * something), though the ranks have long given up. Told to ask, it ends 40 s after the host's last answer; the kernel
 * gives that, so a host that is only busy is not taken for dead. */
static void notice_dead_hosts(void) {
    setenv("OMPI_MCA_oob_tcp_keepalive_time", "20", 0);
    setenv("OMPI_MCA_oob_tcp_keepalive_intvl", "5", 0);
    setenv("OMPI_MCA_oob_tcp_keepalive_probes", "4", 0);
}

/* *status as waitpid gives it. */
static int run_job(char **arguments, int64_t restart, const sigset_t *held, tl_job_news *news, int *status,
                   tl_error *err) {
    sigset_t before;
    int ends[2];
    char number[24];
    if (pipe2(ends, O_CLOEXEC)) return tl__fail_errno(err, "cannot listen to the job");
    snprintf(number, sizeof number, "%lld", (long long)restart);
    pid_t parent = getpid();
    sigprocmask(SIG_BLOCK, held,
                &before); /* from the look at stop_asked until `child` is known, none may come between */
    pid_t pid = stop_asked ? 0 : fork();
    if (pid == 0 && !stop_asked) {
        prctl(PR_SET_PDEATHSIG,
              SIGUSR1); /* a supervisor that is killed takes its job along, which leaves a checkpoint */
        if (getppid() != parent) _exit(TL_EXIT_FAILED);
        setpgid(0, 0); /* Ctrl-C comes to the supervisor alone, which passes it on in order */
        int null = open("/dev/null", O_RDONLY);
        if (null >= 0) dup2(null, STDIN_FILENO);
        dup2(ends[1], STDERR_FILENO);
        setenv("TRILITH_RESTART", number, 1);
        notice_dead_hosts();
        sigprocmask(SIG_SETMASK, &before, NULL);
        execvp(arguments[0], arguments);
        _exit(127);
    }
    child = pid > 0 ? pid : 0;
    sigprocmask(SIG_SETMASK, &before, NULL);
    close(ends[1]);
    *status = 0;
    if (pid > 0) {
        listener l = {.news = news};
        tl__child_lines(ends[0], show, &l);
        while (waitpid(pid, status, 0) < 0 && errno == EINTR) {
        }
        child = 0;
    }
    close(ends[0]);
    if (pid < 0) return tl__fail_errno(err, "no process could be started for %s", arguments[0]);
    if (WIFEXITED(*status) && WEXITSTATUS(*status) == 127 && !news->spoke)
        return tl__fail(err, TL_ENOTFOUND,
                        "'%s' could not be started; install Open MPI, or name the program that starts ranks with "
                        "--launcher",
                        arguments[0]);
    return 0;
}

/* ---- the whole ---- */

/* Step of the newest checkpoint, 0: none. */
static int64_t newest_step(const char *out) {
    char folder[PATH_BYTES];
    int64_t *steps, newest = 0;
    tl__path_join(folder, sizeof folder, out, "checkpoints");
    if (!tl__path_is_folder(folder)) return 0;
    if (tl__checkpoint_list(folder, &steps) > 0) newest = steps[0];
    free(steps);
    return newest;
}

/* Of `names`, apart by commas. */
static void list_names(char *out, size_t size, const char names[][TL_JOB_HOST], int n) {
    size_t used = 0;
    *out = 0;
    for (int i = 0; i < n && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%s", i ? ", " : "", names[i]);
}

static void tell_restart(const tl_job_news *news, int ranks, int code, int64_t step, int dropped) {
    char who[256] = "", from[64] = "its beginning", hosts[512];
    size_t used = 0;
    for (int r = 0; r < news->ranks && used < sizeof who - 16; r++)
        if (news->lost[r]) used += (size_t)snprintf(who + used, sizeof who - used, "%s%d", used ? ", " : "", r);
    if (step > 0) snprintf(from, sizeof from, "step %lld", (long long)step);
    if (used) fprintf(stderr, "restart  lost rank %s (%s); ", who, news->how);
    else if (!dropped) fprintf(stderr, "restart  the job ended with status %d; ", code);
    else fputs("restart  ", stderr);
    list_names(hosts, sizeof hosts, news->gone, news->gones);
    if (news->gones > 0)
        fprintf(stderr, "host%s %s cannot be reached and %s; ", news->gones > 1 ? "s" : "", hosts,
                dropped ? "is left out" : "is in no --hostfile or --host of --launcher that it could be left out of");
    fprintf(stderr, "%d rank%s on from %s\n", ranks, ranks == 1 ? " goes" : "s go", from);
}

/* Out of the launcher's lists with hosts that it cannot reach; how many of them were there. */
static int drop_hosts(tl_hosts *hosts, const tl_job_news *news, const char *launcher) {
    int dropped = 0;
    for (int i = 0; i < news->gones; i++) dropped += tl__hosts_drop(hosts, launcher, news->gone[i]);
    return dropped;
}

/* Those of whom nobody said that they are lost; and where hosts were left out no more than there is room for on the
 * others, or as much fewer as there is less room where there was too little before. */
static int ranks_left(const tl_job_news *news, int64_t slots, int64_t left) {
    int64_t ranks = news->ranks;
    for (int r = 0; r < news->ranks; r++) ranks -= news->lost[r];
    int64_t room = news->ranks <= slots ? left : slots > 0 ? news->ranks * left / slots : ranks;
    if (left < slots && room < ranks) ranks = room;
    return ranks > 1 ? (int)ranks : 1;
}

int tl__supervise_run(tl_cli *cli, const tl_supervise_options *o) {
    char path[PATH_BYTES];
    sigset_t held;
    tl_error err = {0};
    tl_hosts hosts = {0};
    int ranks = (int)o->ranks, code = TL_EXIT_DONE, status = 0;
    int64_t without_progress = 0, step = newest_step(o->out);
    tl_verdict verdict = TL_JOB_AGAIN;
    catch_signals(&held);
    tl__path_join(path, sizeof path, o->out, "run.json");
    for (int64_t start = 0; !status && verdict == TL_JOB_AGAIN; start++) {
        tl_arguments a = {0};
        tl_job_news news = {.ranks = ranks, .lost = calloc((size_t)ranks, sizeof(bool))};
        bool resume = start == 0 ? o->resume : o->resume || tl__path_exists(path);
        int ended = 0, dropped = 0;
        status = news.lost ? make_arguments(&a, &hosts, cli, o, ranks, resume, &err)
                           : tl__fail(&err, TL_ENOMEM, "no memory for a job of %d ranks", ranks);
        if (!status) status = run_job(a.list, start, &held, &news, &ended, &err);
        if (!status) verdict = tl__job_verdict(ended, &code);
        int64_t slots = hosts.left;
        if (!status && verdict != TL_JOB_DONE) dropped = drop_hosts(&hosts, &news, o->launcher);
        if (dropped && !news.spoke) verdict = TL_JOB_AGAIN, code = TL_EXIT_LOST; /* it did not start for want of them */
        if (!status && (!news.spoke || verdict == TL_JOB_AGAIN) && verdict != TL_JOB_DONE && !stop_asked &&
            !news.how[0] && !dropped)
            fputs(news.notice, stderr);
        if (!status && verdict == TL_JOB_GIVE_UP && !news.spoke)
            status = tl__fail(&err, TL_EINVALID, "the job did not start; %s says why above", a.list[0]);
        tl__arguments_free(&a);
        if (stop_asked) verdict = code == TL_EXIT_DONE ? TL_JOB_DONE : TL_JOB_GIVE_UP;
        if (!status && verdict == TL_JOB_AGAIN) {
            int64_t now = newest_step(o->out);
            without_progress = now > step ? 1 : without_progress + !dropped;
            step = now;
            if (hosts.none) {
                fprintf(stderr,
                        "%s: none of the hosts that --launcher names can be reached; the job is not started "
                        "again\n",
                        cli->name);
                verdict = TL_JOB_GIVE_UP, code = TL_EXIT_LOST;
            } else if (without_progress > o->max_restarts) {
                fprintf(stderr, "%s: the job was lost %lld times without a new checkpoint; it is not started again\n",
                        cli->name, (long long)without_progress);
                verdict = TL_JOB_GIVE_UP;
            } else {
                ranks = ranks_left(&news, slots, hosts.left);
                tell_restart(&news, ranks, code, step, dropped);
            }
        }
        free(news.lost);
    }
    tl__hosts_close(&hosts);
    return status ? tl__cli_fail(cli, &err) : code;
}
