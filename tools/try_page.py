"""The chat page in a real browser: Chromium, headless, driven over its DevTools pipe, against `trilith serve` with a real model.

    try_page.py --trilith build/trilith [--model FILE] [--chromium PROGRAM] [--shots FOLDER]

Writes and reads as a person would, on a telephone and on a desk, light and dark; then feeds the page answers that no small model gives (thinking, markup,
code, errors, chunks cut anywhere). Fails where the page asks anything of another origin, or the browser complains. Screenshots are kept with --shots.
"""

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import serving

PHONE, DESK = (390, 844, 2, True), (1280, 800, 1, False)


class Browser:
    """Messages end in a NUL byte: the browser reads from descriptor 3 and writes to 4."""

    def __init__(self, program, work):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()

        def place():
            a, b = os.dup(theirs_in), os.dup(theirs_out)  # neither is 3 or 4 once both are taken
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen([program, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars", "--no-first-run",
                                         "--disable-background-networking", "--disable-component-update", f"--user-data-dir={work}/profile", "about:blank"],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=place, close_fds=False)
        os.close(theirs_in)
        os.close(theirs_out)
        self.out, self.inn = os.fdopen(ours_out, "wb", 0), os.fdopen(ours_in, "rb", 0)
        self.rest, self.number, self.session, self.events = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(domain + ".enable")

    def message(self):
        while b"\0" not in self.rest:
            more = self.inn.read(1 << 16)
            if not more:
                raise SystemExit("try_page: the browser has gone")
            self.rest += more
        one, _, self.rest = self.rest.partition(b"\0")
        return json.loads(one)

    def call(self, method, **params):
        self.number += 1
        self.out.write(json.dumps(dict(id=self.number, method=method, params=params, **({"sessionId": self.session} if self.session else {}))).encode() + b"\0")
        while True:
            said = self.message()
            if said.get("id") == self.number:
                if "error" in said:
                    raise AssertionError(f"{method}: {said['error']['message']}")
                return said["result"]
            self.events.append(said)

    def js(self, expression):
        said = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in said:
            raise AssertionError(f"{expression[:200]}: {said['exceptionDetails'].get('exception', {}).get('description')}")
        return said["result"].get("value")

    def until(self, expression, seconds=60):
        end = time.monotonic() + seconds
        while not (found := self.js(expression)):
            assert time.monotonic() < end, f"not within {seconds} s: {expression}"
            time.sleep(0.05)
        return found

    def open(self, url, size, scheme):
        width, height, scale, mobile = size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile)
        self.call("Emulation.setTouchEmulationEnabled", enabled=mobile)
        self.call("Emulation.setEmulatedMedia", features=[dict(name="prefers-color-scheme", value=scheme)])
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && !!document.querySelector('#go')")

    def write(self, text):
        self.js("document.querySelector('#say').focus()")
        self.call("Input.insertText", text=text)

    def press(self, key, code):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **({"text": "\r"} if key == "Enter" and kind == "keyDown" else {}))

    def middle(self, selector):
        self.js(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        time.sleep(0.1)
        return self.js(f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getClientRects()[0]; return [r.x + r.width / 2, r.y + r.height / 2]; }})()")

    def click(self, selector, kind="mouse"):
        x, y = self.middle(selector)
        if kind == "touch":
            self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[dict(x=x, y=y)])
            self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
            return
        for what in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=what, x=x, y=y, button="left", clickCount=1)

    def point(self, selector):
        x, y = self.middle(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def shot(self, path):
        if path:
            with open(path, "wb") as f:
                f.write(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        self.session = None
        try:
            self.call("Browser.close")
        except (OSError, SystemExit):
            pass
        self.process.wait(20)


# ---- answers that are made up: the page's own fetch is given them, cut into pieces of so many bytes

FAKE = """
window.fakes = [];
window.realFetch = window.fetch;
window.fetch = (url, options) => {
  const fake = String(url).includes("completions") && window.fakes.shift();
  if (!fake) return window.realFetch(url, options);
  window.sent = JSON.parse(options.body);
  const bytes = new TextEncoder().encode(fake.body);
  let at = 0;
  return Promise.resolve(new Response(new ReadableStream({pull(c) {
    if (at >= bytes.length) return c.close();
    c.enqueue(bytes.slice(at, at += fake.cut));
  }}), {status: fake.status || 200}));
};
"""


def chunk(text, token=None, logp=-0.1, others=(), **delta):
    choice = dict(index=0, delta=dict(content=text, **delta) if text is not None else delta, finish_reason=None)
    if token is not None:
        choice["logprobs"] = dict(content=[dict(token=token, logprob=logp, bytes=list(token.encode()), top_logprobs=[dict(token=t, logprob=p) for t, p in ((token, logp), *others)])])
    return dict(choices=[choice])


END = dict(choices=[dict(index=0, delta={}, finish_reason="stop")])


def events(*chunks):
    return "".join(f"data: {json.dumps(c, ensure_ascii=False)}\n\n" for c in (*chunks, END)) + "data: [DONE]\n\n"


def give(browser, body, cut=7, status=200):
    browser.js(f"window.fakes.push({json.dumps(dict(body=body, cut=cut, status=status))})")


def last(browser, what):
    """Of the last answer."""
    return browser.js(f"(() => {{ const all = document.querySelectorAll('.bot'), e = all[all.length - 1]; return {what}; }})()")


def ask(browser, text, seconds=60):
    browser.write(text)
    browser.press("Enter", 13)
    browser.until("running === null", seconds)


# ---- what is tried


def real_answer(browser, server, shots, size, scheme):
    phone = size is PHONE
    name = f"{'phone' if phone else 'desk'}-{scheme}"
    browser.open(f"http://{serving.HOST}:{server.port}/", size, scheme)
    browser.until("document.querySelector('#empty h2')?.textContent.length > 0 && model !== null")
    browser.shot(shots and os.path.join(shots, f"{name}-empty.png"))
    browser.js("document.querySelector('#max_tokens').value = '60'; document.querySelector('#seed').value = '5'")
    ask(browser, "Name three colours and say where one sees them.")
    text, foot = last(browser, "e.querySelector(':scope>.text').innerText"), last(browser, "e.querySelector('.say').innerText")
    assert len(text) > 20, f"only {text!r} came"
    found = re.search(r"^([\d.]+) tokens/s · (\d+) tokens · first after ([\d.]+) s · prompt (\d+)", foot)
    assert found, f"the foot says {foot!r}"
    made = int(found[2])
    assert 2 <= made <= 60 and float(found[1]) > 0
    assert browser.js("document.querySelector('#scroll').scrollWidth <= document.querySelector('#scroll').clientWidth"), "the page is wider than the screen"
    width, bottom = browser.js("(r => [r.width, innerHeight - r.bottom])(document.querySelector('#box').getBoundingClientRect())")
    assert width >= 0.9 * size[0] if phone else width >= 600, f"the line to write on is {width} wide"
    assert 0 <= bottom <= 20, f"and ends {bottom} above the bottom"
    spans = last(browser, "e.querySelectorAll('.t').length")
    assert spans >= made * 0.7, f"{spans} words to point at for {made} tokens"
    # What stood there is among what could have; the tip stays on the screen.
    last(browser, "e.querySelectorAll('.t')[3].id = 'fourth'")
    browser.click("#fourth", "touch") if phone else browser.point("#fourth")
    browser.until("!document.querySelector('#tip').hidden", 5)
    rows = browser.js("[...document.querySelectorAll('#tip tr')].map(r => [r.className, r.cells[2].innerText, r.cells[3].innerText])")
    assert len(rows) >= 5 and [r[0] for r in rows].count("it") == 1, f"the tip has {rows}"
    assert all("%" in r[1] for r in rows) and all(float(r[2].replace("−", "-")) <= 0 for r in rows), f"the tip has {rows}"
    box = browser.js("(r => [r.left, r.top, innerWidth - r.right, innerHeight - r.bottom])(document.querySelector('#tip').getBoundingClientRect())")
    assert min(box) >= 0, f"the tip leaves the screen: {box}"
    browser.shot(shots and os.path.join(shots, f"{name}-answer.png"))
    # A second turn carries the first; the same seed gives the same again.
    again = last(browser, "answerText(turns[turns.length - 1])")
    last(browser, "[...e.querySelectorAll('.foot button')].find(b => b.textContent === 'Again').click()")
    browser.until("running === null")
    assert last(browser, "answerText(turns[turns.length - 1])") == again, "the same seed wrote another answer"
    ask(browser, "And a fourth?")
    assert browser.js("body().messages.length") == 4
    browser.js("document.querySelector('#settings').hidden && document.querySelector('#tune').click()")
    browser.shot(shots and os.path.join(shots, f"{name}-settings.png"))
    return f"{made} tokens, {found[1]} tokens/s"


def stopping(browser, server):
    """The button stops, and the server notices."""
    browser.open(f"http://{serving.HOST}:{server.port}/", DESK, "light")
    browser.until("model !== null")
    browser.js("document.querySelector('#max_tokens').value = '2000'; setWay(false)")
    browser.write("Once upon a time")
    browser.press("Enter", 13)
    browser.until("turns.length === 2 && turns[1].made > 3")
    assert browser.js("document.querySelector('#go').getAttribute('aria-label')") == "Stop"
    browser.click("#go")
    browser.until("running === null", 5)
    assert "stopped" in last(browser, "e.querySelector('.say').innerText")
    end = time.monotonic() + 10
    while True:
        found = serving.metrics(serving.ask(server.port, "GET", "/metrics")[1].decode())
        if found["trilith:num_requests_running", ()] == 0 and found["trilith:request_success_total", (("finished_reason", "abort"),)] >= 1:
            break
        assert time.monotonic() < end, "the server goes on with what nobody reads"
        time.sleep(0.1)
    # Continue goes on from the text as it stands.
    sent = browser.js("body().prompt")
    assert sent.startswith("Once upon a time") and len(sent) > 20


def made_up(browser, server, shots):
    browser.open(f"http://{serving.HOST}:{server.port}/", DESK, "dark")
    browser.until("model !== null")
    browser.js(FAKE)
    usage = dict(choices=[], usage=dict(prompt_tokens=128, completion_tokens=9, prompt_tokens_details=dict(cached_tokens=96)))
    # Thinking in tags, cut anywhere; a token of half a character is shown with the one that completes it.
    give(browser, events(chunk("<think>"), chunk("Let me "), chunk("see."), chunk("</think>"), chunk("", "bytes:\\xe2\\x82", -0.5), chunk("€", "bytes:\\xac", -0.01), chunk(" 5", " 5", -1.2, ((" 6", -0.9),)), usage), 3)
    ask(browser, "How much?")
    assert last(browser, "e.querySelector('.think').hidden") is False and last(browser, "e.querySelector('.think').open") is False
    assert last(browser, "e.querySelector('.think .text').textContent") == "Let me see."
    assert last(browser, "answerText(turns[1])") == "€ 5"
    assert last(browser, "e.querySelector('.t').tokens.length") == 2, "the euro sign is of two tokens"
    assert "prompt 128 (96 cached)" in last(browser, "e.querySelector('.say').innerText")
    # What was thought is not sent back.
    give(browser, events(chunk("Yes."), usage), 64)
    ask(browser, "Sure?")
    assert [m["content"] for m in browser.js("sent.messages")] == ["How much?", "€ 5", "Sure?"]
    # The template opened the tag; a server that calls it reasoning.
    for body in (events(chunk("Hm."), chunk("</think>\n\nSo."), usage), events(chunk(None, reasoning_content="H"), chunk("S", reasoning_content="m."), chunk("o."), usage)):
        give(browser, body, 11)
        ask(browser, "And?")
        assert last(browser, "e.querySelector('.think .text').textContent") == "Hm." and last(browser, "answerText(turns[turns.length - 1])") == "So."
    # Markup is text; Markdown is read, and left out of what it marks.
    evil = "<img src=x onerror=alert(1)> & <b>b</b>"
    give(browser, events(chunk("# Title\n\nSome **bold**, *thin* and `co<de>`.\n\n- one\n- two\n\n```python\nfor x in y:\n"), chunk("    print(x)\n```\n\n" + evil), usage), 13)
    ask(browser, evil)
    tags = last(browser, "[...e.querySelectorAll('.text *')].map(x => x.tagName).sort().join()")
    assert "IMG" not in tags and not browser.js("document.querySelectorAll('#talk img').length"), tags
    assert [last(browser, f"e.querySelector('.text {q}').textContent") for q in (".h", "strong", "em", "code", "pre")] == ["Title", "bold", "thin", "co<de>", "for x in y:\n    print(x)"]
    assert last(browser, "e.querySelectorAll('.text .li').length") == 2 and last(browser, "e.querySelector(':scope>.text').lastChild.textContent") == evil
    browser.js("document.querySelectorAll('.think').forEach((d, i) => d.open = i === 0); document.querySelector('#scroll').scrollTop = 0")
    browser.shot(shots and os.path.join(shots, "desk-dark-made-up.png"))
    # Drawn as it came or at once: the same.
    drawn = last(browser, "e.querySelector(':scope>.text').innerHTML")
    last(browser, "render(turns[turns.length - 1], true)")
    assert last(browser, "e.querySelector(':scope>.text').innerHTML") == drawn
    # Errors are said, before and amid an answer, and the conversation goes on.
    give(browser, json.dumps(dict(error=dict(message="the prompt is 9 tokens too long", type="invalid_request_error"))), 1000, 400)
    ask(browser, "x")
    assert last(browser, "e.querySelector('.error').textContent") == "the prompt is 9 tokens too long"
    give(browser, json.dumps(dict(error=dict(message="this model has no chat template", code="no_template"))), 1000, 400)
    ask(browser, "Once")
    give(browser, "".join(f"data: {json.dumps(c)}\n\n" for c in (dict(choices=[dict(text=" upon", finish_reason=None)]), dict(choices=[dict(text=" a", finish_reason="length")]))), 5)
    browser.click(".error button")
    browser.until("running === null")
    assert browser.js("sent.prompt").endswith("Once") and last(browser, "answerText(turns[turns.length - 1])") == "upon a"
    browser.js("setWay(true)")
    give(browser, events(chunk("So f")) .replace("data: [DONE]", 'data: {"error": {"message": "a step failed"}}'), 9)
    ask(browser, "y")
    assert last(browser, "e.querySelector('.error').textContent") == "a step failed" and last(browser, "answerText(turns[turns.length - 1])") == "So f"
    said = browser.js("sent.messages")
    assert said[-1]["content"] == "y" and "x" not in [m["content"] for m in said], "a question that was refused is asked again"
    give(browser, events(chunk("Half an ans")).replace('"stop"', "null"), 50)
    ask(browser, "z")
    assert "breaks off" in last(browser, "e.querySelector('.error').textContent"), "an answer without an end looks like one with"
    browser.js("document.querySelector('#scroll').scrollTop = 1e9")
    browser.shot(shots and os.path.join(shots, "desk-dark-errors.png"))
    browser.js("document.querySelector('#anew').click()")
    assert browser.js("turns.length === 0 && !!document.querySelector('#empty')")


def key_asked_for(browser, server):
    """The page of a server with a key says so, and speaks once it has it."""
    browser.open(f"http://{serving.HOST}:{server.port}/", PHONE, "dark")
    browser.until("document.activeElement === document.querySelector('#key')")
    browser.call("Input.insertText", text="open-sesame")
    browser.press("Tab", 9)
    browser.until("model !== null")
    browser.js("document.querySelector('#close').click(); document.querySelector('#max_tokens').value = '3'")
    ask(browser, "Hello")
    assert "3 tokens" in last(browser, "e.querySelector('.say').innerText")


def complaints(browser, port):
    said = []
    for e in browser.events:
        method, p = e.get("method"), e.get("params", {})
        if method == "Network.requestWillBeSent" and not p["request"]["url"].startswith((f"http://{serving.HOST}:{port}/", "data:", "about:")):
            said.append(f"asks {p['request']['url']}")
        if method == "Runtime.exceptionThrown":
            said.append(p["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        if method == "Log.entryAdded" and p["entry"]["level"] == "error" and "net::ERR_ABORTED" not in p["entry"]["text"]:
            said.append(p["entry"]["text"])
    return said


def chromium():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def missing():
    """What is not here, as a sentence; None: all is."""
    return None if chromium() else "there is no Chromium here (Debian: apt-get install chromium)"


def run(trilith, model, program=None, shots=None, say=lambda line: None):
    with tempfile.TemporaryDirectory(prefix="trilith-page-") as work, serving.Server(serving.trilith(trilith, model, "--context", 4096, "--kv-memory", "300M"), log=f"{work}/serve.log") as server:
        browser = Browser(program or chromium(), work)
        try:
            for size in (PHONE, DESK):
                for scheme in ("light", "dark"):
                    say(f"{'phone' if size is PHONE else 'desk'}, {scheme}: {real_answer(browser, server, shots, size, scheme)}")
            stopping(browser, server)
            made_up(browser, server, shots)
            said = complaints(browser, server.port)
            assert not said, "; ".join(said)
            with open(f"{work}/keys", "w") as f:
                f.write("open-sesame\n")
            with serving.Server(serving.trilith(trilith, model, "--context", 512, "--api-keys", f"{work}/keys")) as locked:
                key_asked_for(browser, locked)
        finally:
            browser.close()
        status, page = serving.ask(server.port, "GET", "/")
        assert status == 200 and not re.search(rb"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page), "the page names another host"
        return f"{len(page):,} bytes, telephone and desk, light and dark, nothing asked of others"


def main():
    parser = argparse.ArgumentParser(description="the chat page in headless Chromium")
    parser.add_argument("--trilith", required=True)
    parser.add_argument("--model", help="a small chat model, GGUF (default: SmolLM2 of tools/requirements-models.txt)")
    parser.add_argument("--chromium", metavar="PROGRAM")
    parser.add_argument("--shots", metavar="FOLDER", help="keep screenshots there")
    args = parser.parse_args()
    if not args.chromium and missing():
        print(f"skipped: {missing()}")
        return
    if args.shots:
        os.makedirs(args.shots, exist_ok=True)
    if not args.model:
        import real_models

        args.model = real_models.smollm2()
    print(run(args.trilith, args.model, args.chromium, args.shots, print))


if __name__ == "__main__":
    sys.exit(main())
