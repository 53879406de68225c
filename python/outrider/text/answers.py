"""Where a rendered conversation holds the assistant's turns, for chat templates that do not say.

A turn is found by rendering the conversation again with a marker in place of the answer: whatever
stands before and behind the marker is the template's. See docs/data.md."""

from dataclasses import dataclass

from .literals import PRIVATE_USE
from .messages import reasoning_of
from .notes import Note
from .problem import Problem
from .reasoning import is_lost, lost, opened_tag, split, tails
from .served import as_generated
from .tool_calls import CallArguments


@dataclass
class Answer:
    """floor <= begin <= end <= stop, positions in the rendered text. No token that starts before
    `floor` is trained on, nor one that ends before `begin`; the text ends at `end`, its end of turn
    at `stop`."""

    floor: int
    begin: int
    end: int
    stop: int
    message: int

    def at(self, positions):
        """The same where `positions` leads."""
        return Answer(*map(positions, (self.floor, self.begin, self.end, self.stop)), self.message)


def common_prefix(a, b):
    """The number of leading characters that two texts share."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def whole_tags(text, end):
    """`end`, or the begin of the tag in `text` that it would cut."""
    opened = text.rfind("<", 0, end)
    return opened if opened > text.rfind(">", 0, end) else end


def longest_match(text, pattern):
    """(begin, end) of the one longest piece of `text` that `pattern` begins with; None where there
    is none, or several."""
    found = [(common_prefix(text[at:], pattern), at) for at in range(len(text))]
    longest, at = max(found, default=(0, 0))
    if not longest or sum(length == longest for length, _ in found) > 1:
        return None
    return at, at + longest


def _ignored_calls(i):
    return Problem(f"the chat template ignores the tool calls of message {i + 1}",
                   "--chat-template FILE names a template that renders tool calls")


class AnswerFinder:
    """Finds the answers that are trained on in `text`, which `template` made of all the messages.

    `taken`: characters with another meaning; `notes`: what becomes of the messages otherwise than
    one would think."""

    def __init__(self, template, messages, context, form, text, trained, taken=""):
        self._template, self._messages, self._context = template, messages, context
        self._form, self.text, self._trained = form, text, trained
        unused = (c for c in map(chr, PRIVATE_USE) if c not in text and c not in taken)
        self._marker, self._other_marker = next(unused), next(unused)
        self._plain = {"role": "assistant", "content": self._marker}
        self.notes = set()

    def answers(self):
        """The Answer of each turn to train on; raises Problem where one cannot be told for
        certain."""
        self.notes |= {(Note.REASONING_LEFT_OUT, i) for i, message in enumerate(self._messages)
                       if message["role"] == "assistant" and i not in self._trained
                       and is_lost(message, self.text)}
        answers, stop = [], 0
        for i in sorted(self._trained):
            answers.append(self._answer(i))
            if answers[-1].floor < stop:
                raise Problem(f"the chat template does not render message {i + 1} behind the "
                              "ones before it")
            stop = answers[-1].stop
        return answers

    def _answer(self, i):
        marked, before, behind = self._surroundings(i)
        end = len(self.text) - len(behind)
        history = self._template.text_of(self._messages[:i], self._context)
        asked = self._template.text_of(self._messages[:i], self._context, ask=True)
        shared = common_prefix(history, asked)
        history, prompt = asked[:shared], asked[shared:]
        floor, begin, missing = self._beginning(i, marked, before, history, prompt)
        if self.text.endswith(behind) and end <= begin:
            if "tool_calls" in self._messages[i]:
                raise _ignored_calls(i)
            raise Problem(f"the chat template renders nothing of message {i + 1}")
        self._check_surroundings(i, before[:begin], behind, begin, end)
        stop = end + len(self._end_of_turn(i, prompt, behind))
        answer = Answer(floor, begin, end, stop, i)
        self._check_text(i, self.text[begin:end])
        if missing.strip():
            return self._served(answer, asked, missing, before.startswith(history))
        return self._complete(answer)

    def _check_surroundings(self, i, before, behind, begin, end):
        if self.text[:begin] == before and self.text[end:] == behind:
            return
        if reasoning_of(self._messages[i]) or split(self._messages[i]["content"] or "")[0]:
            raise Problem(
                f"the chat template renders another prompt before message {i + 1} since it holds "
                "reasoning, so the answer cannot be located",
                "--reasoning drop trains on answers without reasoning; a --template-arg that "
                "switches reasoning off contradicts it")
        raise Problem(f"the chat template renders what is around message {i + 1} differently "
                      "with every answer, so the answer cannot be located")

    # ---- Answers as they are served -------------------------------------------------------------

    def _served(self, answer, asked, missing, has_same_history):
        """The answer behind all of its generation prompt, of which the template rendered less.

        That is possible for the last message, where nothing behind it depends on it."""
        i = answer.message
        is_last = i + 1 == len(self._messages)
        if is_last and (has_same_history or len(self._trained) == 1):
            rendered = self.text[answer.begin:answer.end]
            said = as_generated(self._messages[i], rendered, missing)
            if said is not None:
                return self._complete(self._put_behind(asked, said, answer))
        is_cut = is_last and opened_tag(missing)
        self.notes.add((Note.PROMPT_CUT if is_cut else Note.NOT_AS_SERVED, i))
        return self._complete(answer)

    def _put_behind(self, asked, said, answer):
        """The same answer, as `said` behind the text `asked`."""
        if is_lost(self._messages[answer.message], self.text[answer.begin:answer.end]):
            self.notes.add((Note.REASONING_PUT_BACK, answer.message))
        self.text = asked + said + self.text[answer.end:]
        begin, end = len(asked), len(asked) + len(said)
        return Answer(begin, begin, end, end + answer.stop - answer.end, answer.message)

    def _complete(self, answer):
        """The answer, if nothing of it is lost."""
        i, rendered = answer.message, self.text[answer.begin:answer.end]
        message = self._messages[i]
        if is_lost(message, rendered):
            raise lost(i, len(self._messages))
        if self._has_added_text(message, rendered):
            self.notes.add((Note.TEXT_ADDED, i))
        return answer

    def _has_added_text(self, message, rendered):
        """Whether something stands in front of an answer that says nothing but its content."""
        content = (message["content"] or "").strip()
        if "tool_calls" in message or reasoning_of(message) or content not in rendered:
            return False
        return bool(rendered[:rendered.index(content)].strip())

    # ---- What the template puts around an answer ------------------------------------------------

    def _surroundings(self, i):
        """(message i with a marker in it, what is rendered before the marker, and behind it up from
        the end of the turn)."""
        if "tool_calls" not in self._messages[i]:
            return self._plain, *self._around_marker(i, self._with({i: self._plain}))
        try:
            before, behind = self._around_marker(i, self._with({i: self._plain}))
            if self.text.endswith(behind):
                return self._plain, before, behind
        except Problem:  # templates may insist on a call before a tool's result
            pass
        return self._around_calls(i)

    def _around_marker(self, i, rendered):
        count = rendered.count(self._marker)
        if count != 1:
            what = "repeats the text of" if count else "leaves out"
            raise Problem(f"the chat template {what} message {i + 1}, so the answer cannot be "
                          "located")
        return rendered.split(self._marker)

    def _around_calls(self, i):
        """The same for a turn whose calls must stay."""
        arguments = self._form.arguments(CallArguments({self._marker: self._marker}, None))
        calls = [{**call, "function": {
            **call["function"], "name": self._marker, "arguments": arguments}}
                 for call in self._messages[i]["tool_calls"]]
        marked = {**self._messages[i], "tool_calls": calls}
        rendered = self._with({i: marked})
        if self._marker not in rendered:
            raise _ignored_calls(i)
        before, behind = (
            rendered.split(self._marker)[0], rendered.rsplit(self._marker)[-1])
        return marked, before, behind[self._end_of_calls(i, marked):]

    def _end_of_calls(self, i, marked):
        """How far behind the last marker of a message with calls its end of turn begins."""
        rendered = self._with({i: marked, **self._other_marked(i + 1)})
        between = rendered.rsplit(self._marker)[-1].split(self._other_marker)
        usual = self._template.end_of_turn(self._alone(i)[1]).strip()
        at = between[0].find(usual) if usual else -1
        if at < 0:
            at = self._template.first_special_token(between[0])
        if at < 0 or len(between) != (2 if i + 1 < len(self._messages) else 1):
            raise Problem("the end of the tool calls cannot be located in what the chat template "
                          f"renders of message {i + 1}")
        return at

    # ---- Where an answer begins -----------------------------------------------------------------

    def _beginning(self, i, marked, before, history, prompt):
        """(floor, begin, what is missing of the prompt): behind the generation prompt, which
        inference puts before an answer."""
        if not prompt.strip():
            return *self._beginning_without_prompt(i, marked, before), ""
        if before.startswith(history):
            begin = whole_tags(prompt, common_prefix(before, history + prompt) - len(history))
            if prompt[:begin].strip():
                return len(history) + begin, len(history) + begin, prompt[begin:]
        else:
            gap = self._gap(i, marked, self._messages[i + 1:])
            found = longest_match(gap, prompt)
            if found and found[1] in (found[0] + len(prompt), len(gap)):
                begin = len(before) - len(gap) + found[1]
                return begin, begin, prompt[found[1] - found[0]:]
        raise Problem("the chat template does not render its generation prompt before message "
                      f"{i + 1}, so the begin of the answer cannot be located")

    def _beginning_without_prompt(self, i, marked, before):
        """The template's own text ends where a plain answer and this one begin to differ."""
        begin = len(before)
        if "tool_calls" in marked:
            gap = self._gap(i, marked, self._messages[i + 1:])
            begin += common_prefix(gap, self._gap(i, self._plain, [])) - len(gap)
        elif not before[common_prefix(before, self.text):].strip():
            begin = common_prefix(before, self.text)  # calls and reasoning may need no blank
        return len(before[:begin].rstrip()), begin

    def _gap(self, i, marked, following):
        """What is rendered between the texts of message i - 1 and of the marked message i."""
        history = [*self._messages[:i - 1], self._other_marked(i - 1)[i - 1]]
        rendered = self._template.text_of([*history, marked, *following], self._context)
        before = rendered.split(self._marker)[0].split(self._other_marker)
        if len(before) != 2:
            raise Problem(f"the chat template leaves out or repeats message {i}, so the answer "
                          "behind it cannot be located")
        return before[1]

    def _end_of_turn(self, i, prompt, behind):
        """What closes message i, unless it is what opens the next one."""
        text = self._template.end_of_turn(behind)
        opens = prompt.strip().startswith(text.strip()) if prompt.strip() else (
            self._template.end_of_turn(self._alone(i)[1]) != text)
        return "" if opens else text

    # ---- Helpers --------------------------------------------------------------------------------

    def _check_text(self, i, rendered):
        """The answer itself must be in what is taken for it, its reasoning aside."""
        message = self._messages[i]
        calls = message.get("tool_calls", [])
        content = (message["content"] or "").strip()
        answers = [content, *(answer for _, answer in tails(content))]
        if not any((answer or calls) and answer in rendered for answer in answers):
            raise Problem(f"the chat template changes or leaves out text of message {i + 1}")
        for call in calls:
            if call["function"]["name"] not in rendered:
                raise _ignored_calls(i)

    def _alone(self, i):
        """What is before and behind a plain answer as message i and last message."""
        rendered = self._template.text_of([*self._messages[:i], self._plain], self._context)
        return self._around_marker(i, rendered)

    def _other_marked(self, i):
        """{i: message i with the other marker as its text}, where there is such a message."""
        return {i: {**message, "content": self._other_marker}
                for message in self._messages[i:i + 1]}

    def _with(self, replaced):
        """The rendered text with some messages replaced."""
        messages = [replaced.get(i, message) for i, message in enumerate(self._messages)]
        return self._template.text_of(messages, self._context)
