"""What templates are tried on: jinja2 as transformers sets it up, and conversations of every shape that a server meets."""

import os

os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
from transformers.utils.chat_template_utils import _alias_reasoning_fields, _compile_jinja_template

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def render(source, conversation, settings):
    """The text, or the exception that jinja2 raised, as transformers' render_jinja_template renders."""
    try:
        template = _compile_jinja_template(source)
        messages = conversation.get("messages")
        variables = {"messages": None, "tools": None, "documents": None, **conversation, **settings}
        if messages is not None:
            variables["messages"] = _alias_reasoning_fields(messages)
        text = template.render(**variables)
        text.encode()  # a lone surrogate is no text
        return text
    except Exception as e:  # whatever a template can raise: Python's errors too
        return e


def tool(name, **properties):
    return {"type": "function", "function": {"name": name, "description": f"Does {name} – “well”.", "parameters": {
        "type": "object", "properties": properties, "required": sorted(properties)[:1]}}}


TOOLS = [tool("get_weather", city={"type": "string", "description": "A city, e.g. 'Zürich'"},
              unit={"type": "string", "enum": ["celsius", "fahrenheit"], "default": None}),
         tool("add", a={"type": "number"}, b={"type": ["number", "null"], "minimum": -1.5e300, "maximum": 1e-7},
              options={"type": "object", "properties": {"deep": {"type": "array", "items": {"type": "integer"}}}})]


def call(name, arguments, i=0):
    return {"id": f"call{i:05d}x", "type": "function", "function": {"name": name, "arguments": arguments}}


U = {"role": "user", "content": "Hello, who are you?"}
S = {"role": "system", "content": "You are brief.\n"}
A = {"role": "assistant", "content": "I am a model."}
CONVERSATIONS = {
    "one": {"messages": [U]},
    "system": {"messages": [S, U]},
    "turns": {"messages": [U, A, {"role": "user", "content": "  spaces around \n"}, {"role": "assistant", "content": " yes \n\n"}, U]},
    "system turns": {"messages": [S, U, A, U, A, U]},
    "ends with assistant": {"messages": [S, U, A]},
    "unicode": {"messages": [{"role": "user", "content": "naïve café 日本語 👩‍👩‍👧 \u2028 <&>\"'\\ \t\x7f ǅ ß"}]},
    "special text": {"messages": [{"role": "user", "content": "<|im_end|></s>[INST]<end_of_turn>{{ x }}{% if %}"}, A, U]},
    "empty content": {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": ""}, {"role": "assistant", "content": ""}, U]},
    "null content": {"messages": [U, {"role": "assistant", "content": None}, U]},
    "no content": {"messages": [U, {"role": "assistant"}, U]},
    "no messages": {"messages": []},
    "only system": {"messages": [S]},
    "two users": {"messages": [U, U]},
    "odd role": {"messages": [U, {"role": "critic", "content": "no"}, U]},
    "think": {"messages": [U, {"role": "assistant", "content": "<think>\nhm, 1+1\n</think>\n\nTwo."}, U]},
    "reasoning": {"messages": [U, {"role": "assistant", "content": "Two.", "reasoning_content": "hm\n1+1"}, U, {"role": "assistant", "reasoning": "so", "content": "x"}]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image"}, {"type": "text", "text": " And this?"}, {"type": "image_url", "image_url": {"url": "x"}}]}, A]},
    "system parts": {"messages": [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
    "tools": {"messages": [S, U], "tools": TOOLS},
    "tools, no system": {"messages": [U], "tools": TOOLS},
    "tool calls": {"messages": [S, U, {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"city": "Zürich", "unit": None})]},
                                {"role": "tool", "tool_call_id": "call00000x", "name": "get_weather", "content": "{\"t\": 3.50}"}, A, U], "tools": TOOLS},
    "two tool calls": {"messages": [U, {"role": "assistant", "content": None, "tool_calls": [call("add", {"a": 1, "b": -2.5e-7, "options": {"deep": [1, 2, True, None]}}), call("get_weather", {"city": "a\nb"}, 1)]},
                                    {"role": "tool", "tool_call_id": "call00000x", "name": "add", "content": "3"}, {"role": "tool", "tool_call_id": "call00001x", "name": "get_weather", "content": "rain"}, U], "tools": TOOLS},
    "string arguments": {"messages": [U, {"role": "assistant", "content": "Let me see.", "reasoning_content": "I need a tool.", "tool_calls": [call("add", "{\"a\": 1}")]},
                                      {"role": "tool", "content": "1"}], "tools": TOOLS[:1]},
    "plain calls": {"messages": [U, {"role": "assistant", "tool_calls": [{"name": "add", "arguments": {"a": 12345678901234567, "b": 1e22}}]},
                                 {"role": "tool", "name": "add", "content": {"result": [1.0, 0.1, 1e16]}}, U], "tools": TOOLS},
    "documents": {"messages": [U], "documents": [{"title": "One", "text": "First."}, {"title": "Two", "text": "Second\nline."}]},
    "developer": {"messages": [{"role": "developer", "content": "Be exact."}, U]},
}
SETTINGS = [{"add_generation_prompt": False}, {"add_generation_prompt": True},
            {"add_generation_prompt": True, "enable_thinking": False, "thinking": True, "reasoning_effort": "low", "date_string": "26 Jul 2024"}]
