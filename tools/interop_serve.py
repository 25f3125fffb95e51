"""`trilith serve` beside the clients that people use: the official `openai` package through every endpoint, and what lm-eval's
`local-completions` sends and reads, against transformers on the same weights in f32.

The model is a small Llama that was made to know two calls of tools and a thought by heart, so that what the server parses was written by a model.
"""
import base64
import concurrent.futures
import contextlib
import functools
import json
import math
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = ("{% if tools %}<|im_start|>tools\n{% for t in tools %}{{ t.function.name }}\n{% endfor %}<|im_end|>\n{% endif %}"
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
            "[{{ c.function.name }}({{ c.function.arguments.city }})]{% endfor %}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% if think %}<think>\n{% endif %}{% endif %}")
HERMES = 'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2.50}}\n</tool_call>'
LLAMA = '{"name": "get_time", "parameters": {"zone": "CET"}}'
THOUGHT = "<think>\nIt is a riddle.\nOr not.\n</think>\n\nSeven."
TOOLS = [{"type": "function", "function": {"name": name, "description": "", "parameters": {"type": "object", "properties": {}}}}
         for name in ("get_weather", "get_time")]
WEATHER, CLOCK, RIDDLE = ([{"role": "user", "content": word}] for word in ("weather", "clock", "riddle"))


def make_model(folder, text, seed):
    """A tokenizer of its own, a model that answers three chats by heart and everything else anyhow."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tok.train_from_iterator([text], trainers.BpeTrainer(vocab_size=500, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                                                        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.add_tokens([AddedToken(word, normalized=False) for word in ("<think>", "</think>")])
    theirs = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|im_end|>", bos_token="<|endoftext|>", pad_token="<|endoftext|>")
    theirs.chat_template = TEMPLATE
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(theirs), hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
                                         num_key_value_heads=2, max_position_embeddings=512, eos_token_id=2, bos_token_id=0, attn_implementation="eager"))
    rows = [theirs.apply_chat_template(m, tools=TOOLS, add_generation_prompt=True, tokenize=False) + answer + "<|im_end|>"
            for m, answer in ((WEATHER, HERMES), (CLOCK, LLAMA), (RIDDLE, THOUGHT))]
    rows = [torch.tensor([theirs(r, add_special_tokens=False).input_ids]) for r in rows]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(400):
        loss = sum(model(input_ids=r, labels=r).loss for r in rows)
        if loss < 0.02:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5, f"the model did not learn its answers: loss {loss:.2f}"
    model.eval().save_pretrained(folder)
    theirs.save_pretrained(folder)
    return model, theirs


@contextlib.contextmanager
def server(trilith, *options, env=None):
    """The address of a server that is ready."""
    process = subprocess.Popen([trilith.program, "serve", *map(str, options), "--port", "0"], stderr=subprocess.PIPE, text=True,
                               env=dict(os.environ, **(env or {})))
    try:
        line = process.stderr.readline()
        assert line.startswith("listening http://"), f"{line}{process.stderr.read()}"
        url = line.split()[1]
        until = time.monotonic() + 60
        while get(url + "/ready")[0] != 200:
            assert time.monotonic() < until and process.poll() is None, "the server did not become ready"
            time.sleep(0.01)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()
    assert process.returncode == 0, f"the server ended with status {process.returncode}"


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=60) as r:
            return r.status, json.load(r)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)


def post(url, **body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as r:
        return json.load(r)


def logprobs_of(model, ids):
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)


# ---- the openai client


def plain(client, name, model, tok):
    chat = client.chat.completions.create(model=name, messages=WEATHER, temperature=0, max_tokens=12)
    message, usage = chat.choices[0].message, chat.usage
    prompt = tok.apply_chat_template(WEATHER, add_generation_prompt=True, tokenize=False)
    ids = tok(prompt, add_special_tokens=False).input_ids
    assert chat.object == "chat.completion" and message.role == "assistant" and message.tool_calls is None
    assert usage.prompt_tokens == len(ids) and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    made = []
    while len(made) < 12 and (not made or made[-1] != tok.eos_token_id):
        made.append(int(logprobs_of(model, ids + made)[-1].argmax()))
    want = tok.decode(made, skip_special_tokens=True)
    assert message.content == want, f"{message.content!r} is not {want!r}"
    assert chat.choices[0].finish_reason == ("stop" if made[-1] == tok.eos_token_id else "length")

    whole = client.completions.create(model=name, prompt=prompt, temperature=0, max_tokens=12)
    assert whole.choices[0].text == want and whole.object == "text_completion"
    again = client.completions.create(model=name, prompt=[prompt, ids, [5, 6, 7]][1], temperature=0, max_tokens=12)
    assert again.choices[0].text == want
    many = client.completions.create(model=name, prompt=[prompt, "In the", prompt], n=2, temperature=0, max_tokens=12)
    assert [c.index for c in many.choices] == list(range(6)) and [many.choices[i].text for i in (0, 1, 4, 5)] == [want] * 4
    assert client.models.list().data[0].id == name == client.models.retrieve(name).id
    return f"{len(ids)} tokens read, {len(made)} made"


def streamed(client, name):
    for options in (dict(max_tokens=20), dict(max_tokens=20, n=3, temperature=1.2, seed=7), dict(max_tokens=9, logprobs=True, top_logprobs=2)):
        want = client.chat.completions.create(model=name, messages=CLOCK, **{"temperature": 0, **options})
        text, logprobs, ended, usage = {}, {}, {}, None
        for chunk in client.chat.completions.create(model=name, messages=CLOCK, stream=True, stream_options={"include_usage": True},
                                                    **{"temperature": 0, **options}):
            assert usage is None, "a chunk after the usage"
            usage = chunk.usage
            for c in chunk.choices:
                assert c.index not in ended, "a chunk after the end"
                text[c.index] = text.get(c.index, "") + (c.delta.content or "")
                if c.logprobs:
                    logprobs.setdefault(c.index, []).extend(t.logprob for t in c.logprobs.content)
                if c.finish_reason:
                    ended[c.index] = c.finish_reason
        for c in want.choices:
            assert text[c.index] == c.message.content and ended[c.index] == c.finish_reason, f"{text[c.index]!r} was streamed, {c.message.content!r} told"
            assert not c.logprobs or logprobs[c.index] == [t.logprob for t in c.logprobs.content]
        assert usage.completion_tokens == want.usage.completion_tokens and usage.prompt_tokens == want.usage.prompt_tokens
    parts = [c.choices[0].text for c in client.completions.create(model=name, prompt="In the", stream=True, temperature=0, max_tokens=20)]
    assert "".join(parts) == client.completions.create(model=name, prompt="In the", temperature=0, max_tokens=20).choices[0].text
    return f"{len(parts)} chunks"


def made_so_far(url):
    with urllib.request.urlopen(url + "/metrics", timeout=60) as r:
        return next(float(line.split()[-1]) for line in r.read().decode().split("\n") if line.startswith("trilith:generation_tokens_total"))


def early(client, url, name):
    """A stream begins while its answers are being made, and ends with them all."""
    prompts, n, tokens = ["In the", "A clock", "Rain", "What"], 64, 200
    before = made_so_far(url)
    stream = client.completions.create(model=name, prompt=prompts, n=n, stream=True, max_tokens=tokens, extra_body={"ignore_eos": True})
    next(iter(stream))
    at_first, chunks, ended = made_so_far(url) - before, 1, 0
    for chunk in stream:
        chunks += 1
        ended += sum(c.finish_reason is not None for c in chunk.choices)
    all_of_them = len(prompts) * n * tokens
    assert ended == len(prompts) * n and made_so_far(url) - before == all_of_them
    assert 0 < at_first < all_of_them, f"{at_first:.0f} of {all_of_them} tokens were made before the first came"
    return f"{at_first:.0f} of {all_of_them} tokens made when the first came, {chunks} chunks"


def called(client, name):
    for messages, tool, arguments, content in ((WEATHER, "get_weather", '{"city": "Paris", "days": 2.50}', "Let me look."), (CLOCK, "get_time", '{"zone": "CET"}', None)):
        chat = client.chat.completions.create(model=name, messages=messages, tools=TOOLS, temperature=0, max_tokens=100)
        choice = chat.choices[0]
        call = (choice.message.tool_calls or [None])[0]
        assert call, f"no call in {choice.message.content!r}"
        assert (call.function.name, call.function.arguments, choice.message.content, choice.finish_reason) == (tool, arguments, content, "tool_calls"), choice
        assert call.id and call.type == "function" and len(choice.message.tool_calls) == 1
        text, calls, finish = "", [], None
        for chunk in client.chat.completions.create(model=name, messages=messages, tools=TOOLS, temperature=0, max_tokens=100, stream=True):
            text += chunk.choices[0].delta.content or ""
            calls += chunk.choices[0].delta.tool_calls or []
            finish = chunk.choices[0].finish_reason or finish
        assert (text or None, finish) == (content, "tool_calls"), f"{text!r} {finish}"
        assert [(c.index, c.function.name, c.function.arguments) for c in calls] == [(0, tool, arguments)], calls
        # The conversation goes on: OpenAI's form of a call goes into the template as an object.
        more = messages + [choice.message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "sun"}]
        client.chat.completions.create(model=name, messages=more, tools=TOOLS, max_tokens=2)
    unparsed = client.chat.completions.create(model=name, messages=WEATHER, tools=TOOLS, tool_choice="none", temperature=0, max_tokens=3)
    assert unparsed.choices[0].message.tool_calls is None
    return "Hermes and Llama 3, whole and streamed"


def thought(client, name):
    """What is thought comes apart from what is said, whoever wrote the mark: the model, or the template."""
    for begun in (False, True):
        ask = dict(model=name, messages=RIDDLE, tools=TOOLS, temperature=0, max_tokens=60, extra_body={"chat_template_kwargs": {"think": begun}})
        message = client.chat.completions.create(**ask).choices[0].message
        assert (message.content, message.reasoning_content) == ("Seven.", "It is a riddle.\nOr not.\n"), message
        said = reasoned = ""
        for chunk in client.chat.completions.create(stream=True, **ask):
            delta = chunk.choices[0].delta
            assert not said or not getattr(delta, "reasoning_content", None)
            said += delta.content or ""
            reasoned += getattr(delta, "reasoning_content", None) or ""
        assert (said, reasoned) == (message.content, message.reasoning_content), (said, reasoned)
        cut = client.chat.completions.create(**dict(ask, max_tokens=5)).choices[0]
        assert cut.finish_reason == "length" and cut.message.content == "" and message.reasoning_content.startswith(cut.message.reasoning_content)
    return "by the model and by the template"


def stopped(client, name):
    """Stop texts end what is thought and what is said, are told where asked for, and no part of one streams; a thought has its bounds."""
    ask = dict(model=name, messages=RIDDLE, tools=TOOLS, temperature=0, max_tokens=60)
    thought, n = "It is a riddle.\nOr not.\n", 0
    for stop, met, said, reasoned in (("riddle", "riddle", "", "It is a "), ("Seven", "Seven", "", thought), ("\nOr", "\nOr", "", "It is a riddle."),
                                      ("eve", "eve", "S", thought), (["zzz", " is"], " is", "", "It"), ("zzz", "", "Seven.", thought)):
        for told in (False, True):
            more = dict(ask, stop=stop, extra_body={"include_stop_str_in_output": told})
            choice = client.chat.completions.create(**more).choices[0]
            ends = met if told else ""
            want = (said + ends, reasoned) if reasoned == thought else (said, reasoned + ends)
            got = choice.message.content, choice.message.reasoning_content
            assert got == want and choice.finish_reason == "stop", f"{stop!r}: {got} for {want}"
            parts = ["", ""]
            for chunk in client.chat.completions.create(stream=True, **more):
                parts[0] += chunk.choices[0].delta.content or ""
                parts[1] += getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
            assert tuple(parts) == want, f"{stop!r} streams {parts}"
            n += 1
    plain = client.chat.completions.create(**ask)
    assert plain.usage.completion_tokens_details.reasoning_tokens > 3
    for bounds, least, most in (({"max_thinking_tokens": 0}, 0, 0), ({"max_thinking_tokens": 3}, 3, 3), ({"min_thinking_tokens": 30}, 30, 60)):
        done = client.chat.completions.create(extra_body=bounds, **ask)
        tokens = done.usage.completion_tokens_details.reasoning_tokens
        assert least <= tokens <= most, f"{bounds}: {tokens} tokens were thought"
        assert bool(tokens) == hasattr(done.choices[0].message, "reasoning_content")
    return f"{n} stops, 3 bounds"


def told_logprobs(client, name, model, tok):
    """Of the prompt and of what is made, against transformers: to four decimals."""
    ids, worst = tok("weather and the clock in Paris", add_special_tokens=False).input_ids, 0.0
    done = client.completions.create(model=name, prompt=ids, max_tokens=6, temperature=0, logprobs=5, echo=True)
    logprobs = done.choices[0].logprobs
    text = client.completions.create(model=name, prompt=ids, max_tokens=6, temperature=0).choices[0].text
    assert done.choices[0].text == tok.decode(ids) + text
    n = len(logprobs.tokens)
    assert n == len(ids) + done.usage.completion_tokens == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(logprobs.text_offset)
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    made, want = list(ids), logprobs_of(model, ids)
    while len(made) < n:
        made.append(int(logprobs_of(model, made)[-1].argmax()))
    want = logprobs_of(model, made)
    for i in range(1, n):
        worst = max(worst, abs(logprobs.token_logprobs[i] - want[i - 1, made[i]].item()))
        best = sorted(logprobs.top_logprobs[i].values(), reverse=True)[:5]
        worst = max(worst, max(abs(a - b) for a, b in zip(best, want[i - 1].topk(5).values.tolist())))
    assert worst < 1e-4, f"a log-probability is {worst:.1e} from transformers'"
    chat = client.chat.completions.create(model=name, messages=CLOCK, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3).choices[0]
    for t in chat.logprobs.content:
        assert len(t.top_logprobs) == 3 and t.top_logprobs[0].logprob == t.logprob and bytes(t.bytes).decode() == t.token
    return f"{n} tokens, {worst:.1e} from transformers"


def embedded(client, name, model, tok):
    texts, worst = ["weather", "the clock in Paris", "weather"], 0.0
    got = client.embeddings.create(model=name, input=texts)  # base64 on the wire
    floats = client.embeddings.create(model=name, input=texts, encoding_format="float")
    for text, a, b in zip(texts, got.data, floats.data):
        with torch.no_grad():
            want = model.model(torch.tensor([tok(text, add_special_tokens=False).input_ids])).last_hidden_state[0, -1].double()
        want = want / want.norm()
        worst = max(worst, (torch.tensor(a.embedding, dtype=torch.float64) - want).abs().max().item())
        assert torch.tensor(a.embedding).equal(torch.tensor(b.embedding).float())
    assert worst < 1e-5, f"an embedding is {worst:.1e} from transformers'"
    assert got.data[0].embedding == got.data[2].embedding
    return f"{worst:.1e} from transformers"


def refused(client, name, url):
    import openai

    def wrong(kind, call, *words):
        try:
            call()
        except kind as e:
            body = e.response.json()["error"]
            assert set(body) == {"message", "type", "param", "code"} and e.response.headers["x-request-id"]
            assert all(w in body["message"] or w == body["param"] or w == body["code"] for w in words), body
            return
        raise AssertionError(f"{kind.__name__} was expected of {words}")

    chat, text = client.chat.completions.create, client.completions.create
    wrong(openai.NotFoundError, lambda: chat(model="another", messages=CLOCK), "another", "model_not_found")
    wrong(openai.BadRequestError, lambda: chat(model=name, messages=[]), "messages")
    wrong(openai.BadRequestError, lambda: chat(model=name, messages=[{"role": "king", "content": ""}]), "messages[0]")
    wrong(openai.BadRequestError, lambda: chat(model=name, messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]), "messages[0].content[0]")
    wrong(openai.BadRequestError, lambda: chat(model=name, messages=CLOCK, temperature=-1), "temperature")
    wrong(openai.BadRequestError, lambda: chat(model=name, messages=CLOCK, extra_body={"temprature": 1}), "temprature", "'temperature'")
    wrong(openai.BadRequestError, lambda: chat(model=name, messages=CLOCK, response_format={"type": "json_object"}), "response_format")
    wrong(openai.BadRequestError, lambda: text(model=name, prompt=[5] * 600), "prompt", "context_length_exceeded", "89 more")
    wrong(openai.BadRequestError, lambda: text(model=name, prompt=[5] * 500, max_tokens=100), "context_length_exceeded", "88 more")
    wrong(openai.BadRequestError, lambda: text(model=name, prompt=[5000]), "prompt")
    wrong(openai.BadRequestError, lambda: text(model=name, prompt="a", suffix="b"), "suffix")
    wrong(openai.BadRequestError, lambda: text(model=name, prompt="a", n=3, best_of=2), "best_of")
    wrong(openai.BadRequestError, lambda: client.embeddings.create(model=name, input="a", dimensions=3), "dimensions")
    wrong(openai.NotFoundError, lambda: client.models.retrieve("another"), "another")
    wrong(openai.NotFoundError, lambda: client.with_options(base_url=url + "/v2").models.list(), "/v2/models")
    return "15 requests"


def sampled_best(client, name):
    """best_of tells the likeliest of its choices: those of n with the same seed."""
    ask = dict(model=name, prompt="In the", max_tokens=8, temperature=1.5, seed=11, logprobs=0)
    mean = lambda c: sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs)
    all_of = client.completions.create(n=6, **ask).choices
    best = client.completions.create(n=2, best_of=6, **ask).choices
    want = sorted(all_of, key=mean, reverse=True)[:2]
    assert [c.text for c in best] == [c.text for c in want] and len({c.text for c in all_of}) > 1
    return "2 of 6"


def with_keys(trilith, folder, work):
    import openai

    path = os.path.join(work, "keys")
    with open(path, "w") as f:
        f.write("# two\nfirst-key\nsecond-key\n")
    with server(trilith, folder, "--api-keys", path, env={"TRILITH_API_KEY": "third-key"}) as url:
        for key in ("first-key", "second-key", "third-key"):
            openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0).models.list()
        for key in ("first-ke", "first-keyy", "x"):
            try:
                openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0).models.list()
            except openai.AuthenticationError as e:
                assert e.response.json()["error"]["code"] == "invalid_api_key"
                continue
            raise AssertionError(f"{key} opened the server")
    return "3 admitted, 3 not"


# ---- lm-eval's local-completions


def evaluated(url, name, model, tok, text, seed):
    """What lm-eval sends (lm_eval/models/openai_completions.py) for log-likelihoods, read as it reads: sums over the continuation within
    four decimals of its HF backend's, which are transformers' log-softmax, and the same verdict on greediness."""
    info = get(url + "/tokenizer_info")[1]
    assert info["eos_token"] == tok.eos_token and info["bos_token"] == tok.bos_token
    generator, worst, greedy, items = torch.Generator().manual_seed(seed), 0.0, 0, []
    for _ in range(40):
        a, n, m = (int(torch.randint(0, high, (1,), generator=generator)) for high in (len(text) - 400, 60, 12))
        both = text[a:a + 5 + n], text[a + 5 + n:a + 6 + n + m]
        ids = [post(url + "/tokenize", prompt=t, add_special_tokens=False)["tokens"] for t in both]
        assert ids == [tok(t, add_special_tokens=False).input_ids for t in both]
        assert post(url + "/detokenize", tokens=ids[0])["prompt"] == both[0]
        items.append((ids[0], ids[1]))
    # Some that the model itself would have gone on with.
    for context, _ in items[:6]:
        items.append((context, [int(logprobs_of(model, context)[-1].argmax())]))
    for first in range(0, len(items), 8):
        batch = items[first:first + 8]
        done = post(url + "/v1/completions", model=name, prompt=[(c + t)[:] for c, t in batch], temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True)
        for choice, (context, target) in zip(sorted(done["choices"], key=lambda c: c["index"]), batch):
            token, top = (choice["logprobs"][k][len(context):-1] for k in ("token_logprobs", "top_logprobs"))
            assert len(choice["logprobs"]["token_logprobs"]) == len(context) + len(target) + 1
            want = logprobs_of(model, context + target)[len(context) - 1:-1]
            chosen = want.gather(1, torch.tensor(target)[:, None])[:, 0]
            worst = max(worst, abs(sum(token) - chosen.sum().item()))
            verdict = all(t == max(alternatives.values()) for t, alternatives in zip(token, top))
            assert verdict == bool((want.argmax(-1) == torch.tensor(target)).all()), "the two differ on greediness"
            greedy += verdict
    assert worst < 1e-4 and greedy >= 6, f"{worst:.1e}, {greedy} greedy"
    return f"{len(items)} items, {worst:.1e} at most from transformers, {greedy} greedy"


def evaluated_by_itself(url, name, folder, text):
    """The same through lm-eval where it is installed, its two backends side by side."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    items = [(text[i * 50:i * 50 + 40], text[i * 50 + 40:i * 50 + 50]) for i in range(24)]
    ask = lambda lm: lm.loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(items)], disable_tqdm=True)
    theirs = ask(HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=4))
    worst = 0.0
    for backend in ("remote", "huggingface"):
        more = {"tokenizer": folder} if backend == "huggingface" else {}
        ours = ask(LocalCompletionsAPI(base_url=url + "/v1/completions", model=name, tokenizer_backend=backend, batch_size=4, max_length=512, **more))
        for (a, greedy), (b, verdict) in zip(ours, theirs):
            assert abs(a - b) < 1e-4 and greedy == verdict, f"{backend}: {a} {b}"
            worst = max(worst, abs(a - b))
    return f"{len(items)} items, {worst:.1e} at most from HFLM"


# ---- the same answer as the program gives alone, whatever the crowd


def alone_and_in_a_crowd(trilith, url, name, folder, seed):
    prompts = ["In the beginning", "weather", "The", "clock " * 30, "a", "Paris in the", " ", "0123"] * 2
    ask = lambda i: post(url + "/v1/completions", model=name, prompt=prompts[i], max_tokens=24, temperature=0.8, seed=seed + i, logprobs=1)["choices"]
    alone = [ask(i) for i in range(16)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for _ in range(3):
            crowd = list(pool.map(ask, range(16)))
            assert crowd == alone, "a crowd changes an answer"
    for prompt in prompts[:8]:
        for temperature in (0, 0.8):
            want = trilith.json("generate", "--model", folder, "--prompt", prompt, "--max-tokens", 24, "--temperature", temperature, "--seed", seed)
            got = post(url + "/v1/completions", prompt=prompt, max_tokens=24, temperature=temperature, seed=seed, logprobs=0)["choices"][0]
            assert got["text"] == want["text"], f"{got['text']!r} is not what generate makes: {want['text']!r}"
            assert [math.isclose(a, b, rel_tol=0, abs_tol=0) for a, b in zip(got["logprobs"]["token_logprobs"], want["logprobs"])], "log-probabilities differ"
            assert got["logprobs"]["token_logprobs"] == want["logprobs"]
    path = os.path.join(folder, "scored.txt")
    with open(path, "w") as f:
        f.write("weather and the clock in Paris")
    want = trilith.json("score", "--model", folder, "--text", path)
    got = post(url + "/score", input="weather and the clock in Paris")["data"][0]
    assert got["logprobs"] == want["logprobs"] and got["loss"] == want["loss"] and got["bits_per_byte"] == want["bits_per_byte"]
    return "16 at once, and as generate and score"


def answered_otherwise(trilith, url, folder, seed):
    """However a server computes, an answer has the same bytes: tokens proposed ahead, one thread, few pages, short steps, nothing shared."""
    ask = lambda where, i: post(where + "/v1/completions", prompt=[[5 + i, 6, 7] * (3 + i), "weather clock " * i], max_tokens=40, temperature=0.7 * (i % 2),
                                seed=seed + i, logprobs=2, n=1 + i % 3, echo=i % 4 == 0, ignore_eos=True)["choices"]
    want = [ask(url, i) for i in range(8)]
    ways = (("--look-up", 4), ("--draft", folder, "--draft-tokens", 3), ("--threads", 1, "--running", 3, "--step-tokens", 16), ("--kv-memory", "150k", "--no-prefix-cache"))
    for options in ways:
        with server(trilith, folder, *options) as other, concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert list(pool.map(functools.partial(ask, other), range(8))) == want, f"{options} change an answer"
    return f"{len(ways)} ways"


def run(checks, trilith, text, seed, at):
    import openai

    folder, work = at("served"), at()
    model, tok = make_model(folder, text[:200_000], seed)
    name = "served"
    with server(trilith, folder) as url:
        client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
        checks.run("serve plain", lambda: plain(client, name, model, tok))
        checks.run("serve streams", lambda: streamed(client, name))
        checks.run("serve streams early", lambda: early(client, url, name))
        checks.run("serve tools", lambda: called(client, name))
        checks.run("serve thoughts", lambda: thought(client, name))
        checks.run("serve stops", lambda: stopped(client, name))
        checks.run("serve logprobs", lambda: told_logprobs(client, name, model, tok))
        checks.run("serve embeddings", lambda: embedded(client, name, model, tok))
        checks.run("serve best_of", lambda: sampled_best(client, name))
        checks.run("serve errors", lambda: refused(client, name, url))
        checks.run("serve lm-eval's requests", lambda: evaluated(url, name, model, tok, text, seed))
        try:
            import lm_eval  # noqa: F401 (not in tools/requirements.txt: it brings some forty packages)
        except ImportError:
            pass
        else:
            checks.run("serve lm-eval", lambda: evaluated_by_itself(url, name, folder, text))
        checks.run("serve a crowd", lambda: alone_and_in_a_crowd(trilith, url, name, folder, seed))
        checks.run("serve in other ways", lambda: answered_otherwise(trilith, url, folder, seed))
    checks.run("serve keys", lambda: with_keys(trilith, folder, work))
