#!/bin/sh
# check_resume.sh PROGRAM SOURCE — law L3 for checkpoints of several ranks: written by any number and read by any other they carry one
# process's bits; kill -9 inside a save, a damaged shard and a rank that cannot write cost the steps since the checkpoint before and nothing else.
. "$2/tests/program.sh"
. "$source/tests/mpi.sh"

make_text "$work/text" 300
steps=16
# ranks N OUT [option…]: its exit status; what it said in $work/err.
ranks() {
    n=$1 out=$2
    shift 2
    # shellcheck disable=SC2086 # a list of options
    mpi "$n" "$trilith" train --data "$work/text" --cache "$work/cache" --tokenizer bytes \
        --model tiny --batch 8 --seq 64 --leaves 4 --steps $steps --val-samples 2 --sample-tokens 0 --checkpoint-every 1 --keep 0 --quiet \
        --threads 1 --out "$work/$out" $options "$@" >"$work/said" 2>"$work/err" </dev/null
}
# Hashes of names, shapes and bytes of all that a checkpoint holds, however many files it lies in: weights, average, optimizer's state.
hashes() { # RUN STEP
    at=$work/$1/checkpoints/step-$2
    for what in "$at" "$at/ema" "$at"/optimizer.safetensors*; do
        [ ! -e "$what" ] || { call inspect "$what" --json || echo '"weights_hash":"unread"'; } | sed 's/.*"weights_hash":"\([0-9a-f]*\)".*/\1/'
    done
}
same() { # RUN STEP WHAT: as `whole`, which one process made, had it
    want=$(hashes whole "$2")
    [ "$(echo "$want" | grep -c '^[0-9a-f]\{32\}$')" -ge 2 ] && [ "$want" = "$(hashes "$1" "$2")" ] ||
        fail "$3: step $2 differs from one process's"
}
# What a step reports, but for times.
reported() { sed 's/,"tokens_per_second.*"skipped"/,"skipped"/; s/,"seconds":.*//' "$work/$1/metrics.jsonl"; }
latest() { readlink "$work/$1/checkpoints/latest" | sed 's/step-//'; }
partial() { ls -d "$work/$1"/checkpoints/.step-*.partial >/dev/null 2>&1; }

# Every number of ranks reads what every other wrote: a walk over all pairs, a step on each. Muon's momentum and an average are kept too.
options='--optimizer muon --ema 0.9'
ranks 1 whole || fail 'one process'
step=0 from=nothing
for n in 1 2 2 1 3 1 4 2 3 2 4 3 4 1; do
    step=$((step + 1))
    case $((step % 4)) in 0) shard=none ;; 1) shard=zero1 ;; 2) shard=zero2 ;; *) shard=zero3 ;; esac
    ranks $n walk --resume --stop-after $step --shard $shard || fail "from $from ranks on $n: exit status $?"
    same walk $step "from $from ranks on $n with --shard $shard"
    files=$(ls "$work/walk/checkpoints/step-$step" | grep -c 'model-0000.-of-0000'$n'.safetensors')
    [ $n -eq 1 ] || [ "$files" -eq $n ] || fail "$n ranks wrote $files files of weights"
    from=$n
done
leaks=1
ranks 3 walk --resume || fail 'the end of the walk'
leaks=
same walk 16 'the end of the walk'
[ "$(reported whole)" = "$(reported walk)" ] || fail 'the walk: other metrics than one process'
call generate --model "$work/walk" --prompt a --max-tokens 1 --verify >/dev/null || fail 'generate --verify of a sharded checkpoint'
run inspect "$work/walk" || fail 'inspect of a sharded checkpoint'
grep -q 'tensors of 3 files' "$work/out" || fail 'inspect does not say how many files there are'
grep -q 'every tensor is as its manifest says' "$work/out" || fail 'inspect does not say that it verified shards'

# One byte of one rank's file: named by rank 0 alone, and the checkpoint before it is taken.
hurt() { printf '\125' | dd of="$1" bs=1 seek=$(($(wc -c <"$1") - 5)) conv=notrunc 2>/dev/null; }
past() { # FILE RANKS
    hurt "$work/walk/checkpoints/step-16/$1"
    ranks "$2" walk --resume --shard zero1 || fail "resuming past a damaged $1"
    [ "$(grep -c 'passed over' "$work/err")" -eq 1 ] || fail "a damaged $1: one warning was expected"
    grep -q "step-16 is passed over: .*step-16/$1: tensor '[a-z_.0-9]*' is damaged" "$work/err" || fail "a damaged $1 is not named"
    same walk 16 "resumed past a damaged $1"
}
past optimizer-00002-of-00003.safetensors 2
past model-00002-of-00002.safetensors 3
rm "$work/walk/checkpoints/step-16/ema/model-00001-of-00003.safetensors"
ranks 4 walk --resume --shard zero3 || fail 'resuming past a missing shard'
grep -q 'step-16 is passed over: .*ema/model-00001-of-00003.safetensors' "$work/err" || fail 'a missing shard is not named'
same walk 16 'resumed past a missing shard'

# kill -9 of the whole job inside a save, again and again, each time on another number of ranks; and of one rank.
options= steps=40
rm -rf "$work/whole"
ranks 1 whole || fail 'one process with AdamW'
inside=0 tries=0
for n in 2 4 3 1 2 3 4; do
    tries=$((tries + 1))
    # shellcheck disable=SC2086
    mpirun -quiet --oversubscribe -n $n "$trilith" train --data "$work/text" --cache "$work/cache" --tokenizer bytes --model tiny --batch 8 \
        --seq 64 --leaves 4 --steps $steps --val-samples 2 --sample-tokens 0 --checkpoint-every 1 --keep 0 --quiet --threads 1 \
        --out "$work/killed" --resume --shard zero1 >"$work/said" 2>"$work/err" </dev/null &
    pid=$!
    before=$(latest killed 2>/dev/null)
    # One checkpoint at least is added, then the next write is waited for.
    while kill -0 $pid 2>/dev/null && [ "$(latest killed 2>/dev/null)" = "$before" ]; do :; done
    while kill -0 $pid 2>/dev/null && ! partial killed; do :; done
    # shellcheck disable=SC2046
    kill -9 $(pgrep -P $pid) $pid 2>/dev/null
    wait $pid 2>/dev/null
    partial killed && inside=$((inside + 1))
done
[ $inside -ge 2 ] || fail "only $inside of $tries kills were inside a save"
TRILITH_FAULT="kill:rank=1,step=$(($(latest killed) + 2)),at=checkpoint" ranks 3 killed --resume && fail 'a rank that is killed in a save fails nothing'
ranks 2 killed --resume --shard zero1 || fail 'resuming after kills'
same killed 40 'after kills'
partial killed && fail 'a killed save left its folder'
[ "$(reported whole)" = "$(reported killed)" ] || fail 'after kills: other metrics than one process'

# One rank's disk is full: its save fails on all, is said once, and the checkpoints before it stay.
train="train --data $work/text --cache $work/cache --tokenizer bytes --model tiny --batch 8 --seq 64 --leaves 4 --steps $steps --val-samples 2 \
--sample-tokens 0 --checkpoint-every 1 --keep 0 --quiet --threads 1 --out $work/full --resume --shard zero1"
ranks 2 full --stop-after 2 || fail 'two steps'
# shellcheck disable=SC2086
timeout 100 mpirun -quiet --oversubscribe -n 1 "$trilith" $train --stop-after 4 : -n 1 sh -c "ulimit -f 100; exec '$trilith' $train --stop-after 4" \
    >"$work/said" 2>"$work/err" </dev/null && fail 'a last checkpoint that failed on rank 1 is no success'
[ "$(grep -c 'a checkpoint failed and was undone: rank 1: .*-00002-of-00002.safetensors' "$work/err")" -eq 1 ] ||
    fail 'one warning of the save that failed was expected'
[ "$(grep -c 'the last checkpoint failed and was undone.*rank 1: ' "$work/err")" -eq 1 ] || fail 'the failure of the last save is not said once'
[ "$(latest full)" = 2 ] || fail 'a failed save moved latest'
partial full && fail 'a failed save left its folder'
ranks 4 full --resume || fail 'resuming after a full disk'
same full 40 'after a full disk'
finish
