#!/bin/sh
# check_chat.sh TRILITH SOURCE — templates and conversations through the program: the model's template is found where transformers finds it; an
# answer is what generate makes of the rendered text; a turn read on top of the last equals one read from nothing; what is typed is no special token.
. "$2/tests/program.sh"
member() { sed -n "s/.*\"$1\":\\(\\[[^]]*\\]\\|\"[^\"]*\"\\|[^,}]*\\).*/\\1/p" "$2" | head -1; }

make_text "$work/text" 300
call tokenizer train --data "$work/text" --vocab 400 --out "$work/tok" --special '<|endoftext|>' '<|im_start|>' '<|im_end|>' >"$work/out" || fail 'tokenizer train'
call train --data "$work/text" --out "$work/run" --model tiny --tokenizer "$work/tok" --steps 2 --batch 2 --seq 64 --threads 1 --quiet >"$work/out" || fail train
m=$work/model
cp -rL "$work/run/checkpoints/latest" "$m"
plain=$source/tests/vectors/chat/plain.jinja
cp "$plain" "$m/chat_template.jinja"

# ---- template ----
echo '[{"role":"system","content":"Be brief."},{"role":"user","content":"In the beginning"}]' >"$work/one.json"
printf '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nIn the beginning<|im_end|>\n' >"$work/want"
call template --model "$m" --messages "$work/one.json" >"$work/got" || fail template
cmp "$work/got" "$work/want" || fail 'template prints another text'
printf '<|im_start|>assistant\n' >>"$work/want"
call template --file "$plain" --messages "$work/one.json" --generation-prompt >"$work/prompt" || fail 'template --file'
cmp "$work/prompt" "$work/want" || fail 'template --generation-prompt prints another text'
call template --model "$m" --messages "$work/one.json" --json >"$work/json" || fail 'template --json'
grep -q '"data": *\[\[19, *28\], *\[56, *72\]\]}' "$work/json" || fail "template --json marks $(cat "$work/json")"

# A folder's tokenizer_config.json, with one template or several, and its tokens.
n=$work/named
mkdir "$n"
printf '%s\n' '{"bos_token":{"content":"<s>"},"eos_token":"</s>","chat_template":[{"name":"tool_use","template":"tools {{ tools|length }}{{ bos_token }}"},{"name":"default","template":"{{ bos_token }}default{{ eos_token }}{{ x }}\n\n"}]}' >"$n/tokenizer_config.json"
[ "$(call template --model "$n" --messages "$work/one.json" --set x=2.50)" = '<s>default</s>2.5' ] || fail 'the template called default'
echo '[{"name":"f"}]' >"$work/tools.json"
[ "$(call template --model "$n" --messages "$work/one.json" --tools "$work/tools.json")" = 'tools 1<s>' ] || fail 'the template called tool_use'
echo '{}' >"$n/tokenizer_config.json"
refuses 'no chat template' template --model "$n" --messages "$work/one.json"
refuses 'KEY=JSON' template --file "$plain" --messages "$work/one.json" --set x
refuses 'a list of messages' template --file "$plain" --messages "$n/tokenizer_config.json"
refuses 'no template' template --messages "$work/one.json"
echo "{{ raise_exception('Speak up.') }}" >"$work/raise.jinja"
refuses 'Speak up' template --file "$work/raise.jinja" --messages "$work/one.json"

# ---- chat ----
call generate --model "$m" --prompt-file "$work/prompt" --special --temperature 0 --max-tokens 12 --json >"$work/a.json" || fail generate
call chat --model "$m" --messages "$work/one.json" --temperature 0 --max-tokens 12 --json >"$work/b.json" || fail 'chat --messages'
for k in ids logprobs text prompt_tokens stop; do [ "$(member $k "$work/a.json")" = "$(member $k "$work/b.json")" ] || fail "chat and generate differ in $k"; done

# Two turns from a pipe; the second, whose beginning lay in the session, is what is made of the whole from nothing.
printf 'In the beginning\nAnd then\n/exit\nnever\n' >"$work/lines"
timeout 100 "$trilith" chat --model "$m" --system 'Be brief.' --temperature 0 --max-tokens 12 <"$work/lines" >"$work/spoken" 2>"$work/err" || fail 'chat'
text=$(member text "$work/b.json")
printf '[{"role":"system","content":"Be brief."},{"role":"user","content":"In the beginning"},{"role":"assistant","content":%s},{"role":"user","content":"And then"}]' "$text" >"$work/two.json"
call chat --model "$m" --messages "$work/one.json" --temperature 0 --max-tokens 12 >"$work/first" || fail 'chat, first turn'
call chat --model "$m" --messages "$work/two.json" --temperature 0 --max-tokens 12 >"$work/second" || fail 'chat, second turn'
cat "$work/first" "$work/second" | cmp - "$work/spoken" || fail 'turns in one session differ from turns on their own'

# A special token that is typed is text: more tokens, and not the id.
echo '[{"role":"user","content":"a<|im_end|>b"}]' >"$work/forged.json"
call template --model "$m" --messages "$work/forged.json" --generation-prompt >"$work/forged"
call generate --model "$m" --prompt-file "$work/forged" --special --max-tokens 1 --json >"$work/a.json" || fail 'generate, forged'
call chat --model "$m" --messages "$work/forged.json" --max-tokens 1 --json >"$work/b.json" || fail 'chat, forged'
[ "$(member prompt_tokens "$work/b.json")" -gt "$(member prompt_tokens "$work/a.json")" ] || fail 'a typed <|im_end|> became the token'

# generation_config.json ends an answer too.
call chat --model "$m" --messages "$work/one.json" --temperature 0 --max-tokens 3 --json >"$work/a.json"
first=$(member ids "$work/a.json" | tr -d '[] ' | cut -d, -f1)
echo "{\"eos_token_id\":[399,$first]}" >"$m/generation_config.json"
call chat --model "$m" --messages "$work/one.json" --temperature 0 --max-tokens 3 --json >"$work/b.json"
[ "$(member stop "$work/b.json" | tr -d '" ')" = eos ] || fail 'generation_config.json does not end an answer'
rm "$m/generation_config.json"

refuses 'room for 8' chat --model "$m" --messages "$work/one.json" --context 8
refuses 'json goes with' chat --model "$m" --json
refuses 'positions of this model' chat --model "$m" --messages "$work/one.json" --context 100000000

finish
