#!/bin/sh
# check_serve.sh TRILITH SOURCE — the server through curl: shapes, streams, errors, limits, keys, origins, a Unix socket, a crowd's answers beside
# generate's, clients that leave, a model file that is replaced, and an end in order. tools/interop_serve.py asks more, with the official client.
. "$2/tests/program.sh"
command -v curl >/dev/null || {
    echo 'curl is missing; install it to test the server'
    exit 1
}
servers=
stop_all() {
    for p in $servers; do kill -KILL "$p" 2>/dev/null; done
    rm -rf "$work"
}
trap stop_all EXIT
member() { sed -n "s/.*\"$1\":\\(\\[[^]]*\\]\\|\"[^\"]*\"\\|[^,}]*\\).*/\\1/p" "$2" | head -1; }

# serve NAME ARGUMENT…: a server whose process is $pid and whose address is $url, ready.
serve() {
    name=$1
    shift
    : >"$work/$name.said"
    "$trilith" serve "$m" "$@" 2>"$work/$name.said" </dev/null &
    pid=$!
    servers="$servers $pid"
    await_lines "$work/$name.said" 2
    url=$(sed -n 's/^listening //p' "$work/$name.said")
    grep -q '^ready ' "$work/$name.said" || fail "the server did not become ready: $(cat "$work/$name.said")"
}
# ended WHAT: the server ends by itself, with status 0.
ended() {
    waited=0
    while kill -0 "$pid" 2>/dev/null && [ $waited -lt 300 ]; do
        sleep 0.1
        waited=$((waited + 1))
    done
    kill -0 "$pid" 2>/dev/null && fail "$1: the server did not end"
    wait "$pid"
    code=$?
    [ $code -eq 0 ] || fail "$1: the server ended with status $code"
}
ask() { curl -s --max-time 60 "$@"; }
# says PATTERN CURL-ARGUMENT…: what comes, headers too, has a line that matches.
says() {
    pattern=$1
    shift
    ask -i "$@" >"$work/out"
    grep -q -e "$pattern" "$work/out" || fail "curl $*: nothing matches '$pattern': $(head -c 600 "$work/out")"
}
# wrong STATUS PATTERN PATH BODY: refused so, in OpenAI's shape.
wrong() {
    got=$(ask -o "$work/out" -w '%{http_code}' "$url$3" -d "$4")
    [ "$got" = "$1" ] || fail "$3 $4: status $got, not $1: $(cat "$work/out")"
    grep -q '^{"error":{"message":".*","type":".*","param":.*,"code":.*}}$' "$work/out" || fail "$3 $4: not OpenAI's shape: $(cat "$work/out")"
    grep -q -e "$2" "$work/out" || fail "$3 $4: the message does not match '$2': $(cat "$work/out")"
}

make_text "$work/text" 300
call tokenizer train --data "$work/text" --vocab 400 --out "$work/tok" --special '<|endoftext|>' '<|im_start|>' '<|im_end|>' >"$work/out" || fail 'tokenizer train'
call train --data "$work/text" --out "$work/run" --model tiny --tokenizer "$work/tok" --steps 2 --batch 2 --seq 64 --threads 1 --quiet >"$work/out" || fail train
m=$work/model
cp -rL "$work/run/checkpoints/latest" "$m"
cp "$source/tests/vectors/chat/plain.jinja" "$m/chat_template.jinja"
printf '<|im_start|>user\nIn the beginning<|im_end|>\n<|im_start|>assistant\n' >"$work/prompt"

# ---- what does not begin ----
refuses 'MODEL is missing' serve
refuses 'no model' serve "$work/absent" --port 0
refuses 'positions of this model' serve "$m" --port 0 --context 100000
refuses 'no address' serve "$m" --host not.an.address.invalid
refuses 'use one' serve "$m" --unix "$work/s" --port 1
refuses 'holds no key' serve "$m" --port 0 --api-keys /dev/null

# ---- what shows while it is loaded ----
cp -rL "$m" "$work/wrong"
: >"$work/wrong/tokenizer.json"
run serve "$work/wrong" --port 0
[ $? -eq 2 ] || fail 'a server whose tokenizer is wrong did not end with status 2'
tail -n 1 "$work/err" | grep -q '^trilith.*tokenizer.json' || fail 'a server whose tokenizer is wrong does not say so'

serve first --port 0 --max-body 20000 --threads 1

# ---- shapes ----
says '^HTTP/1.1 200' "$url/health"
says '{"status":"ready"}' "$url/ready"
says '^HTTP/1.1 200' --head "$url/health"
says '"data":\[{"id":"model","object":"model","created":[0-9]*,"owned_by":"trilith","max_model_len":[0-9]*}\]' "$url/v1/models"
says '"id":"model"' "$url/v1/models/model"
says '^X-Request-Id: mine-7' "$url/health" -H 'X-Request-Id: mine-7'
says '^Content-Type: text/plain; version=0.0.4' "$url/metrics"
says '^trilith:num_requests_running{model_name="model"} 0$' "$url/metrics"
says '^Content-Type: text/html' "$url/"
says '^</html>' "$url/"
says '^X-Request-Id: req-' "$url/health" -H 'X-Request-Id: not one'
says '^{"id":"cmpl-[0-9a-f]*","object":"text_completion","created":[0-9]*,"model":"model","choices":\[{"text":".*","index":0,"logprobs":null,"finish_reason":"length"}\],"usage":{"prompt_tokens":[0-9]*,"completion_tokens":3,' \
    "$url/v1/completions" -d '{"prompt":"In the","max_tokens":3}'
says '"object":"chat.completion",.*"message":{"role":"assistant","content":".*","refusal":null},"logprobs":null,"finish_reason":"length"' \
    "$url/v1/chat/completions" -d '{"messages":[{"role":"user","content":[{"type":"text","text":"In the"},{"type":"text","text":"end"}]}],"max_tokens":3}'
says '"token_logprobs":\[null,-' "$url/v1/completions" -d '{"prompt":[5,6],"max_tokens":0,"echo":true,"logprobs":0}'
says '"object":"embedding","index":1,"embedding":\[' "$url/v1/embeddings" -d '{"input":["In","the"]}'
says '"data":\[{"object":"score","index":0,"tokens":\[5,6,7\],"logprobs":\[-[0-9.]*,-[0-9.]*\],' "$url/score" -d '{"input":[5,6,7]}'
says '"count":2,"max_model_len":[0-9]*,"tokens":\[[0-9]*,[0-9]*\]' "$url/tokenize" -d '{"prompt":"the heaven","add_special_tokens":false}'
says '{"prompt":"the heaven"}' "$url/detokenize" -d "{\"tokens\":$(ask "$url/tokenize" -d '{"prompt":"the heaven"}' >"$work/tokens"; member tokens "$work/tokens")}"
says '"eos_token":"<|endoftext|>"' "$url/tokenizer_info"
says '"chat_template":"{%' "$url/tokenizer_info"

# ---- the program's own answers ----
call generate --model "$m" --prompt-file "$work/prompt" --special --temperature 0.7 --seed 5 --max-tokens 12 --threads 1 --json >"$work/a.json" || fail generate
ask "$url/v1/chat/completions" -d '{"messages":[{"role":"user","content":"In the beginning"}],"max_tokens":12,"temperature":0.7,"seed":5}' >"$work/b.json"
[ "$(member text "$work/a.json")" = "$(member content "$work/b.json")" ] || fail 'a chat and generate differ'
ask "$url/v1/completions" -d "$(printf '{"prompt":"<|im_start|>user\\nIn the beginning<|im_end|>\\n<|im_start|>assistant\\n","max_tokens":12,"temperature":0.7,"seed":5,"logprobs":0}')" >"$work/c.json"
[ "$(member text "$work/a.json")" = "$(member text "$work/c.json")" ] || fail 'a completion and generate differ'
[ "$(member logprobs "$work/a.json")" = "$(member token_logprobs "$work/c.json")" ] || fail 'log-probabilities differ from generate'
ask -N "$url/v1/chat/completions" -d '{"messages":[{"role":"user","content":"In the beginning"}],"max_tokens":12,"temperature":0.7,"seed":5,"stream":true,"stream_options":{"include_usage":true}}' >"$work/stream"
sed -n 's/.*"delta":{\("role":"assistant",\)\{0,1\}"content":"\([^"]*\)"}.*/\2/p' "$work/stream" | tr -d '\n' >"$work/joined"
[ "\"$(cat "$work/joined")\"" = "$(member content "$work/b.json")" ] || fail "a stream tells '$(cat "$work/joined")'"
[ "$(grep -c '^data: ' "$work/stream")" -ge 4 ] && [ "$(tail -n 2 "$work/stream" | head -n 1)" = 'data: [DONE]' ] || fail "a stream without its end: $(cat "$work/stream")"
grep -q '"choices":\[\],"usage":{"prompt_tokens"' "$work/stream" || fail 'a stream without its usage'

# ---- a stop text: not told, nor a part of it ----
say=$(member text "$work/c.json" | tr -d '"\\')
stop=$(printf %s "$say" | cut -c 5-7)
ask "$url/v1/completions" -d "$(printf '{"prompt":"<|im_start|>user\\nIn the beginning<|im_end|>\\n<|im_start|>assistant\\n","max_tokens":12,"temperature":0.7,"seed":5,"stop":["%s"]}' "$stop")" >"$work/e.json"
grep -q '"finish_reason":"stop"' "$work/e.json" || fail "no stop at '$stop' in '$say': $(cat "$work/e.json")"

# ---- sixteen at once, each as alone ----
i=0
while [ $i -lt 16 ]; do
    printf '{"prompt":[%d,6,%d],"max_tokens":30,"temperature":0.9,"seed":%d,"logprobs":2}' $((i + 3)) $((40 + i)) $i >"$work/ask.$i"
    ask "$url/v1/completions" -d "@$work/ask.$i" | sed 's/.*"choices"//' >"$work/alone.$i"
    i=$((i + 1))
done
clients=
i=0
while [ $i -lt 16 ]; do
    ask "$url/v1/completions" -d "@$work/ask.$i" >"$work/crowd.$i" &
    clients="$clients $!"
    i=$((i + 1))
done
for p in $clients; do wait "$p"; done
i=0
while [ $i -lt 16 ]; do
    sed -e 's/.*"choices"//' -e 's/"cached_tokens":[0-9]*//' "$work/crowd.$i" >"$work/one"
    sed -e 's/"cached_tokens":[0-9]*//' "$work/alone.$i" | cmp -s - "$work/one" || fail "answer $i differs in a crowd"
    i=$((i + 1))
done

# ---- errors ----
wrong 400 'not valid JSON' /v1/completions '{"prompt":'
wrong 400 'no.* JSON object' /v1/completions '[]'
wrong 400 'missing' /v1/completions '{}'
wrong 400 "did you mean 'temperature'" /v1/completions '{"prompt":"a","temprature":1}'
wrong 400 '"param":"suffix"' /v1/completions '{"prompt":"a","suffix":"b"}'
wrong 400 'a number from' /v1/completions '{"prompt":"a","temperature":"hot"}'
wrong 400 'token id' /v1/completions '{"prompt":[400]}'
wrong 404 'model_not_found' /v1/completions '{"prompt":"a","model":"other"}'
wrong 400 'context_length_exceeded' /v1/completions '{"prompt":"a","max_tokens":100000}'
wrong 400 'role' /v1/chat/completions '{"messages":[{"role":"king","content":"a"}]}'
wrong 404 'no /v1/nothing' /v1/nothing '{}'
wrong 405 'POST does not go' /health '{}'
says '^HTTP/1.1 405' "$url/v1/completions"

# ---- limits ----
head -c 30000 /dev/zero | tr '\0' ' ' >"$work/large"
wrong 413 'more than the 20000' /v1/completions "@$work/large"
says '^HTTP/1.1 413' "$url/v1/completions" -H 'Transfer-Encoding: chunked' -d "@$work/large"
says '^HTTP/1.1 4' "$url/health" -H "X-Long: $(head -c 60000 /dev/zero | tr '\0' a)"

# ---- a page of another origin ----
says '^HTTP/1.1 403' "$url/v1/completions" -H 'Origin: http://elsewhere.example' -d '{"prompt":"a"}'
says '^HTTP/1.1 403' "$url/v1/completions" -H 'Origin: http://cafe.de:80' -H 'Host: cafe.de:80' -d '{"prompt":"a"}'
says '^HTTP/1.1 200' "$url/v1/completions" -H 'Origin: http://localhost:80' -H 'Host: localhost:80' -d '{"prompt":"a","max_tokens":1}'
says '^HTTP/1.1 200' "$url/v1/completions" -H "Origin: $url" -d '{"prompt":"a","max_tokens":1}'

# ---- a model file replaced: answers go on as before ----
head -c 1000 /dev/urandom >"$work/other"
mv "$work/other" "$m/model.safetensors"
ask "$url/v1/chat/completions" -d '{"messages":[{"role":"user","content":"In the beginning"}],"max_tokens":12,"temperature":0.7,"seed":5}' >"$work/d.json"
[ "$(member content "$work/d.json")" = "$(member content "$work/b.json")" ] || fail 'a replaced model file changed an answer'
cp -L "$work/run/checkpoints/latest/model.safetensors" "$m/model.safetensors"

# ---- an end in order: what was begun is answered, nothing new is ----
ask -N "$url/v1/completions" -d '{"prompt":[5,6],"max_tokens":400,"ignore_eos":true,"stream":true,"stream_options":{"include_usage":true}}' >"$work/late" &
client=$!
await_lines "$work/late" 1
kill -TERM "$pid"
wait $client
ended 'SIGTERM'
grep -q '"completion_tokens":400' "$work/late" && grep -q 'DONE' "$work/late" || fail "an answer was cut off by SIGTERM: $(tail -n 3 "$work/late")"
ask "$url/health" && fail 'a server that has ended answers'

# ---- an end before it is ready ----
: >"$work/early.said"
"$trilith" serve "$m" --port 0 2>"$work/early.said" </dev/null &
pid=$!
servers="$servers $pid"
await_lines "$work/early.said" 1
kill -TERM "$pid"
ended 'SIGTERM while the weights are read'

# ---- keys, other origins, a full queue ----
printf '# keys\nthe-first\n' >"$work/keys"
TRILITH_API_KEY=the-second serve second --port 0 --api-keys "$work/keys" --cors https://page.example --running 1 --waiting 1 --name named --threads 1 --drain-seconds 1
says '^HTTP/1.1 200' "$url/health"
says '^HTTP/1.1 401' "$url/v1/models"
says '^HTTP/1.1 401' "$url/metrics"
says '^HTTP/1.1 200' "$url/"
says '^WWW-Authenticate: Bearer' "$url/v1/models" -H 'Authorization: Bearer the-firs'
says '"code":"invalid_api_key"' "$url/v1/models" -H 'Authorization: Bearer the-firstt'
says '"id":"named"' "$url/v1/models" -H 'Authorization: Bearer the-first'
says '"id":"named"' "$url/v1/models" -H 'authorization: bearer the-second'
says '^Access-Control-Allow-Origin: https://page.example' "$url/health" -H 'Origin: https://page.example'
says '^Access-Control-Allow-Headers: Authorization' -X OPTIONS "$url/v1/completions" -H 'Origin: https://page.example' -H 'Access-Control-Request-Method: POST'
says '^HTTP/1.1 403' "$url/health" -H 'Origin: https://other.example'
long='{"prompt":[5,6],"max_tokens":200,"ignore_eos":true,"n":40}'
clients=
i=0
while [ $i -lt 6 ]; do
    curl -s -i --max-time 60 "$url/v1/completions" -H "Authorization: Bearer the-first" -d "$long" >"$work/full.$i" & # not ask, whose shell would be killed instead of curl
    clients="$clients $!"
    i=$((i + 1))
done
tries=0
until cat "$work"/full.* | grep -q '^HTTP/1.1 429' || [ $tries -ge 200 ]; do
    sleep 0.05
    tries=$((tries + 1))
done
for p in $clients; do # those that wait leave, and are cancelled
    kill "$p"
    wait "$p"
done 2>/dev/null
cat "$work"/full.* >"$work/full"
grep -q '^HTTP/1.1 429' "$work/full" && grep -q '^Retry-After: 1' "$work/full" && grep -q '"code":"queue_full"' "$work/full" || fail "no queue was full: $(head -c 300 "$work/full")"
tries=0 # they are cancelled in the engine's next step
until ask "$url/v1/completions" -H 'Authorization: Bearer the-first' -d '{"prompt":[5],"max_tokens":1}' >"$work/out" && grep -q choices "$work/out" || [ $tries -ge 200 ]; do
    sleep 0.05
    tries=$((tries + 1))
done
grep -q '"finish_reason":"length"' "$work/out" || fail "clients that left are still waited for: $(cat "$work/out")"
says 'request_success_total{.*finished_reason="abort"} [1-9]' "$url/metrics" -H 'Authorization: Bearer the-first'
kill -TERM "$pid"
ended 'SIGTERM after clients that left'

# ---- a Unix socket ----
serve third --unix "$work/socket" --threads 1 --deadline-seconds 1
says '"object":"text_completion"' --unix-socket "$work/socket" http://localhost/v1/completions -d '{"prompt":"In","max_tokens":2}'
says '"finish_reason":"abort"' --unix-socket "$work/socket" http://localhost/v1/completions -d '{"prompt":"In","max_tokens":500,"n":128,"ignore_eos":true}'
[ "$(stat -c %a "$work/socket")" = 600 ] || fail 'others may use the socket'
kill -INT "$pid"
ended 'SIGINT'
[ ! -e "$work/socket" ] || fail 'the socket is left behind'

finish
