#!/bin/sh
# check_mpi.sh PROGRAM SOURCE — the communicator over Open MPI: tests/comm/ranks.c on 1 to 4 ranks of this machine. Sums, moves and full
# queues give the bits of the tree, and move the bytes that they are said to cost; arguments that differ, an abort, a late rank and one that has left are named by those who wait.
. "$2/tests/program.sh"
. "$source/tests/mpi.sh"
ranks=$(dirname "$trilith")/tests/comm_ranks

start() { # RANKS CASE…: its output in $work/out; what Open MPI says of an unfinished MPI is expected in some cases
    n=$1
    shift
    mpi "$n" "$ranks" "$@" >"$work/out" 2>"$work/err"
    status=$?
}
all_ok() { # RANKS
    for r in $(seq 0 $(($1 - 1))); do
        grep -q "^rank $r of $1 ok" "$work/out" || { cat "$work/out"; fail "$2 on $1 ranks: rank $r did not end well"; }
    done
}

for n in 1 2 3 4; do
    leaks=$([ $n -ne 2 ] || echo 1)
    start $n sums moves pending traffic
    [ $status -eq 0 ] || fail "sums moves pending traffic on $n ranks: exit status $status"
    all_ok $n 'sums moves pending traffic'
done
leaks=
# The first rank that ends without MPI_Finalize makes mpirun end the others, maybe before they have printed: nobody may be wrong, and
# somebody must be right.
for n in 2 3; do
    for case in different aborted late gone; do
        [ $n$case != 3late ] || continue # it takes its time
        start $n $case
        [ $status -ne 124 ] || fail "$case on $n ranks: it hung"
        if grep '^rank [0-9]*: ' "$work/out" || ! grep -q '^rank [0-9]* of [0-9]* ok' "$work/out"; then fail "$case on $n ranks"; fi
    done
done

# A launcher whose library cannot join it is a sentence, not a run of one rank that believes to be all.
OMPI_COMM_WORLD_SIZE=2 timeout 60 "$ranks" sums >"$work/out" 2>"$work/err" </dev/null
[ $? -ne 0 ] || fail 'two ranks are promised, one is there, and it went on'
cp "$ranks" "$work/ranks-alone"
OMPI_COMM_WORLD_SIZE=2 "$work/ranks-alone" sums >"$work/out" 2>&1 </dev/null && fail 'without the module it went on'
grep -q 'libopenmpi-dev' "$work/out" || fail 'without the module, the sentence does not name the remedy'
SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2 "$ranks" sums >"$work/out" 2>&1 </dev/null && fail 'srun without PMIx went on'
grep -q 'srun --mpi=pmix' "$work/out" || fail 'srun without PMIx: the sentence does not name the remedy'
OMPI_COMM_WORLD_SIZE=1 "$work/ranks-alone" sums >"$work/out" 2>&1 </dev/null || fail 'mpirun -n 1 without the module'
finish
