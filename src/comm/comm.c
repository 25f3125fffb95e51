/* comm.c — what holds for every communicator: which one a process gets, the calls of comm.h by the table of its kind,
 * and which leaves of the gradient's tree are a rank's. */
#include "comm/backend.h"

#include "base/clock.h"
#include "base/module.h"

#include <assert.h>
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- which one ---- */

#define OPEN_TIMEOUT_NS 300000000000 /* until all ranks have come to the first meeting */
#define REMEDY "apt-get install openmpi-bin, and a build of trilith where libopenmpi-dev is installed too"

/* The number in an environment variable, or 0: whatever else is there is the launcher's mistake, not ours to trip over.
 */
static int number_in(const char *name) {
    const char *text = getenv(name);
    char *end;
    if (!text || !*text) return 0;
    long n = strtol(text, &end, 10);
    return *end || n < 0 || n > 1000000 ? 0 : (int)n;
}

typedef struct launcher {
    const char *name; /* NULL: none */
    int size;         /* 0: it did not say */
    bool pmix;        /* one that Open MPI's ranks find each other through */
} launcher;

static launcher find_launcher(void) {
    if (getenv("OMPI_COMM_WORLD_SIZE")) return (launcher){"mpirun", number_in("OMPI_COMM_WORLD_SIZE"), true};
    if (getenv("PMIX_RANK")) {
        if (getenv("SLURM_STEP_NUM_TASKS")) return (launcher){"srun", number_in("SLURM_STEP_NUM_TASKS"), true};
        return (launcher){"a launcher with PMIx", 0, true};
    }
    if (getenv("PMI_RANK") && number_in("PMI_SIZE") > 0)
        return (launcher){"a launcher with PMI", number_in("PMI_SIZE"), false};
    if (getenv("SLURM_PROCID") && getenv("SLURM_STEP_NUM_TASKS"))
        return (launcher){"srun", number_in("SLURM_STEP_NUM_TASKS"), false};
    return (launcher){0};
}

static const tl_wire_ops *load_module(tl_error *err) {
    char path[4096 + 64];
    if (!tl__module_path(path, sizeof path, "trilith-mpi.so")) {
        tl__fail(err, TL_EUNSUPPORTED, "this trilith was built without MPI (there is no %.300s). It takes: %s.", path,
                 REMEDY);
        return NULL;
    }
    /* Open MPI's own plug-ins look for its symbols among the global ones. It is never unloaded. */
    void *module = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!module) {
        tl__fail(err, TL_EUNSUPPORTED, "the MPI library cannot be loaded (%.300s). It takes: %s.", dlerror(), REMEDY);
        return NULL;
    }
    const tl_wire_ops *wire = dlsym(module, TL_WIRE_SYMBOL);
    if (wire && wire->version == TL_WIRE_VERSION) return wire;
    tl__fail(err, TL_EUNSUPPORTED, "%.300s is of another version of trilith; build or install both together.", path);
    return NULL;
}

int tl__comm_library(char *out, size_t size, tl_error *err) {
    tl_error why = {0};
    const tl_wire_ops *wire = load_module(&why);
    if (!wire) return tl__fail(err, why.status, "%s", why.text);
    wire->describe(out, size);
    return 0;
}

int tl__comm_open(tl_comm **comm, tl_error *err) {
    *comm = NULL;
    launcher by = find_launcher();
    if (!by.name || by.size == 1) return tl__comm_open_self(comm, err);
    if (!by.pmix)
        return tl__fail(err, TL_EUNSUPPORTED,
                        "%s started %d of this process without PMIx, so that they cannot find each other; use "
                        "`srun --mpi=pmix` or Open MPI's mpirun.",
                        by.name, by.size);
    tl_error why = {0};
    const tl_wire_ops *wire = load_module(&why);
    if (!wire) return tl__fail(err, why.status, "%s started several of this process, but %s", by.name, why.text);
    TRY(tl__comm_open_many(comm, wire, NULL, OPEN_TIMEOUT_NS, err));
    int size = tl__comm_size(*comm, TL_AXIS_DP);
    if (by.size == 0 || by.size == size) return 0;
    tl__comm_close(*comm);
    *comm = NULL;
    return tl__fail(
        err, TL_EUNSUPPORTED,
        "%s started %d of this process, but %s found %d of them: it is of another make than the launcher. "
        "Use the mpirun of the MPI that trilith was built with (Debian: openmpi-bin), or `srun --mpi=pmix`.",
        by.name, by.size, wire->name, size);
}

const char *tl__comm_launcher(void) {
    launcher by = find_launcher();
    return by.size == 1 ? NULL : by.name;
}

/* ---- the calls, by table ---- */

void tl__comm_close(tl_comm *comm) {
    if (comm) comm->ops->close(comm);
}

int tl__comm_rank(const tl_comm *comm, tl_axis axis) {
    assert(axis >= 0 && axis < TL_AXES);
    return comm->ops->rank(comm, axis);
}

int tl__comm_size(const tl_comm *comm, tl_axis axis) {
    assert(axis >= 0 && axis < TL_AXES);
    return comm->ops->size(comm, axis);
}

const char *tl__comm_host(const tl_comm *comm, int rank) {
    return comm->ops->host(comm, rank);
}

uint64_t tl__comm_sequence(const tl_comm *comm) {
    return comm->ops->sequence(comm);
}

void tl__comm_set_step(tl_comm *comm, int64_t step) {
    comm->ops->set_step(comm, step);
}

void tl__comm_reserve(tl_comm *comm) {
    comm->ops->reserve(comm);
}

static int start(tl_comm *comm, tl_comm_request request, tl_ticket *ticket, tl_error *err) {
    assert(request.axis >= 0 && request.axis < TL_AXES);
    assert(request.n >= 0 && (request.buffer || request.n == 0));
    assert(request.root >= 0 && request.root < comm->ops->size(comm, request.axis));
    *ticket = (tl_ticket){0};
    return comm->ops->start(comm, &request, ticket, err);
}

int tl__comm_sum_start(tl_comm *comm, tl_axis axis, float *buffer, int64_t n, tl_ticket *ticket, tl_error *err) {
    return start(comm, (tl_comm_request){TL_COLLECTIVE_SUM, axis, buffer, NULL, n, 0}, ticket, err);
}

int tl__comm_sum_f64_start(tl_comm *comm, tl_axis axis, double *buffer, int64_t n, tl_ticket *ticket, tl_error *err) {
    return start(comm, (tl_comm_request){TL_COLLECTIVE_SUM_F64, axis, buffer, NULL, n, 0}, ticket, err);
}

int tl__comm_reduce_start(tl_comm *comm, tl_axis axis, float *buffer, int64_t n, int root, tl_ticket *ticket,
                          tl_error *err) {
    return start(comm, (tl_comm_request){TL_COLLECTIVE_REDUCE, axis, buffer, NULL, n, root}, ticket, err);
}

int tl__comm_broadcast_start(tl_comm *comm, tl_axis axis, void *buffer, int64_t bytes, int root, tl_ticket *ticket,
                             tl_error *err) {
    return start(comm, (tl_comm_request){TL_COLLECTIVE_BROADCAST, axis, buffer, NULL, bytes, root}, ticket, err);
}

int tl__comm_gather_start(tl_comm *comm, tl_axis axis, void *out, const void *in, int64_t bytes, tl_ticket *ticket,
                          tl_error *err) {
    assert(in || bytes == 0);
    return start(comm, (tl_comm_request){TL_COLLECTIVE_GATHER, axis, out, in, bytes, 0}, ticket, err);
}

int tl__comm_wait(tl_comm *comm, tl_ticket ticket, int64_t timeout_ns, tl_error *err) {
    return comm->ops->wait(comm, ticket, timeout_ns, err);
}

void tl__comm_set_patience(tl_comm *comm, int64_t patience_ns) {
    comm->patience_ns = patience_ns;
    comm->ops->set_silence(comm, patience_ns);
}

int64_t tl__comm_patience(const tl_comm *comm) {
    return comm->patience_ns;
}

static _Atomic int64_t hurried_ns;

void tl__comm_hurry(void) {
    int64_t never = 0;
    atomic_compare_exchange_strong(&hurried_ns, &never, tl__now_ns());
}

int64_t tl__comm_hurried_ns(void) {
    return hurried_ns;
}

void tl__comm_abort(tl_comm *comm, const char *reason) {
    comm->ops->abort(comm, reason ? reason : "no reason was given");
}

bool tl__comm_told(tl_comm *comm) {
    return comm->ops->told(comm);
}

tl_comm_traffic tl__comm_take_traffic(tl_comm *comm) {
    return comm->ops->take_traffic(comm);
}

/* ---- leaves and memory ---- */

void tl__comm_leaves(int leaves, int size, int rank, int *first, int *count) {
    assert(leaves > 0 && (leaves & (leaves - 1)) == 0);
    assert(size >= 1 && size <= leaves && rank >= 0 && rank < size);
    int whole = 1; /* subtrees of the first cut */
    while (2 * whole <= size) whole *= 2;
    int n = leaves / whole, uncut = 2 * whole - size;
    *count = rank < uncut ? n : n / 2;
    *first = rank < uncut ? rank * n : uncut * n + (rank - uncut) * (n / 2);
}

int64_t tl__comm_reserve_bytes(int size) {
    return size > 1 ? tl__comm_many_bytes(size) : 0;
}
