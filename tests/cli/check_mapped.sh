#!/bin/sh
# check_mapped.sh TRILITH SOURCE — law L7 for files that are mapped: replaced by rename they are survived, cut short in place they end the
# process with one sentence and status 2, with --no-mmap they may be cut; damage within them is found by --verify, by tensor.
. "$2/tests/program.sh"
pid=
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null; rm -rf "$work"' EXIT

# Waits, at most 60 s, until a command succeeds.
until_true() {
    tries=0
    until "$@" || [ $tries -eq 1200 ]; do
        tries=$((tries + 1))
        sleep 0.05
    done
    [ $tries -lt 1200 ]
}
maps() { grep -q -e "$1" "/proc/$pid/maps" 2>/dev/null; }
busy() { # has used half a second of CPU: the weights were read long ago
    ticks=$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -d ' ' -f 12,13)
    [ "$((${ticks% *} + ${ticks#* }))" -ge 50 ]
}
alive() { kill -0 "$pid" 2>/dev/null; }

make_text "$work/text" 40000
head -c 20000 "$work/text" >"$work/few"
run train --data "$work/few" --out "$work/run" --model tiny --tokenizer bytes --steps 1 --batch 1 --seq 64 --threads 1 --quiet || fail train
model=$work/model
fresh() {
    rm -rf "$model"
    cp -rL "$work/run/checkpoints/latest" "$model"
}
# Something that goes on for long: 3 MB of text, a token a byte.
start() {
    "$trilith" score --model "$model" --text "$work/text" --threads 2 "$@" >"$work/out" 2>"$work/err" </dev/null &
    pid=$!
}

# Cut short in place.
fresh
start
if until_true maps "$model/model.safetensors"; then
    : >"$model/model.safetensors"
    wait "$pid"
    code=$?
    [ $code -eq 2 ] || fail "a model file cut short under the process: exit status $code, expected 2"
    [ "$(wc -l <"$work/err")" -eq 1 ] || fail 'one sentence was expected'
    grep -q "^trilith score: $model/model.safetensors can no longer be read .*--no-mmap" "$work/err" || fail 'the sentence names neither file nor remedy'
else fail 'the model was never mapped'; fi
[ ! -s "$work/out" ] || fail 'a process that failed wrote to standard output'

# Replaced by rename: the old file is still there for whoever has it.
fresh
start
if until_true maps "$model/model.safetensors"; then
    printf 'nothing' >"$model/other"
    mv "$model/other" "$model/model.safetensors"
    sleep 0.3
    alive || fail 'a model file replaced by rename ended the process'
    kill "$pid" 2>/dev/null
    wait "$pid"
else fail 'the model was never mapped'; fi

# --no-mmap: in memory, so nothing that happens to the file matters.
fresh
start --no-mmap
if until_true busy; then
    maps "$model/model.safetensors" && fail '--no-mmap maps the model'
    : >"$model/model.safetensors"
    sleep 0.3
    alive || fail '--no-mmap did not survive a file that is cut short'
    kill "$pid" 2>/dev/null
    wait "$pid"
else fail 'score did not get to work'; fi
pid=

# The same numbers either way.
fresh
run score --model "$model" --text "$work/few" --json --mmap || fail 'score --mmap'
sed 's/],.*//' "$work/out" >"$work/mapped"
run score --model "$model" --text "$work/few" --json --no-mmap || fail 'score --no-mmap'
sed 's/],.*//' "$work/out" | cmp - "$work/mapped" || fail '--no-mmap gives other log-probabilities'

# A training run whose tokenised data is cut short: the same sentence, and its checkpoints stay.
"$trilith" train --data "$work/text" --out "$work/long" --model tiny --tokenizer bytes --steps 100k --batch 4 --seq 64 --threads 2 \
    --checkpoint-every 2 --quiet >"$work/out" 2>"$work/err" </dev/null &
pid=$!
if until_true test -e "$work/long/checkpoints/latest/manifest.json"; then
    for shard in "$work"/long/data/*/*; do case $shard in *.json) ;; *) : >"$shard" ;; esac; done
    wait "$pid"
    code=$?
    [ $code -eq 2 ] || fail "data cut short under a run: exit status $code, expected 2"
    grep -q '^trilith train: .*/data/.* can no longer be read' "$work/err" || fail 'the run does not say which file'
    run inspect "$work/long" || fail 'the checkpoint of a run that ended so is not whole'
else
    kill "$pid"
    fail 'the run made no checkpoint'
fi
pid=

# Damage that keeps the size: one byte of one tensor.
fresh
run generate --model "$model" --prompt a --max-tokens 1 --verify || fail 'generate --verify of an intact checkpoint'
run score --model "$model" --text "$work/few" --verify || fail 'score --verify of an intact checkpoint'
run inspect "$model" || fail 'inspect of an intact checkpoint'
grep -q 'every tensor is as its manifest says' "$work/out" || fail 'inspect does not say that it verified'
printf '\125' | dd of="$model/model.safetensors" bs=1 seek=$(($(wc -c <"$model/model.safetensors") - 5)) conv=notrunc 2>/dev/null
damaged="tensor '[a-z.0-9_]*' is damaged"
refuses "$damaged" generate --model "$model" --prompt a --verify
refuses "$damaged" score --model "$model" --text "$work/few" --verify
refuses "$damaged" inspect "$model"
refuses "$damaged" train --data "$work/few" --out "$work/next" --model "$model" --steps 1 --seq 64
run generate --model "$model" --prompt a --max-tokens 1 || fail 'generate reads what it was not asked to verify'
rm "$model/manifest.json"
refuses 'nothing to verify' generate --model "$model" --prompt a --verify
run inspect "$model" || fail 'inspect of a model without a manifest'
printf '{' >"$model/manifest.json"
refuses 'manifest.json' inspect "$model"
refuses 'manifest.json' train --data "$work/few" --out "$work/next2" --model "$model" --steps 1 --seq 64
printf '{"format": "of another program"}' >"$model/manifest.json"
run inspect "$model" || fail "inspect of a model with another program's manifest.json"

finish
