#!/bin/sh
# check_sweep.sh TRILITH SOURCE — a sweep as its user sees it: every combination once, finished runs kept, interrupted ones resumed with
# their bits, failures recorded and passed, one table and one page; and what is wrong with a grid, in one sentence.
. "$2/tests/program.sh"
cd "$work" || exit 1
sweep() { run train --sweep "$@"; }
no_sweep() {
    pattern=$1
    shift
    refuses "$pattern" train --sweep "$@"
}
count() { grep -c "$1" "$2"; } # lines that match
status_of() { sed -n 's/.*"status": "\([a-z]*\)".*/\1/p' "$1/plan.json"; }
same_weights() { cmp "$1/checkpoints/latest/model.safetensors" "$2/checkpoints/latest/model.safetensors" || fail "$1 and $2 have other weights"; }

make_text text 600
cat >base.yaml <<'END'
data: text
model: tiny
tokenizer: bytes
steps: 3
batch: 2
seq: 32
threads: 1
sample-tokens: 0
val-samples: 2
END

# ---- a grid of four, with its table and its page
{ cat base.yaml; printf 'lr: [1e-3, 3e-3]\nseed: [1, 2]\n'; } >grid.yaml
sweep grid.yaml --out s || fail 'a sweep of four'
[ -s out ] && fail 'a sweep wrote to standard output'
[ "$(ls s | grep -c '^lr=')" -eq 4 ] || fail 'four run folders expected'
for run in lr=0.001,seed=1 lr=0.001,seed=2 lr=0.003,seed=1 lr=0.003,seed=2; do
    [ "$(status_of s/$run)" = finished ] || fail "$run is not finished"
    grep -q "$run" s/sweep.md || fail "$run is not in sweep.md"
    grep -q "href=\"./$run/report.html\"" s/report.html || fail "$run is not on the page"
done
[ "$(count '"status": "finished"' s/sweep.json)" -eq 4 ] || fail 'sweep.json: four finished runs expected'
[ "$(count '^| [1-4] |' s/sweep.md)" -eq 4 ] || fail 'sweep.md: four numbered rows expected'
sed -n 's/.*"bits_per_byte": \([0-9.]*\),*$/\1/p' s/sweep.json >order
[ "$(wc -l <order)" -eq 4 ] || fail 'sweep.json: four bits_per_byte expected'
sort -n order | cmp - order || fail 'sweep.json: not best first'
for word in params tokens_per_second model_flops validation_loss loss; do
    [ "$(count "\"$word\": [0-9]" s/sweep.json)" -eq 4 ] || fail "sweep.json: '$word' of four runs expected"
done
[ "$(count '</svg>' s/report.html)" -ge 3 ] || fail 'report.html: curves and a plot for each of two settings expected'
[ "$(ls s/data | wc -l)" -eq 1 ] || fail 'the text was prepared more than once'
# A run of the sweep is the run that its settings alone would give.
timeout 60 "$trilith" train --config base.yaml --out alone --lr 3e-3 --seed 2 --quiet 2>err || fail 'a run alone'
same_weights alone s/lr=0.003,seed=2

# ---- again: nothing is run twice, another sweep is refused
cp s/lr=0.001,seed=1/plan.json before.json
sweep grid.yaml --out s || fail 'the same sweep again'
cmp before.json s/lr=0.001,seed=1/plan.json || fail 'a finished run was run again'
[ "$(count 'finished earlier' err)" -eq 4 ] || fail 'four runs finished earlier expected'
sed 's/3e-3/2e-3/' grid.yaml >other.yaml
no_sweep "another sweep: 'lr' was .*choose another --out" other.yaml --out s
no_sweep "another sweep: 'steps' was \"3\" and is \"4\" now" grid.yaml --out s --steps 4
no_sweep 'holds a run, not a sweep' grid.yaml --out alone
rm -f s/report.html s/sweep.md
timeout 20 "$trilith" report s >out 2>err || fail 'report of a sweep'
[ -s s/report.html ] && [ -s s/sweep.md ] || fail 'report made no page or no table of a sweep'

# ---- seeds, and a list of one
{ cat base.yaml; printf 'lr: [2e-3]\n'; } >one.yaml
sweep one.yaml --out seeds --seeds 2 --seed 5 --quiet || fail '--seeds'
[ -s err ] && fail '--quiet was not quiet'
[ -d seeds/seed=5 ] && [ -d seeds/seed=6 ] && [ "$(ls seeds | grep -c =)" -eq 2 ] || fail '--seeds 2 --seed 5: seeds 5 and 6 expected'

# ---- a run that fails costs itself alone
{ cat base.yaml | grep -v '^model'; printf 'model: [tiny, no-such-model, tiny.json]\n'; } >failing.yaml
sweep failing.yaml --out failing
[ $? -eq 1 ] || fail 'a sweep with a failed run: exit status 1 expected'
[ "$(status_of failing/model=tiny)" = finished ] || fail 'the run beside a failed one'
grep -q '"error": "model .no-such-model. is neither' failing/sweep.json || fail 'sweep.json does not say why a run failed'
grep -q 'no-such-model. is neither' failing/sweep.md || fail 'sweep.md does not say why a run failed'
grep -q '2 of 3 runs failed' err || fail 'the end does not count what failed'

# ---- stopped half-way: resumed with its bits
{ cat base.yaml | grep -v '^steps'; printf 'steps: 4000\nlr: [1e-3, 3e-3]\n'; } >long.yaml
sed 's/4000/300/' long.yaml >short.yaml
lines() { if [ -f "$1" ]; then wc -l <"$1"; else echo 0; fi; }
await() { # FILE LINES: until the file has so many
    n=0
    while [ "$(lines "$1")" -lt "$2" ] && [ $n -lt 600 ]; do
        sleep 0.05
        n=$((n + 1))
    done
    [ "$(lines "$1")" -ge "$2" ] || fail "$1 never had $2 lines"
}
"$trilith" train --sweep long.yaml --out stop >out 2>err </dev/null &
pid=$!
await stop/lr=0.001/metrics.jsonl 20
kill -TERM $pid
wait $pid
code=$?
[ $code -eq 0 ] || fail "SIGTERM: exit status $code, expected 0"
[ "$(status_of stop/lr=0.001)" = stopped ] || fail 'SIGTERM: the run is not stopped'
[ -e stop/lr=0.003 ] && fail 'SIGTERM: the next run was begun'
grep -q 'stopped as asked' err || fail 'SIGTERM: nothing says that it stopped'
steps=$(lines stop/lr=0.001/metrics.jsonl)
[ "$steps" -lt 4000 ] || fail 'SIGTERM came after the run'

# SIGKILL, which the sweep cannot hear: its run is told by the system, and leaves a checkpoint too.
"$trilith" train --sweep long.yaml --out stop >out 2>err </dev/null &
pid=$!
await stop/lr=0.001/metrics.jsonl $((steps + 20))
kill -KILL $pid
wait $pid 2>/dev/null
timeout 60 flock stop/lr=0.001/.lock true || fail 'the run outlived its sweep'
[ "$(status_of stop/lr=0.001)" = stopped ] || fail 'the run of a killed sweep did not stop in order'

# The same with fewer steps, once undisturbed and once killed with its sweep by SIGKILL: equal bits.
sweep short.yaml --out calm --quiet || fail 'a sweep to compare with'
"$trilith" train --sweep short.yaml --out killed --checkpoint-every 50 --quiet >out 2>err </dev/null &
pid=$!
await killed/lr=0.001/metrics.jsonl 60
kill -KILL $pid
wait $pid 2>/dev/null
timeout 60 flock killed/lr=0.001/.lock true # until its run has stopped
sweep short.yaml --out killed --checkpoint-every 50 --quiet || fail 'a killed sweep, started again'
for run in lr=0.001 lr=0.003; do
    [ "$(status_of killed/$run)" = finished ] || fail "$run of a killed sweep is not finished"
    same_weights calm/$run killed/$run
done

# ---- a depth in a sweep: what it chose stands in each run's settings
{ cat base.yaml | grep -v -e '^model' -e '^steps' -e '^batch'; printf 'depth: [1, 2]\naspect: 16\ntokens-per-param: 0.1\n'; } >depth.yaml
sweep depth.yaml --out depth --quiet || fail 'a sweep over depths'
for run in depth=1 depth=2; do
    for key in batch lr weight-decay; do
        grep -q "^$key: [0-9]" depth/$run/config.yaml || fail "$run: config.yaml has no $key"
    done
done
a=$(grep '^batch:' depth/depth=1/config.yaml) b=$(grep '^batch:' depth/depth=2/config.yaml)
[ "$a" != "$b" ] || fail 'two depths with one batch'

# ---- what is wrong with a grid
grid() { { cat base.yaml; printf "$1"; } >bad.yaml; }
grid 'lerning-rate: [1, 2]\n'
no_sweep "bad.yaml line 10: unknown key 'lerning-rate'" bad.yaml --out bad
grid 'bacth: [2, 4]\n'
no_sweep "bad.yaml line 10: unknown key 'bacth'; did you mean 'batch'" bad.yaml --out bad
grid ''
no_sweep 'nothing to sweep' bad.yaml --out bad
: >bad.yaml
no_sweep 'nothing to sweep' bad.yaml --out bad
grid 'lr: []\n'
no_sweep "line 10: 'lr' is an empty list" bad.yaml --out bad
grid 'lr: [1e-3, 0.001]\n'
no_sweep "line 10: 'lr' lists 0.001 twice" bad.yaml --out bad
grid 'lr: [1e-3, fast]\n'
no_sweep "line 10: 'lr' needs a number.*fast" bad.yaml --out bad
grid 'lr: [1e-3, 2e-3]\n'
no_sweep "'lr' is a list, and --lr on the command line is one value" bad.yaml --out bad --lr 1e-3
no_sweep 'absent.yaml' absent.yaml --out bad
grid 'out: elsewhere\nlr: [1e-3, 2e-3]\n'
no_sweep "'out' belongs on the command line" bad.yaml --out bad
grid 'resume: true\nlr: [1e-3, 2e-3]\n'
no_sweep "'resume' belongs on the command line" bad.yaml --out bad
grid 'seed: [1, 2]\n'
no_sweep 'lists seeds and --seeds counts them' bad.yaml --out bad --seeds 2
grep -v '^data' grid.yaml >bad.yaml
no_sweep 'no data is named' bad.yaml --out bad
grid 'lr: [1e-3, 2e-3\n'
no_sweep 'bad.yaml, line' bad.yaml --out bad
awk 'BEGIN { printf "data: text\nseed: ["; for (i = 0; i < 10001; i++) printf "%s%d", i ? ", " : "", i; print "]" }' >bad.yaml
no_sweep 'more than 10000 runs' bad.yaml --out bad
[ -e bad ] && fail 'a refused sweep left a folder'
timeout 20 "$trilith" train --data text --out bad --seeds 3 >out 2>err
[ $? -eq 2 ] && grep -q 'seeds needs --sweep' err || fail '--seeds without --sweep'

# Started several times over it would start every run as often.
OMPI_COMM_WORLD_SIZE=4 run train --sweep grid.yaml --out many >out
refused '--sweep starts processes itself, and mpirun has started several' $? 'a sweep under mpirun'
OMPI_COMM_WORLD_SIZE=4 run train --supervise --ranks 2 --data text --out many >out
refused '--supervise starts processes itself' $? 'a supervisor under mpirun'

finish
