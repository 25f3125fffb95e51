/* keeper.c — owns what a launcher sees of a rank. A process that is killed cannot choose its exit status, and the
 * launcher's, 128 + the signal, does not say whether to try again; so the rank is the child of a keeper, which says who
 * was killed and ends with TL_EXIT_LOST.
 *
 * Promises: what the launcher sends the keeper reaches the rank, once; a keeper that is killed takes its rank along.
 * It computes nothing and holds nothing, so a system out of memory takes the other. */
#include "cli/keeper.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "comm/comm.h"

static volatile pid_t rank_process;

static void hand_on(int number) {
    int was = errno;
    kill(rank_process, number);
    errno = was;
}

static const char *rank_number(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i])) return getenv(names[i]);
    return "?";
}

static void keep(const char *name, const sigset_t *before) {
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCONT, SIGTSTP};
    struct sigaction action = {.sa_handler = hand_on, .sa_flags = SA_RESTART};
    char host[64] = "";
    int status;
    prctl(PR_SET_NAME, "keeper");
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &action, NULL);
    sigprocmask(SIG_SETMASK, before, NULL);
    while (waitpid(rank_process, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFSIGNALED(status)) _exit(WEXITSTATUS(status));
    gethostname(host, sizeof host - 1);
    /* src/cli/supervise.c reads "was killed by signal". */
    fprintf(stderr, "%s: rank %.20s (%s) was killed by signal %d (%s); resume from the last checkpoint\n", name,
            rank_number(), host, WTERMSIG(status), strsignal(WTERMSIG(status)));
    _exit(TL_EXIT_LOST);
}

void tl__keeper_open(const char *name) {
    sigset_t all, before;
    pid_t keeper = getpid();
    if (!tl__comm_launcher()) return;
    fflush(NULL);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before); /* none may come before there is somebody to hand it on to */
    rank_process = fork();
    if (rank_process > 0) keep(name, &before);
    if (rank_process == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != keeper) _exit(TL_EXIT_LOST);
        setpgid(0, 0); /* what is sent to the launcher's group comes by the keeper alone */
    }                  /* else no process is to be had: the rank goes on without one */
    sigprocmask(SIG_SETMASK, &before, NULL);
}
