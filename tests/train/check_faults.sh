#!/bin/sh
# check_faults.sh PROGRAM SOURCE — jobs of 2 to 4 ranks in which one is killed, stopped, late, slowed or computes wrongly, at moments drawn from
# a seed: no job outlasts its time-out, what is said names rank, host, step and collective, the exit status is the right one, nothing
# but the steps since the checkpoint is lost, and the run that goes on, on any number of ranks, ends with the bits of one never disturbed.
#
# TRILITH_FAULTS=N injections (8; under AddressSanitizer 3), TRILITH_FAULTS_SEED=S another draw.
. "$2/tests/program.sh"
. "$source/tests/mpi.sh"
grep -q __asan_init "$trilith" && sanitized=1 || sanitized=
injections=${TRILITH_FAULTS:-${sanitized:+3}}
injections=${injections:-8}
state=${TRILITH_FAULTS_SEED:-7}
host=$(hostname)
steps=20 every=5 timeout=4
cd "$work" || exit 1
make_text text 400
settings="--data text --model tiny --tokenizer bytes --steps $steps --batch 4 --seq 32 --leaves 4 --threads 1 --sample-tokens 0 --val-samples 2 --checkpoint-every $every --keep 0 --quiet"
# mpirun leaves survivors a second to say their word. A sanitizer's build is slow: it gets five, which mpirun then always waits, twice.
survivors=
[ -z "$sanitized" ] || survivors='--mca odls_base_sigkill_timeout 5'

draw() { # N: $drawn from 0 to N - 1
    state=$(((state * 1103515245 + 12345) % 2147483648))
    drawn=$((state / 65536 % $1))
}
hash_of() { call inspect "$1" --json | sed 's/.*"weights_hash":"\([0-9a-f]*\)".*/\1/'; }
newest() { ls "$1/checkpoints" 2>/dev/null | sed -n 's/^step-//p' | sort -n | tail -n 1; }
says() { grep -q -e "$1" err || fail "$what: nothing says '$1'"; }
# shellcheck disable=SC2086
job() { # RANKS OPTION…: standard error in err, status in $code, seconds taken in $took
    n=$1
    shift
    begun=$(date +%s)
    mpi "$n" $survivors "$trilith" train $settings "$@" >said 2>err </dev/null
    code=$?
    took=$(($(date +%s) - begun))
    [ ! -s said ] || fail "$what: it wrote to standard output"
}
# The run as it should end, however often it was disturbed.
finished() { # OUT
    [ "$(hash_of "$1")" = "$calm" ] || fail "$what: other weights than undisturbed"
    [ "$(sed 's/{"step":\([0-9]*\),.*/\1/' "$1/metrics.jsonl" | tr '\n' ' ')" = "$(seq $steps | tr '\n' ' ')" ] || fail "$what: not one line a step"
}

# shellcheck disable=SC2086
run train $settings --out calm || fail 'a run to compare with'
calm=$(hash_of calm)
[ ${#calm} -eq 32 ] || fail 'no hash of an undisturbed run'

inject() {
    draw 4; again=$((drawn + 1))
    draw 3; ranks=$((drawn + 2))
    draw $ranks; rank=$drawn
    draw $((steps - 1)); step=$((drawn + 2))
    draw 4; shard=$(echo none zero1 zero2 zero3 | cut -d ' ' -f $((drawn + 1)))
    draw 4; at=$(echo begin gradient update checkpoint | cut -d ' ' -f $((drawn + 1)))
    [ "$at" != checkpoint ] || step=$(((step + every - 1) / every * every))
    kind=$(echo kill stop late slow flip exit | cut -d ' ' -f $(($1 % 6 + 1)))
    lost=1 patience=$timeout options=
    case $kind in
    kill) fault="kill:rank=$rank,step=$step,at=$at" ;;
    exit) fault="exit:rank=$rank,step=$step,status=75,at=$at" ;;
    stop) fault="stop:rank=$rank,step=$step,at=$at" ;;
    late) fault="sleep:rank=$rank,step=$step,seconds=30,at=$at" ;;
    slow) fault="sleep:rank=$rank,step=$step,seconds=1.5,at=$at" lost=0 patience=60 ;;
    flip)
        [ "$shard" != zero3 ] || shard=none # of a weight there is only one
        if [ "$shard" = none ]; then fault="flip:rank=$rank,step=$step"
        else fault="flip:rank=$rank,step=$step,at=weights" options='--check-every 1' # the next update would heal a copy
        fi
        ;;
    esac
    [ "$at" = checkpoint ] && [ "$step" -eq $steps ] && [ $kind != slow ] && step=$((steps - every)) && fault=$(echo "$fault" | sed "s/step=$steps/step=$step/")
    what="injection $1: $fault on $ranks ranks, --shard $shard, resumed on $again"
    rm -rf run
    export TRILITH_FAULT="$fault"
    # shellcheck disable=SC2086
    job $ranks --out run --shard $shard --comm-timeout $patience $options
    unset TRILITH_FAULT
    # Starting takes its time under a sanitizer, and mpirun's waiting for survivors.
    [ $took -le $((patience + 40)) ] || fail "$what: it took $took s"
    said_late="rank $rank ($host) has not come and is alive but late, last at collective [0-9]*, step [0-9]*"
    said_lost="rank $rank ($host) has not come and is silent for [0-9.]* s .*, last at collective [0-9]*, step [0-9]*"
    case $kind in
    kill | exit)
        # Where the word of death overtakes the last message, a rank may also have come and fallen silent in the midst of a collective.
        [ $code -eq 75 ] || fail "$what: exit status $code, expected 75"
        [ $kind = exit ] || says "^trilith train: rank $rank ($host) was killed by signal 9 (Killed); resume"
        says "Collective [0-9]* (.*, step [0-9]*) is not complete .*rank $rank ($host) has \(not \)\{0,1\}come and is silent\|^warning: .*rank $rank ($host) is silent for"
        ;;
    stop)
        [ $code -eq 75 ] || fail "$what: exit status $code, expected 75"
        says "Collective [0-9]* (.*, step [0-9]*) is not complete after [0-9.]* s on rank [0-9] ($host): .*$said_lost"
        ;;
    late)
        [ $code -eq 75 ] || fail "$what: exit status $code, expected 75"
        says "Collective [0-9]* (.*, step [0-9]*) is not complete after [0-9.]* s on rank [0-9] ($host): .*$said_late"
        ;;
    slow) [ $code -eq 0 ] || fail "$what: exit status $code, expected 0" ;;
    flip)
        [ $code -eq 76 ] || fail "$what: exit status $code, expected 76"
        if [ $ranks -gt 2 ]; then says "at step [0-9]* rank $rank ($host) holds other weights than the rest: .* do not go on with $host"
        else # of two nobody has a majority: both go back and come again
            says "at step [0-9]* rank $rank ($host) held other weights than a replay from step [0-9]* gives: .* failed at step $step; do not go on with $host"
        fi
        [ "$(grep -c 'failed after step\|failed at step' err)" -eq 1 ] || fail "$what: it is to be said once"
        ;;
    esac
    if [ $lost -eq 1 ]; then
        # All but what was still being written when it happened: two checkpoints at most after the fault's own.
        kept=$(newest run)
        least=$(((step - 1) / every * every - every))
        [ "${kept:-0}" -ge $least ] || fail "$what: the newest checkpoint is of step ${kept:-0}, before $least"
        [ $kind != flip ] || [ "${kept:-0}" -lt "$step" ] || fail "$what: a checkpoint of step $kept was written after the fault"
        job $again --out run --resume --comm-timeout 60
        [ $code -eq 0 ] || fail "$what: resumed, exit status $code"
        [ -z "$kept" ] || says "resumed from .*/step-$kept$"
    fi
    finished run
}

i=0
while [ $i -lt "$injections" ]; do
    inject $i
    i=$((i + 1))
done

# ---- from outside, in the midst of whatever they are doing: ranks that are stopped and go on, again and again; one that is killed
ranks_of() { # OUT [NAME]: process ids of the job that writes there, of its ranks or its `keeper`s
    for p in /proc/[0-9]*; do
        [ "$(cat "$p/comm" 2>/dev/null)" = "${2:-trilith}" ] &&
            tr '\0' ' ' 2>/dev/null <"$p/cmdline" | grep -q "^$trilith train .*--out $1 " && echo "${p#/proc/}"
    done
}
steps=400 every=100
long="$settings --steps $steps --checkpoint-every $every"
# shellcheck disable=SC2086
run train $long --out long || fail 'a longer run to compare with'
calm=$(hash_of long)

what='a rank that is stopped and goes on, again and again'
# shellcheck disable=SC2086
mpi 3 "$trilith" train $long --out "$work/slowed" --comm-timeout 60 >said 2>err </dev/null &
job=$!
await_lines slowed/metrics.jsonl 20
for pid in $(ranks_of "$work/slowed"); do
    kill -STOP "$pid" && sleep 0.4 && kill -CONT "$pid" && sleep 0.1
done
wait $job || fail "$what: exit status $?"
finished slowed

what='a rank that is killed from outside'
# shellcheck disable=SC2086
mpi 3 $survivors "$trilith" train $long --out "$work/killed" --comm-timeout $timeout >said 2>err </dev/null &
job=$!
await_lines killed/metrics.jsonl 120
pids=$(ranks_of "$work/killed")
draw 3
[ "$(echo "$pids" | wc -l)" -eq 3 ] || fail "$what: three ranks expected, not $pids"
kill -KILL "$(echo "$pids" | sed -n $((drawn + 1))p)"
wait $job
code=$?
[ $code -eq 75 ] || fail "$what: exit status $code, expected 75"
says "Collective [0-9]* (.*, step [0-9]*) is not complete .*rank [0-9] ($host) has \(not \)\{0,1\}come and is silent"
# shellcheck disable=SC2086
mpi 2 "$trilith" train $long --out "$work/killed" --resume >said 2>err </dev/null || fail "$what: resumed, exit status $?"
says 'resumed from .*/step-[1-3]00$'
finished killed

what='a keeper that is killed, and its rank with it'
# shellcheck disable=SC2086
mpi 2 "$trilith" train $long --steps 100000 --out "$work/kept" --comm-timeout $timeout >said 2>err </dev/null &
job=$!
await_lines kept/metrics.jsonl 20
pids=$(ranks_of "$work/kept") keepers=$(ranks_of "$work/kept" keeper)
[ "$(echo "$keepers" | wc -l)" -eq 2 ] || fail "$what: two keepers expected, not $keepers"
kill -KILL "$(echo "$keepers" | head -n 1)"
wait $job && fail "$what: the job went on"
# The kernel ends them beside mpirun, and somebody has to reap them.
lives() { # PID
    state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null)
    [ -n "$state" ] && [ "$state" != Z ]
}
for pid in $pids; do
    tries=0
    while lives "$pid" && [ $tries -lt 100 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    ! lives "$pid" || fail "$what: rank $pid lives"
done

# ---- a rank is killed while the others compute, for long: they say so before the launcher ends them
what='a rank that is killed while another computes'
TRILITH_FAULT='kill:rank=1,step=5;sleep:rank=0,step=5,seconds=30'
export TRILITH_FAULT
job 2 --out computing --comm-timeout 60
unset TRILITH_FAULT
[ $code -eq 75 ] || fail "$what: exit status $code, expected 75"
[ $took -lt 25 ] || fail "$what: it took $took s"
says "^warning: rank 1 ($host) is silent for [0-9.]* s (stopped, dead or cut off), last at collective [0-9]*, step [45]; rank 0 ($host) is at collective [0-9]*, step 5; resume"

# ---- supervised: one killed, then one stopped, each time on with those that are left
what='a supervised job that loses two ranks'
steps=20
TRILITH_FAULT='kill:rank=2,step=12;stop:rank=1,step=17,restart=1'
export TRILITH_FAULT
# shellcheck disable=SC2086
run train --supervise --ranks 4 --launcher 'mpirun -quiet --oversubscribe' $settings --out supervised --comm-timeout $timeout || fail "$what"
unset TRILITH_FAULT
says '^restart  lost rank 2 (.*); 3 ranks go on from step [0-9]*$'
says "^restart  lost rank 1 (no word from $host); 2 ranks go on from step [0-9]*$"
calm=$(hash_of calm)
finished supervised

finish
