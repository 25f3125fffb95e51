#!/bin/sh
# check_train.sh TRILITH SOURCE — `trilith train` against everything that a user or a machine does to it: data that is missing, unreadable, not
# UTF-8, too short or damaged; models that do not fit; folders that are taken; other settings on resume; a disk that fills. Each ends in one
# sentence and status 2 with nothing written over, or in the run that was asked for.
. "$2/tests/program.sh"
train() { run train --model tiny --tokenizer bytes --seq 64 --batch 2 --val-samples 2 --quiet --threads 1 "$@"; }
# refuses_to PATTERN ARGUMENT…: of train.
refuses_to() {
    pattern=$1
    shift
    train "$@"
    refused "$pattern" $? "trilith train $*"
}
same() { cmp -s "$1" "$2" || fail "$3"; }
weights() { printf '%s/checkpoints/latest/model.safetensors' "$1"; }

make_text "$work/text" 400

# ---- data ----
refuses_to "$work/absent" --data "$work/absent" --out "$work/a"
refuses_to 'is a folder' --data "$work" --out "$work/a"
refuses_to 'absent.jsonl' --data "$work/text" "$work/absent.jsonl" --out "$work/a"
: >"$work/empty"
refuses_to 'empty has [01] token' --data "$work/empty" --out "$work/a"
head -c 30 "$work/text" >"$work/short"
refuses_to 'short has 31 tokens, but one sample is 65' --data "$work/short" --out "$work/a"
head -c 64 "$work/text" >"$work/short"
refuses_to 'leaves none to train on\|more text' --data "$work/short" --out "$work/a"
if [ "$(id -u)" -ne 0 ]; then
    cp "$work/text" "$work/secret"
    chmod 000 "$work/secret"
    refuses_to 'secret.*ermission' --data "$work/secret" --out "$work/a"
fi
gzip -c "$work/text" >"$work/text.gz"
head -c 300 "$work/text.gz" >"$work/cut.gz"
refuses_to 'cut.gz.*damaged\|cut.gz.*cut short\|cut.gz.*ends' --data "$work/cut.gz" --out "$work/a"
printf 'PK\003\004 and so on, which is an archive of another kind' >"$work/a.zip"
refuses_to 'a.zip.*archive' --data "$work/a.zip" --out "$work/a"
printf '{"text": "one"}\n{"body": "two"}\n' >"$work/b.jsonl"
refuses_to 'b.jsonl, line 2 has no key "text".*--text-key' --data "$work/b.jsonl" --out "$work/a"
printf '{"text": "one"}\n{"text": 2}\n' >"$work/b.jsonl"
refuses_to 'b.jsonl, line 2' --data "$work/b.jsonl" --out "$work/a"
printf '{"text": "one"}\nnot json\n' >"$work/b.jsonl"
refuses_to 'b.jsonl, line 2' --data "$work/b.jsonl" --out "$work/a"
[ ! -e "$work/a/run.json" ] || fail 'a refused run was begun'

# Invalid UTF-8 is read as U+FFFD, and counted: three sequences here.
{ cat "$work/text"; printf 'x\377y\300\257z\n'; } >"$work/bad"
train --data "$work/bad" --out "$work/utf8" --steps 1 || fail 'train on invalid UTF-8'
grep -q '\b3 invalid UTF-8 sequences' "$work/err" || fail 'invalid UTF-8 is not counted'
run train --data "$work/text" --data "$work/text.gz" --out "$work/two" --steps 1 --model tiny --tokenizer bytes --seq 64 --quiet ||
    fail 'train on a file and a gzip file'

# ---- models ----
config() {
    cat >"$work/config.json" <<END
{"model_type": "llama", "vocab_size": ${1-300}, "hidden_size": ${2-48}, "intermediate_size": 64, "num_hidden_layers": 2,
 "num_attention_heads": ${3-4}, "num_key_value_heads": ${4-2}, "max_position_embeddings": ${5-128}, "rms_norm_eps": 1e-5}
END
}
config 300 50 4
refuses_to 'hidden_size\|cannot be divided\|divide' --data "$work/text" --out "$work/b" --model "$work/config.json"
config 300 48 4 3
refuses_to '4 .*heads.* 3 ' --data "$work/text" --out "$work/b" --model "$work/config.json"
config 200
refuses_to 'tokenizer has 257 tokens, but model .* only 200' --data "$work/text" --out "$work/b" --model "$work/config.json"
config 300 48 4 2 32
refuses_to '64 is beyond the model.s 32 positions' --data "$work/text" --out "$work/b" --model "$work/config.json"
config 300
printf '{"vocab_size": 300}' >"$work/other.json"
refuses_to 'model_type' --data "$work/text" --out "$work/b" --model "$work/other.json"
refuses_to "did you mean 'tiny'" --data "$work/text" --out "$work/b" --model tinny
refuses_to 'tokenizer' --data "$work/text" --out "$work/b" --tokenizer "$work/absent"
refuses_to 'bpe:N' --data "$work/text" --out "$work/b" --tokenizer bpe:many
refuses_to 'divided into 4 leaves' --data "$work/text" --out "$work/b" --leaves 4
refuses_to 'one of --steps, --tokens.* not 2 of them' --data "$work/text" --out "$work/b" --steps 1 --tokens 5
[ ! -e "$work/b/checkpoints" ] || fail 'a refused run has checkpoints'
# A vocabulary larger than the tokenizer's is fine; a preset wins over a folder of its name.
train --data "$work/text" --out "$work/larger" --model "$work/config.json" --steps 1 || fail 'a vocabulary larger than the tokenizer'
mkdir "$work/here" "$work/here/tiny"
(cd "$work/here" && train --data "$work/text" --out "$work/named" --steps 1) || fail 'a preset of the name of a folder'

# ---- folders that are taken ----
train --data "$work/text" --out "$work/run" --steps 6 --checkpoint-every 2 --stop-after 4 || fail 'train'
cp -r "$work/run" "$work/before"
refuses_to 'text/none holds no run to continue' --resume --out "$work/text/none"
refuses_to 'already holds a run; continue it with --resume' --data "$work/text" --out "$work/run" --steps 6
refuses_to 'is a file' --data "$work/text" --out "$work/text"
refuses_to 'not a folder\|is a file' --data "$work/text" --out "$work/text/run"
diff -r "$work/run" "$work/before" >/dev/null || fail 'a refused call changed the run'
same "$work/text" "$work/text" ''

# ---- resuming with other settings says which ----
for change in 'lr 5e-3' 'batch 4' 'seq 32' 'steps 7' 'schedule linear' 'warmup 3' 'seed 9' 'weight-decay 0.2' 'clip 2' 'beta2 0.99' 'eps 1e-6' \
    'model nano' 'tokenizer bpe:300' 'val-fraction 0.1' 'min-lr-ratio 0.5'; do
    name=$(printf "%s" "${change%% *}" | tr - _ | sed "s/^model/initial_weights/")
    run train --out "$work/run" --resume --quiet "--${change%% *}" "${change#* }"
    code=$?
    [ $code -eq 2 ] && [ "$(wc -l <"$work/err")" -eq 1 ] && grep -q "cannot resume.*'$name" "$work/err" ||
        fail "resume with --$change (exit status $code) does not say '$name'"
done
printf 'and one line more\n' >>"$work/text"
run train --out "$work/run" --resume --quiet
[ $? -eq 2 ] && grep -q "cannot resume.*'data'" "$work/err" || fail 'resume with other data'
sed -i '$d' "$work/text"
find "$work/run" -newer "$work/before" -name '*.safetensors' | grep -q . && fail 'a refused resume wrote weights'

# ---- a disk that fills while a checkpoint is written: a limit on the size of a file does the same ----
blocks=$((($(wc -c <"$(weights "$work/run")") + 20000) / 512)) # the weights fit, the optimizer's state does not
cp -r "$work/before" "$work/full"
(ulimit -f $blocks && exec timeout 100 "$trilith" train --out "$work/full" --resume --quiet >"$work/out" 2>"$work/err" </dev/null)
code=$?
[ $code -eq 2 ] || fail "a disk that fills at the last checkpoint: exit status $code, expected 2"
grep -q 'last checkpoint failed and was undone; earlier ones are intact' "$work/err" || fail 'a disk that fills: the sentence does not say what is intact'
[ -z "$(find "$work/full/checkpoints" -name '.step-*')" ] || fail 'a failed checkpoint left its parts'
diff -r "$work/before/checkpoints" "$work/full/checkpoints" >/dev/null || fail 'a failed checkpoint changed the earlier ones'
run inspect "$work/full" || fail 'the run cannot be read after a disk was full'
run train --out "$work/full" --resume --quiet || fail 'the run does not go on when there is room again'
run train --out "$work/run" --resume --quiet || fail 'resume'
same "$(weights "$work/run")" "$(weights "$work/full")" 'after a full disk the run ends with other weights'

# ---- from a checkpoint: its weights and tokenizer; a run means its newest ----
run train --data "$work/text" --out "$work/next" --model "$work/run" --steps 1 --seq 64 --batch 2 --lr 0 --weight-decay 0 --quiet || fail 'train --model RUN'
grep -q 'model: .*/checkpoints/step-6' "$work/next/config.yaml" || fail 'the checkpoint that a run stands for is not written down'
same "$(weights "$work/run")" "$(weights "$work/next")" 'with a learning rate of 0 the weights of the checkpoint should stay'
refuses_to 'has no finished checkpoint yet\|config.json' --data "$work/text" --out "$work/c" --model "$work/here"

finish
