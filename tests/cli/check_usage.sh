#!/bin/sh
# check_usage.sh TRILITH SOURCE — every wrong call and every hostile input ends in one sentence on standard error, nothing on standard
# output, and exit status 2; every right one in what it promised. Models come from tests/vectors.
. "$2/tests/program.sh"
vectors=$source/tests/vectors

# works PATTERN ARGUMENT…: exit 0 and a line of standard output that matches; nothing on standard error.
works() {
    pattern=$1
    shift
    run "$@"
    code=$?
    if [ $code -ne 0 ]; then fail "trilith $*: exit status $code, expected 0"
    elif [ -s "$work/err" ]; then fail "trilith $*: wrote to standard error"
    elif ! grep -q -e "$pattern" "$work/out"; then fail "trilith $*: no line of the output matches '$pattern'"
    fi
}

# ---- the program as a whole ----
works 'generate'
works 'generate' --help
works '^trilith [0-9]*\.[0-9]*\.[0-9]*$' --version
works 'log-probability' score --help
works 'usage' help generate
works '^\.TH TRILITH 1' help --man
for command in $("$trilith" --help | sed -n 's/^  \([a-z]*\)  .*/\1/p'); do
    works "^trilith $command" "$command" --help
done
refuses "no command 'genrate'; did you mean 'generate'" genrate
refuses "no command 'xyzzy'" xyzzy
refuses "no command '--nope'" --nope
refuses "no command" help genrate
printf 'x' | "$trilith" --help >/dev/full 2>"$work/err" && fail '--help >/dev/full: a full disk went unnoticed'

# ---- options ----
m=$vectors/llama-tied
refuses 'model is missing' generate
refuses "unknown option '--temprature'; did you mean '--temperature'" generate --model "$m" --temprature 1
refuses "unknown option '--qqqqqqqq'" generate --model "$m" --qqqqqqqq
refuses "unknown option '-m'" generate -m x
refuses "unexpected word 'x'" generate --model "$m" x
refuses 'prompt needs a value' generate --model "$m" --prompt
refuses 'model needs a value' generate --model --json
refuses 'temperature needs a number' generate --model "$m" --temperature hot
refuses 'temperature needs a number' generate --model "$m" --temperature -1
refuses 'temperature needs a number' generate --model "$m" --temperature nan
refuses 'temperature needs a number' generate --model "$m" --temperature inf
refuses 'temperature needs a number' generate --model "$m" --temperature 0x10
refuses 'max-tokens needs a whole number' generate --model "$m" --max-tokens 1.5
refuses 'max-tokens needs a whole number' generate --model "$m" --max-tokens 0
refuses 'max-tokens needs a whole number' generate --model "$m" --max-tokens 99999999999999999999999
refuses 'max-tokens needs a whole number' generate --model "$m" --max-tokens ''
refuses 'top-p needs a number' generate --model "$m" --top-p 0
refuses 'top-p needs a number' generate --model "$m" --top-p=1.01
refuses 'min-p needs a number' generate --model "$m" --min-p 2
refuses 'typical-p needs a number' generate --model "$m" --typical-p 0
refuses 'repetition-penalty needs a number' generate --model "$m" --repetition-penalty 0
refuses 'presence-penalty needs a number' generate --model "$m" --presence-penalty 2.5
refuses 'frequency-penalty needs a number' chat --model "$m" --frequency-penalty -3
refuses 'top-k needs a whole number' generate --model "$m" --top-k -3
refuses 'seed needs a whole number' generate --model "$m" --seed 1e30
refuses 'threads needs a whole number' generate --model "$m" --threads 100000
refuses 'stop-at-eos is either true or false' generate --model "$m" --stop-at-eos=perhaps
refuses 'use one' generate --model "$m" --prompt a --prompt-file b
refuses 'one of --text FILE and --tokens FILE' score --model "$m"
refuses 'one of --text FILE and --tokens FILE' score --model "$m" --text a --tokens b
refuses 'FILE or DIR is missing' inspect
refuses "unexpected word 'b'" inspect a b

refuses "no command 'encod'; did you mean 'encode'" tokenizer encod
refuses 'model is missing' tokenizer encode
refuses "unexpected word 'x'" doctor x
refuses 'missing' report
refuses 'not a folder\|no folder\|cannot' report "$work/absent"

# ---- train ----
out=$work/out-folder
refuses 'out is missing\|--out' train --data "$m/config.json"
refuses 'data' train --out "$out"
refuses 'absent' train --data "$work/absent" --out "$out"
refuses 'lr needs a number' train --data "$m/config.json" --out "$out" --lr fast
refuses 'schedule is one of' train --data "$m/config.json" --out "$out" --schedule sideways
refuses 'leaves' train --data "$m/config.json" --out "$out" --leaves 3
refuses 'model' train --data "$m/config.json" --out "$out" --model unheard-of
refuses 'depth 4 makes the model itself.*give one of them' train --data "$m/config.json" --out "$out" --depth 4 --model tiny
refuses 'depth needs a whole number from 1 to 128' train --data "$m/config.json" --out "$out" --depth 0
refuses 'aspect is the width of a --depth' train --data "$m/config.json" --out "$out" --aspect 32
refuses 'one of --steps, --tokens, --minutes, --flops' train --data "$m/config.json" --out "$out" --flops 1e9 --tokens 5
refuses 'flops needs a number' train --data "$m/config.json" --out "$out" --flops -1
printf 'lerning-rate: 1\n' >"$work/run.yaml"
refuses "run.yaml line 1: unknown key 'lerning-rate'" train --data "$m/config.json" --out "$out" --config "$work/run.yaml"
printf 'steps: 2\nbacth: 4\n' >"$work/run.yaml"
refuses "run.yaml line 2: unknown key 'bacth'; did you mean 'batch'" train --data "$m/config.json" --out "$out" --config "$work/run.yaml"
printf 'steps: [1, 2\n' >"$work/run.yaml"
refuses 'run.yaml' train --data "$m/config.json" --out "$out" --config "$work/run.yaml"
refuses 'shorter\|at least\|tokens' train --data "$work/run.yaml" --out "$out" --model tiny --tokenizer bytes --seq 512
[ -e "$out/checkpoints/latest" ] && fail 'train: a refused run left a checkpoint'

# ---- models ----
refuses "there is no model" generate --model "$work/absent" --prompt a
refuses "is a file" generate --model "$m/config.json" --prompt a
mkdir "$work/empty"
refuses 'holds no config.json' generate --model "$work/empty" --prompt a
refuses 'tokenizer.json' generate --model "$m" --prompt a
refuses "no file or folder" inspect "$work/absent"
refuses 'config.json' inspect "$work/empty"
refuses "no file or folder" inspect /dev/null/x --json
: >"$work/zero.safetensors"
refuses 'zero.safetensors' inspect "$work/zero.safetensors"
printf '\377\377\377\377\377\377\377\177{}' >"$work/huge.safetensors"
refuses 'huge.safetensors' inspect "$work/huge.safetensors"
head -c 4000 /dev/urandom >"$work/noise.safetensors"
refuses 'noise.safetensors' inspect "$work/noise.safetensors"
size=$(wc -c <"$m/model.safetensors")
for n in 7 8 9 100 $((size / 2)) $((size - 1)); do
    head -c "$n" "$m/model.safetensors" >"$work/cut.safetensors"
    refuses 'cut.safetensors' inspect "$work/cut.safetensors"
done
# Each damage to a model folder, seen by the commands that open one.
printf '[5, 9, 2]' >"$work/ids.json"
damaged() {
    pattern=$1
    refuses "$pattern" score --model "$work/model" --tokens "$work/ids.json"
    refuses "$pattern" inspect "$work/model"
}
fresh() {
    rm -rf "$work/model"
    mkdir "$work/model"
    cp "$m/config.json" "$m/model.safetensors" "$work/model/"
}
fresh
: >"$work/model/config.json"
damaged 'config.json'
printf '{' >"$work/model/config.json"
damaged 'config.json'
printf '[]' >"$work/model/config.json"
damaged 'config.json'
awk 'BEGIN { for (i = 0; i < 200000; i++) printf "[" }' >"$work/model/config.json"
damaged 'config.json'
for edit in 's/"vocab_size": *[0-9]*/"vocab_size": -5/' 's/"vocab_size": *[0-9]*/"vocab_size": 99999999999/' \
    's/"num_hidden_layers": *[0-9]*/"num_hidden_layers": 1000000000/' 's/"hidden_size": *[0-9]*/"hidden_size": 7/' \
    's/"num_attention_heads": *[0-9]*/"num_attention_heads": 0/' 's/"num_hidden_layers": *[0-9]*/"num_hidden_layers": "two"/'; do
    fresh
    sed "$edit" "$m/config.json" >"$work/model/config.json"
    cmp -s "$m/config.json" "$work/model/config.json" && fail "sed $edit: the edit changed nothing: the check is stale"
    damaged 'config.json'
done
fresh
rm "$work/model/model.safetensors"
damaged 'safetensors'
fresh
cp "$vectors/gpt2-tied/model.safetensors" "$work/model/"
refuses 'tensor' score --model "$work/model" --tokens "$work/ids.json"

# ---- token files ----
ids() {
    printf "$2" >"$work/ids.txt"
    refuses "$1" score --model "$m" --tokens "$work/ids.txt"
}
refuses 'absent' score --model "$m" --tokens "$work/absent"
refuses 'folder\|directory' score --model "$m" --tokens "$work"
ids 'at least two' ''
ids 'at least two' '5'
ids 'at least two' '[]'
ids 'at least two' ' \n\t '
ids 'line 2' '1 2\n3 x 4'
ids 'line 1' '1 2.5'
ids 'line 1' '1 -2'
ids 'line 1' '1,2'
ids 'line 1' '1 99999999999999999999'
ids 'line 1' '1 2\0003 4'
ids 'ids are 0 to' '1 2147483647'
ids 'not a token id' '[1, 2.5]'
ids 'not a token id' '[1, -1]'
ids 'not a token id' '[1, "2"]'
ids 'ids.txt' '[1, 2'
ids 'ids.txt' '[1, 2] 3'
refuses 'more than the' score --model "$m" --tokens "$work/ids.json" --window 1000000

# ---- what is right ----
works '"logprobs":\[-[0-9.]*,-[0-9.]*\].*"tokens":3' score --model "$m" --tokens "$work/ids.json" --json
cp "$work/out" "$work/first"
printf ' 5\n9\t2\n' >"$work/ids.txt"
works 'nats a token' score --model "$m" --tokens "$work/ids.txt"
works '"logprobs"' score --model "$m" --tokens "$work/ids.txt" --json --chunk 1 --threads 1
[ "$(sed 's/],.*//' "$work/first")" = "$(sed 's/],.*//' "$work/out")" ] || fail 'score --chunk 1: other log-probabilities'
# Windows: the first scores as an unbroken text does.
awk 'BEGIN { for (i = 0; i < 40; i++) printf "%d ", (i * 7) % 11 }' >"$work/long.txt"
works '"windows":1,' score --model "$m" --tokens "$work/long.txt" --window 40 --json
works '"window":8,"windows":9,' score --model "$m" --tokens "$work/long.txt" --window 8 --json
works 'windows of 8' score --model "$m" --tokens "$work/long.txt" --window 8
works 'weights hash' inspect "$m"
works '"weights_hash":"[0-9a-f]\{32\}"' inspect "$m" --json
hash=$(sed 's/.*"weights_hash":"\([0-9a-f]*\)".*/\1/' "$work/out")
works "\"weights_hash\":\"$hash\"" inspect "$m/model.safetensors" --json

# ---- a GGUF file, as a folder ----
g=$vectors/gguf-models/qwen3-moe.gguf
works '^  architecture qwen3_moe: 2 layers of 24, 2 heads and 1 key/value heads of 16' inspect "$g"
works '^  parameters .*(15,136) in 26 tensors, 424 of F32, 14.7k of F16' inspect "$g"
works '^  blk\.\*\.ffn_gate_exps\.weight  *F16   \[5, 12, 24\]  x 2$' inspect "$g"
works '^  to run .* with a context of 96 tokens' inspect "$g"
works '"kind":"gguf","parameters":15136,"bytes":31120,"files":1,"types":{"F32":424,"F16":14712}' inspect "$g" --json
works '"architecture":{"family":"qwen3_moe","vocabulary":61,.*"kv_bytes_per_token":256,' inspect "$g" --json
works '{"name":"blk.0.ffn_gate_exps.weight","type":"F16","shape":\[5,12,24\],"bytes":2880}' inspect "$g" --json
works '"unknown":".*architecture.* is .test.' inspect "$vectors/gguf/blocks.gguf" --json
works 'IQ4_XS' inspect "$vectors/gguf/blocks.gguf"
# The folder that it was made from says the same of itself, but for what a tensor is called.
member() { sed -n "s/.*\"$1\":\({[^}]*}\|[^,}]*\).*/\1/p" "$work/out"; }
for name in architecture kv_bytes_per_token session_bytes parameters; do
    run inspect "$g" --json && member $name >"$work/a"
    run inspect "$vectors/gguf-models/qwen3-moe" --json && member $name >"$work/b"
    [ -s "$work/a" ] && cmp "$work/a" "$work/b" || fail "inspect of a GGUF file and of its folder differ in $name"
done
size=$(wc -c <"$g")
for n in 3 4 23 24 100 $((size / 2)) $((size - 1)); do
    head -c "$n" "$g" >"$work/cut.gguf"
    refuses 'cut.gguf' inspect "$work/cut.gguf"
    refuses 'cut.gguf' score --model "$work/cut.gguf" --tokens "$work/ids.json"
done

finish
