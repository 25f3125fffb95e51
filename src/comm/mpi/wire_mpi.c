/* wire_mpi.c — the module trilith-mpi.so: bytes between ranks by MPI. It alone is linked with libmpi, and is loaded
 * only where a launcher started this process.
 *
 * Point to point only: no sum and no collective of the library's is used, since their order of summation is its own
 * affair (law L3). Errors are returned, never fatal (MPI_ERRORS_RETURN). A build of Open MPI with ULFM would make
 * `close` shrink and finalize where it now leaves everything as it is. */
#include "comm/wire.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

struct tl_wire {
    MPI_Comm comm;
};

static struct tl_wire the_wire;
static char error_text[MPI_MAX_ERROR_STRING + 64];

_Static_assert(sizeof(MPI_Request) <= sizeof(void *), "a request is kept in the second word");

static int check(int code, const char *call) {
    if (code == MPI_SUCCESS) return 0;
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    MPI_Error_string(code, text, &n);
    snprintf(error_text, sizeof error_text, "%s: %s", call, text);
    return -1;
}

/* Containers may forbid reading another process's memory, which Open MPI's shared memory finds out too late. */
static void mind_the_container(void) {
    char from = 1, to = 0;
    struct iovec here = {&to, 1}, there = {&from, 1};
    if (process_vm_readv(getpid(), &here, 1, &there, 1, 0) != 1)
        setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
}

/* Over TCP, Open MPI's emulation of remote writes asks the receiver before each fragment: a link of 200 Mbit/s carried
 * 0.64 of what TCP carries, and 0.94 by plain sends (32 MiB sums between two hosts). Whoever sets it otherwise is
 * obeyed. */
static void mind_the_link(void) {
    setenv("OMPI_MCA_btl_tcp_flags", "send", 0);
}

/* "Open MPI v4.1.4, package: Debian OpenMPI, ident: …": up to the first comma. */
static void wire_describe(char *out, size_t size) {
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int n = 0;
    MPI_Get_library_version(text, &n);
    text[strcspn(text, ",\n")] = 0;
    snprintf(out, size, "%s", text);
}

static int wire_open(tl_wire **wire, void *where, int *rank, int *size) {
    (void)where;
    int given = 0, found = 0, *most = NULL;
    mind_the_container();
    mind_the_link();
    if (check(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &given), "MPI_Init_thread")) return -1;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (check(MPI_Comm_dup(MPI_COMM_WORLD, &the_wire.comm), "MPI_Comm_dup")) return -1;
    MPI_Comm_set_errhandler(the_wire.comm, MPI_ERRORS_RETURN);
    if (check(MPI_Comm_rank(the_wire.comm, rank), "MPI_Comm_rank")) return -1;
    if (check(MPI_Comm_size(the_wire.comm, size), "MPI_Comm_size")) return -1;
    if (check(MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &most, &found), "MPI_TAG_UB")) return -1;
    if (found && *most < TL_WIRE_TAGS - 1) {
        snprintf(error_text, sizeof error_text, "MPI_TAG_UB is %d, less than MPI promises", *most);
        return -1;
    }
    *wire = &the_wire;
    return 0;
}

static int keep(tl_wire_request *request, MPI_Request r) {
    request->word[0] = request; /* not zero: a request is here */
    memcpy(&request->word[1], &r, sizeof r);
    return 0;
}

static MPI_Request held(const tl_wire_request *request) {
    MPI_Request r = MPI_REQUEST_NULL;
    if (request->word[0]) memcpy(&r, &request->word[1], sizeof r);
    return r;
}

static int wire_send(tl_wire *wire, tl_wire_request *request, const void *bytes, int64_t n, int to, int tag) {
    MPI_Request r;
    if (check(MPI_Isend(bytes, (int)n, MPI_BYTE, to, tag, wire->comm, &r), "MPI_Isend")) return -1;
    return keep(request, r);
}

static int wire_receive(tl_wire *wire, tl_wire_request *request, void *bytes, int64_t n, int from, int tag) {
    MPI_Request r;
    if (check(MPI_Irecv(bytes, (int)n, MPI_BYTE, from, tag, wire->comm, &r), "MPI_Irecv")) return -1;
    return keep(request, r);
}

/* One after another, so that those which are done need not be looked at again; the first that is not ends it. */
static int wire_test_all(tl_wire *wire, tl_wire_request *requests, int n, bool *done) {
    (void)wire;
    *done = false;
    for (int i = 0; i < n; i++) {
        MPI_Request r = held(&requests[i]);
        int flag = 1;
        if (r != MPI_REQUEST_NULL && check(MPI_Test(&r, &flag, MPI_STATUS_IGNORE), "MPI_Test")) return -1;
        if (!flag) return 0;
        requests[i] = (tl_wire_request){0};
    }
    *done = true;
    return 0;
}

static int wire_test_any(tl_wire *wire, tl_wire_request *requests, int n, int *which, int64_t *bytes) {
    (void)wire;
    *which = -1;
    for (int i = 0; i < n; i++) {
        MPI_Request r = held(&requests[i]);
        MPI_Status status;
        int flag = 0, count = 0;
        if (r == MPI_REQUEST_NULL) continue;
        if (check(MPI_Test(&r, &flag, &status), "MPI_Test")) return -1;
        if (!flag) continue;
        MPI_Get_count(&status, MPI_BYTE, &count);
        requests[i] = (tl_wire_request){0};
        *which = i, *bytes = count;
        return 0;
    }
    return 0;
}

static void wire_close(tl_wire *wire, bool orderly) {
    if (!orderly) return;
    MPI_Comm_free(&wire->comm);
    MPI_Finalize();
}

static const char *wire_error(void) {
    return error_text;
}

__attribute__((visibility("default"))) extern const tl_wire_ops tl_wire_module;
const tl_wire_ops tl_wire_module = {
    .version = TL_WIRE_VERSION,
#ifdef OMPI_MAJOR_VERSION
    .name = "Open MPI",
#else
    .name = "MPI",
#endif
    .describe = wire_describe,
    .open = wire_open,
    .send = wire_send,
    .receive = wire_receive,
    .test_all = wire_test_all,
    .test_any = wire_test_any,
    .close = wire_close,
    .error = wire_error,
};
