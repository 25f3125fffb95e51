/* ranks.c — agreeing, sharing and dividing before the first step. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include "train/ranks.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/threads.h"

static const int64_t DAY_NS = INT64_C(86400) * 1000000000;

static int gather(tl_comm *comm, void *all, const void *mine, int64_t bytes, tl_error *err) {
    tl_ticket ticket;
    TRY(tl__comm_gather_start(comm, TL_AXIS_DP, all, mine, bytes, &ticket, err));
    return tl__comm_wait(comm, ticket, DAY_NS, err);
}

int tl__ranks_agree(tl_comm *comm, int status, tl_error *err) {
    int ranks = tl__comm_size(comm, TL_AXIS_DP), rank = tl__comm_rank(comm, TL_AXIS_DP), first = 0;
    if (ranks == 1) return status;
    tl_error mine = {.status = status}, failed = {0};
    if (status && err) mine = *err;
    tl_error *all = calloc((size_t)ranks, sizeof *all);
    if (!all) return tl__fail(err, TL_ENOMEM, "no memory to hear of %d ranks", ranks);
    int heard = gather(comm, all, &mine, sizeof mine, &failed);
    while (!heard && first < ranks && !all[first].status) first++;
    if (heard) { /* nobody else can be asked: this rank's own failure is the better sentence */
        if (!status && err) *err = failed;
        status = status ? status : heard;
    } else if (first < ranks) {
        bool own = status && (first == rank || strcmp(mine.text, all[first].text) != 0);
        if (!own && err) *err = (tl_error){.status = all[first].status};
        status = own ? status : all[first].status;
    }
    free(all);
    return status;
}

int tl__ranks_share(tl_comm *comm, void *bytes, int64_t n, tl_error *err) {
    tl_ticket ticket;
    TRY(tl__comm_broadcast_start(comm, TL_AXIS_DP, bytes, n, 0, &ticket, err));
    return tl__comm_wait(comm, ticket, DAY_NS, err);
}

int tl__ranks_threads(tl_comm *comm, int *here, int *threads, tl_error *err) {
    int ranks = tl__comm_size(comm, TL_AXIS_DP), rank = tl__comm_rank(comm, TL_AXIS_DP);
    int available = tl__cpus_available();
    cpu_set_t mine, *all = calloc((size_t)ranks, sizeof *all);
    if (!all) return tl__fail(err, TL_ENOMEM, "no memory to hear of %d ranks", ranks);
    CPU_ZERO(&mine);
    bool known = sched_getaffinity(0, sizeof mine, &mine) == 0;
    int status = gather(comm, all, &mine, sizeof mine, err);
    double part = 0;
    *here = 0;
    for (int r = 0; !status && r < ranks; r++)
        if (strcmp(tl__comm_host(comm, r), tl__comm_host(comm, rank)) == 0) ++*here;
        else CPU_ZERO(&all[r]);
    for (int cpu = 0; !status && known && cpu < CPU_SETSIZE; cpu++) {
        int sharing = 0;
        for (int r = 0; r < ranks; r++) sharing += CPU_ISSET(cpu, &all[r]) != 0;
        if (CPU_ISSET(cpu, &mine)) part += 1.0 / sharing;
    }
    free(all);
    if (status) return status;
    /* A quota, or more CPUs than a set can name: then all that is known is how many share. */
    if (!known || CPU_COUNT(&mine) != available) part = (double)available / *here;
    *threads = part < 1 ? 1 : (int)(part + 1e-6);
    return 0;
}
