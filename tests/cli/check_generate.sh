#!/bin/sh
# check_generate.sh TRILITH SOURCE — a run of two steps, then what a user does with it: the same text on any threads and kernels, streamed
# as printed at the end, scored as it was sampled (law L2 through the program), inspected; and what goes wrong around it.
. "$2/tests/program.sh"
member() { sed -n "s/.*\"$1\":\\(\\[[^]]*\\]\\|\"[^\"]*\"\\|[^,}]*\\).*/\\1/p" "$2" | head -1; }

make_text "$work/text" 300
call train --data "$work/text" --out "$work/run" --model tiny --tokenizer bytes --steps 2 --batch 2 --seq 64 --threads 1 --quiet \
    >"$work/out" || fail 'train'
m=$work/run

# The same bits on 1 and 3 threads and on the reference kernels; another seed gives another text.
call generate --model "$m" --prompt The --max-tokens 40 --seed 5 --json >"$work/a.json" || fail 'generate --json'
[ -s "$work/err" ] && fail 'generate --json wrote to standard error'
[ "$(wc -l <"$work/a.json")" -eq 1 ] || fail 'generate --json: one line expected'
call generate --model "$m/checkpoints/latest" --prompt The --max-tokens 40 --seed 5 --json --threads 3 >"$work/b.json"
TRILITH_ISA=ref call generate --model "$m/checkpoints/step-2" --prompt The --max_tokens=40 --seed 5 --json >"$work/c.json"
TRILITH_MMAP=0 call generate --model "$m" --prompt The --max-tokens 40 --seed 5 --json >"$work/d.json"
call generate --model "$m" --prompt The --max-tokens 40 --seed 6 --json >"$work/e.json"
for k in ids logprobs text; do
    one=$(member $k "$work/a.json")
    [ -n "$one" ] || fail "generate --json has no $k"
    for f in b c d; do [ "$one" = "$(member $k "$work/$f.json")" ] || fail "$k differ: a, $f"; done
    [ "$one" != "$(member $k "$work/e.json")" ] || fail "$k are the same with another seed"
done
for k in prompt_tokens seconds tokens_per_second; do [ -n "$(member $k "$work/a.json")" ] || fail "generate --json has no $k"; done
[ "$(member prompt_tokens "$work/a.json")" = 3 ] || fail 'prompt_tokens'
[ "$(member ids "$work/a.json" | tr -cd , | wc -c)" -eq 39 ] || fail '40 ids expected'

# L2: scoring the whole gives the sampler's log-probabilities digit for digit. Bytes are their own ids: T h e is 84 104 101.
echo "84 104 101 $(member ids "$work/a.json" | tr -d '[]' | tr ',' ' ')" >"$work/ids"
call score --model "$m" --tokens "$work/ids" --json --chunk 7 >"$work/score.json" || fail 'score'
member logprobs "$work/score.json" | tr -d '[]' | tr ',' '\n' | tail -n 40 >"$work/scored"
member logprobs "$work/a.json" | tr -d '[]' | tr ',' '\n' >"$work/sampled"
cmp "$work/scored" "$work/sampled" || fail 'score and generate disagree on log-probabilities'

# The same under bf16: another contract with the same law, through the program.
call generate --model "$m" --prompt The --max-tokens 40 --seed 5 --no-stop-at-eos --json --dtype bf16 >"$work/bf16.json" || fail 'generate --dtype bf16'
[ "$(member logprobs "$work/a.json")" != "$(member logprobs "$work/bf16.json")" ] || fail '--dtype bf16 changes nothing'
echo "84 104 101 $(member ids "$work/bf16.json" | tr -d '[]' | tr ',' ' ')" >"$work/ids"
TRILITH_ISA=ref call score --model "$m" --tokens "$work/ids" --json --chunk 7 --dtype bf16 >"$work/score.json" || fail 'score --dtype bf16'
member logprobs "$work/score.json" | tr -d '[]' | tr ',' '\n' | tail -n 40 >"$work/scored"
member logprobs "$work/bf16.json" | tr -d '[]' | tr ',' '\n' >"$work/sampled"
cmp "$work/scored" "$work/sampled" || fail 'score and generate disagree on log-probabilities in bf16'
refuses bf16 generate --model "$m" --prompt The --dtype fp4

# Streamed text is the text; a file is a prompt as it stands; greedy is greedy.
call generate --model "$m" --prompt The --max-tokens 40 --temperature 0 >"$work/greedy" || fail 'generate'
call generate --model "$m" --prompt The --max-tokens 40 --top-k 1 --seed 9 >"$work/greedy2"
cmp "$work/greedy" "$work/greedy2" || fail 'top-k 1 is not greedy'
printf The >"$work/prompt"
call generate --model "$m" --prompt-file "$work/prompt" --max-tokens 40 --temperature 0 >"$work/greedy3"
cmp "$work/greedy" "$work/greedy3" || fail 'a prompt from a file differs'
call generate --model "$m" --max-tokens 3 --json >"$work/none.json" || fail 'generate without a prompt'
[ "$(member prompt_tokens "$work/none.json")" = 1 ] || fail 'without a prompt one token begins the text'
call generate --model "$m" --prompt 'a<|endoftext|>b' --max-tokens 1 --json >"$work/plain.json"
call generate --model "$m" --prompt 'a<|endoftext|>b' --max-tokens 1 --json --special >"$work/special.json"
[ "$(member prompt_tokens "$work/plain.json")" = 15 ] || fail 'special tokens in a prompt are text unless asked'
[ "$(member prompt_tokens "$work/special.json")" = 3 ] || fail '--special'

# All the model's positions, and not one more.
call generate --model "$m" --prompt The --max-tokens 1M --no-stop-at-eos --temperature 2 --json >"$work/all.json" || fail 'generate to the end'
[ "$(member stop "$work/all.json")" = '"positions"' ] || fail 'stop should be positions'
[ "$(member ids "$work/all.json" | tr -cd , | wc -c)" -eq 508 ] || fail '512 positions less a prompt of 3: 509 ids'
refuses 'positions' generate --model "$m" --prompt-file "$work/text"
refuses 'prompt-file\|absent' generate --model "$m" --prompt-file "$work/absent"

# Text that is no UTF-8 is read as U+FFFD, and that is said.
printf 'ab\377cd' >"$work/bad"
call score --model "$m" --text "$work/bad" --json >"$work/out" || fail 'score of invalid UTF-8'
grep -q 'U+FFFD' "$work/err" || fail 'invalid UTF-8 is not mentioned'
call score --model "$m" --text "$work/text" >"$work/out" || fail 'score --text'
grep -q 'windows of 512' "$work/out" || fail 'windows are not stated'

# A reader that goes away ends it; a disk that is full is an error.
call generate --model "$m" --prompt The --max-tokens 400 --no-stop-at-eos | head -c 1 >/dev/null
call generate --model "$m" --prompt The --max-tokens 4 --json >/dev/full && fail 'a full disk went unnoticed'

# What is damaged is refused.
call inspect "$m" --json >"$work/inspect.json" || fail 'inspect'
[ "$(member kind "$work/inspect.json")" = '"run"' ] || fail 'kind should be run'
cp -r "$m/checkpoints/step-2" "$work/model"
: >"$work/model/tokenizer.json"
refuses 'tokenizer.json' generate --model "$work/model" --prompt The
head -c 3000 "$m/checkpoints/step-2/tokenizer.json" >"$work/model/tokenizer.json"
refuses 'tokenizer.json' generate --model "$work/model" --prompt The
rm "$work/model/tokenizer.json"
refuses 'tokenizer' generate --model "$work/model" --prompt The
mkdir -p "$work/young/checkpoints"
refuses 'no finished checkpoint' generate --model "$work/young" --prompt The

finish
