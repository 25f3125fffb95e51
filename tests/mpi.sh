# mpi.sh — for checks that start something under mpirun: `. "$source/tests/mpi.sh"`, after program.sh.
#
#   mpi RANKS PROGRAM ARGUMENT…   at most 300 s, on this machine, whoever the user and however few the cores; exit status 124: it hung
#   leaks=1                       under AddressSanitizer, have the jobs that follow searched for leaks
#
# Containers' tests run as root, and on fewer cores than ranks. Open MPI keeps what it has allocated until its process ends, which
# lsan.supp tells LeakSanitizer; its plug-ins lack frame pointers, so that only the slow way finds out whose an allocation is. A job
# searched so takes 12 s where it takes 1.6: one job of a kind is.
command -v mpirun >/dev/null || { echo 'FAILED: mpirun is missing; apt-get install openmpi-bin libopenmpi-dev, then configure again'; exit 1; }
[ -e "$(dirname "$trilith")/trilith-mpi.so" ] || { echo 'FAILED: this build is without MPI; apt-get install libopenmpi-dev, then configure again'; exit 1; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export LSAN_OPTIONS="${LSAN_OPTIONS:+$LSAN_OPTIONS:}suppressions=$source/tests/lsan.supp:print_suppressions=0"
asan_options=${ASAN_OPTIONS-}
export ASAN_OPTIONS="$asan_options:detect_leaks=0"
leaks=
mpi() {
    mpi_ranks=$1
    shift
    ASAN_OPTIONS="$asan_options:${leaks:+fast_unwind_on_malloc=0:}detect_leaks=${leaks:-0}" timeout 300 \
        mpirun -quiet --oversubscribe -n "$mpi_ranks" "$@" </dev/null
}
