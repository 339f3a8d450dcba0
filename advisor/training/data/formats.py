"""Row formats: how columns become rows, one entry each.

A format names the columns that it reads and what they must hold, makes a row of their values, and says what of the row
counts in the loss. The first format that recognises a table is taken, in the order of this file; the table in
``docs/data-formats.md`` is written from it. A package adds one with an entry point::

    [project.entry-points."advisor.formats"]
    my-format = "my_package.my_format:MY_FORMAT"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from advisor.core.errors import DataError
from advisor.core.registry import Registry
from advisor.training.data.cells import (
    CellError,
    conversation,
    is_absent,
    is_completion,
    is_flag,
    is_list,
    is_text,
    is_turns,
    messages_of,
    parsed,
    text_of,
    tools_of,
    turns_are_from_and_value,
)
from advisor.training.data.label_values import holds_flags, holds_label_lists, is_continuous, label_columns
from advisor.training.data.labels import looks_like_classes, number_of
from advisor.training.data.rows import (
    AnswerPair,
    Completion,
    Conversation,
    Message,
    PlainText,
    Row,
    RowKind,
    SourceAndTarget,
)
from advisor.training.data.tables import Table
from advisor.training.data.tagged import is_spans, text_with_spans, words_with_tags

TEXT_COLUMNS = ("text", "sentence", "content", "document", "review", "article")
LABEL_COLUMNS = ("label", "labels", "class", "category", "sentiment", "target")
LIST_COLUMNS = ("tags", "topics", "genres", "categories")
"""Further columns of lists of labels."""
SCORE_COLUMNS = ("score", "similarity", "similarity_score", "rating")
"""Further columns of numbers."""
TEXT_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"))
INDEX_COLUMNS = ("", "id", "idx", "index", "guid", "uid", "unnamed: 0", "__index_level_0__")
"""Columns that number rows."""
SOURCES_AND_TARGETS = (
    ("source", "target"), ("document", "summary"), ("article", "highlights"), ("dialogue", "summary"),
    ("text", "summary"), ("article", "abstract"), ("prompt", "completion"), ("question", "answer"), ("input", "output"),
    ("inputs", "targets"),
)  # fmt: skip
"""Names of columns of texts, and of what is written from them."""
CHAT_COLUMNS = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue")
TOOL_COLUMNS = ("tools", "functions")
_SAMPLE_ROWS = 200

_TELLING = {*CHAT_COLUMNS, "prompt", "completion", "instruction", "question", "chosen", "rejected"}
"""Columns that never are plain texts by themselves."""


class Doubt(IntEnum):
    """Whether the columns of a format may be meant otherwise."""

    NONE = 0
    SOME = 1
    MUCH = 2


Cells = Mapping[str, Any]
"""Values of one row by part; parts without a column are missing."""


@dataclass(frozen=True)
class Part:
    """A column that a format reads.

    Attributes:
        name: What the format calls it.
        columns: Names that are looked for, in lower case.
        holds: Whether a value that is there can be meant.
        required: Whether the format needs it.
        option: The command-line option that names the column; empty where none does.
        or_only: Whether the only column of a table is meant, whatever its name, unless it belongs to another format.
    """

    name: str
    columns: tuple[str, ...]
    holds: Callable[[Any], bool] = is_text
    required: bool = True
    option: str = ""
    or_only: bool = False


@dataclass(frozen=True)
class RowFormat:
    """A format of rows.

    Attributes:
        name: In the registry, and ``--format``.
        title: How it is called in prose.
        unit: What a row is.
        kind: Which rows it makes.
        recognised: By what, for the documentation.
        trained: What counts in the loss.
        parts: Columns that it reads.
        make: A row of the values, or what one is made of when all tags are known; ``None`` for formats whose rows are
            read as a whole (labels) or not at all.
        refused: Why it cannot be trained; empty where it can.
        instead: What else can be done with such rows.
        only_named: Never recognised, only taken where ``--format`` names it.
        short_answers: Of texts that are to be written: they answer a question in a few words and are right or wrong,
            unlike summaries and translations.
        names_tell: Columns that the user names must be called as its own are; otherwise what they hold says enough.
    """

    name: str
    title: str
    unit: str
    kind: RowKind
    recognised: str
    trained: str
    parts: tuple[Part, ...] = ()
    make: Callable[[Cells], Any] | None = None
    refused: str = ""
    instead: str = ""
    only_named: bool = False
    short_answers: bool = False
    names_tell: bool = False

    def find(self, table: Table, named: Mapping[str, str | None]) -> dict[str, str] | None:
        """Columns by part; ``None`` where the table is not of this format.

        Args:
            table: The data.
            named: Columns that the user named, by option.
        """
        found: dict[str, str] = {}
        options = {part.option for part in self.parts}
        if not self.parts or any(column is not None and option not in options for option, column in named.items()):
            return None
        for part in self.parts:
            column = named.get(part.option) or _column(table, part, taken=found.values())
            if column is not None and column not in found.values() and _holds(table, column, part):
                found[part.name] = column
            elif part.required or named.get(part.option):
                return None
        return found

    def doubt(self, table: Table, columns: Mapping[str, str], named: Mapping[str, str | None]) -> Doubt:
        """How certain it is that this format is meant, where the user named neither format nor task."""
        return Doubt.NONE

    def columns_of(self, columns: Mapping[str, str]) -> dict[str, str | None]:
        """Columns by the option that names them, of what ``find`` found."""
        return {part.option: columns.get(part.name) for part in self.parts if part.option}

    def has_other_names(self, columns: Mapping[str, str]) -> bool:
        """Whether a column is called otherwise than the parts are."""
        usual = {part.name: part.columns for part in self.parts}
        return any(column.lower() not in usual[part] for part, column in columns.items())

    def rows(self, table: Table, columns: Mapping[str, str], **more: Any) -> list[Any]:
        """The rows of a table, also those without anything to learn; ``more`` is the same for each.

        Raises:
            DataError: a value is not what its column must hold.
        """
        if self.make is None:
            raise DataError(f"{self.title} cannot be trained: {self.refused}", fix=self.instead)
        values = {part: table.column(column) for part, column in columns.items()}
        rows = []
        for number in range(table.num_rows):
            try:
                rows.append(self.make({part: column[number] for part, column in values.items()} | more))
            except CellError as failure:
                raise DataError(
                    f"{self.title} must hold {failure.wanted}, but row {number + 1} of {table.name} has {failure.got}",
                    fix=failure.fix,
                ) from None
        return rows


class _Labelled(RowFormat):
    """Texts with a class each. A column may also be known by elimination: it is the only one that is left."""

    def find(self, table: Table, named: Mapping[str, str | None]) -> dict[str, str] | None:
        text, pair, label = (named.get(option) for option in ("text_column", "text_pair_column", "label_column"))
        if text is None and pair is None and _by_name(table, TEXT_COLUMNS, (label,)) is None:
            text, pair = next((names for names in TEXT_PAIRS if set(names) <= set(table.columns)), (None, None))
        label = label or self._label_by_name(table, (text, pair))
        text = text or _by_name(table, TEXT_COLUMNS, (pair, label)) or _text_left(table, (pair, label))
        label = label or self._label_left(table, (text, pair))
        if text is None or label is None:
            return None
        if label != named.get("label_column") and not self._holds_labels(table, label):
            return None
        return {"text": text, **({"pair": pair} if pair else {}), "label": label}

    def columns_of(self, columns: Mapping[str, str]) -> dict[str, str | None]:
        return {
            "text_column": columns["text"], "text_pair_column": columns.get("pair"), "label_column": columns["label"]
        }  # fmt: skip

    def _label_by_name(self, table: Table, taken: Sequence[str | None]) -> str | None:
        return _by_name(table, LABEL_COLUMNS, taken)

    def _label_left(self, table: Table, taken: Sequence[str | None]) -> str | None:
        """The only column that is left, if it has few values."""
        left = _columns_left(table, taken)
        return left[0] if len(left) == 1 and looks_like_classes(table.column(left[0])) else None

    def _holds_labels(self, table: Table, label: str) -> bool:
        return True


class _Tagged(RowFormat):
    """Texts whose words have tags."""

    def doubt(self, table: Table, columns: Mapping[str, str], named: Mapping[str, str | None]) -> Doubt:
        """A column without a value, of which nothing says that it holds tags, is rather one of classes."""
        tags = columns[self.parts[1].name]
        return Doubt.MUCH if all(is_absent(value) for value in _sample(table, tags)) else Doubt.NONE


class _MultiLabelled(_Labelled):
    """Texts with any number of labels each: a column of lists, or one of 0 and 1 for every label."""

    def doubt(self, table: Table, columns: Mapping[str, str], named: Mapping[str, str | None]) -> Doubt:
        """Lists where a class would stand are labels; columns of 0 and 1 may as well stand for something else."""
        if not self._holds_labels(table, columns["label"]):
            return Doubt.MUCH
        return Doubt.NONE if _is_where_classes_are(table, columns, named) else Doubt.SOME

    def _label_by_name(self, table: Table, taken: Sequence[str | None]) -> str | None:
        return super()._label_by_name(table, taken) or next(
            (name for name in table.columns if name.lower() in LIST_COLUMNS and self._holds_labels(table, name)), None
        )

    def _label_left(self, table: Table, taken: Sequence[str | None]) -> str | None:
        left = _columns_left(table, taken)
        if len(left) == 1 and holds_label_lists(_sample(table, left[0])):
            return left[0]
        flags = len(left) > 1 and all(holds_flags(_sample(table, name)) for name in left)
        return ",".join(left) if flags else None

    def _holds_labels(self, table: Table, label: str) -> bool:
        columns = label_columns(table, label)
        if len(columns) > 1:
            return all(holds_flags(_sample(table, name)) for name in columns)
        return holds_label_lists(_sample(table, label))


class _Scored(_Labelled):
    """Texts with a number each."""

    def doubt(self, table: Table, columns: Mapping[str, str], named: Mapping[str, str | None]) -> Doubt:
        """Whole numbers are classes; other columns of numbers than that of a class may tell something else."""
        if not self._holds_labels(table, columns["label"]) or not is_continuous(table.column(columns["label"])):
            return Doubt.MUCH
        return Doubt.NONE if _is_where_classes_are(table, columns, named) else Doubt.SOME

    def _label_by_name(self, table: Table, taken: Sequence[str | None]) -> str | None:
        return super()._label_by_name(table, taken) or _by_name(table, SCORE_COLUMNS, taken)

    def _label_left(self, table: Table, taken: Sequence[str | None]) -> str | None:
        left = _columns_left(table, taken)
        return left[0] if len(left) == 1 else None

    def _holds_labels(self, table: Table, label: str) -> bool:
        first = next((value for value in _sample(table, label) if not is_absent(value)), None)
        return first is None or (
            not isinstance(first, bool | list | dict) and number_of(str(first).strip()) is not None
        )


def _is_where_classes_are(table: Table, columns: Mapping[str, str], named: Mapping[str, str | None]) -> bool:
    """Whether the label stands where one class a row would."""
    found = LABELLED.find(table, named)
    return found is not None and found["label"] == columns["label"]


def _sample(table: Table, column: str) -> Sequence[Any]:
    return (table.columns.get(column) or ())[:_SAMPLE_ROWS]


def _columns_left(table: Table, taken: Sequence[str | None]) -> list[str]:
    return [name for name in table.columns if name not in taken and name.lower() not in INDEX_COLUMNS]


def _by_name(table: Table, names: Sequence[str], taken: Sequence[str | None]) -> str | None:
    lowered = {name.lower(): name for name in table.columns if name not in taken}
    return next((lowered[name] for name in names if name in lowered), None)


def _text_left(table: Table, taken: Sequence[str | None]) -> str | None:
    """The only column that is left; in a file without a header, the only one that is not of classes."""
    left = _columns_left(table, taken)
    if not table.is_named and len(left) > 1:
        left = [name for name in left if not looks_like_classes(table.column(name))]
    return left[0] if len(left) == 1 else None


def _column(table: Table, part: Part, taken: Any) -> str | None:
    lowered = {name.lower(): name for name in table.columns if name not in taken}
    candidates = [lowered[name] for name in part.columns if name in lowered]
    if part.or_only and not candidates and len(table.columns) == 1 and not lowered.keys() & _TELLING:
        candidates = list(lowered.values())
    return next((name for name in candidates if _holds(table, name, part)), None)


def _holds(table: Table, column: str, part: Part) -> bool:
    """Whether the first value that is there can be meant; a column without any tells nothing against it."""
    values = table.columns.get(column)
    first = next((value for value in (values or ())[:_SAMPLE_ROWS] if not is_absent(value)), None)
    return values is not None and (first is None or part.holds(first))


# --- rows -------------------------------------------------------------------------------------------------------------


def _chat(cells: Cells) -> Row:
    return conversation(cells.get("messages"), system=cells.get("system"), tools=cells.get("tools"))


def _instruction(cells: Cells) -> Row:
    """Instruction and input as what the user says, the output as the answer; earlier turns stand before them."""
    turns: list[Message] = []
    if system := text_of(cells.get("system")):
        turns.append(Message("system", system))
    for question, answer in _history(cells.get("history")):
        turns += [Message("user", question), Message("assistant", answer)]
    request = "\n\n".join(filter(None, (text_of(cells.get("instruction")), text_of(cells.get("input")))))
    answer = text_of(cells.get("output"))
    return Conversation((*turns, Message("user", request), Message("assistant", answer)) if answer else ())


def _history(value: Any) -> list[tuple[str, str]]:
    pairs = [] if is_absent(value) else parsed(value)
    if not isinstance(pairs, list) or any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs):
        raise CellError("earlier turns as pairs of texts", f"{str(value)[:60]!r}")
    return [(text_of(question), text_of(answer)) for question, answer in pairs]


def _prompt_and_completion(cells: Cells) -> Row:
    return Completion(text_of(cells.get("prompt")), text_of(cells.get("completion")))


def _prompt_and_answer_turns(cells: Cells) -> Row:
    return _answered(cells.get("prompt"), cells.get("completion"), cells.get("tools"))


def _chosen(cells: Cells) -> Row:
    """The preferred answer. Without a prompt, what both answers begin with is the prompt."""
    prompt, chosen, rejected = (parsed(cells.get(part)) for part in ("prompt", "chosen", "rejected"))
    if is_turns(chosen):
        if is_absent(prompt):
            shared = _shared(chosen, rejected) if is_turns(rejected) else 0
            prompt, chosen = chosen[:shared], chosen[shared:]
        elif is_turns(prompt) and chosen[: len(prompt)] == prompt:
            chosen = chosen[len(prompt) :]
        return _answered(prompt or [], chosen, cells.get("tools"))
    if is_absent(prompt):
        whole, other = text_of(chosen), text_of(rejected)
        shared = _shared(whole, other)
        shared = len(whole[:shared].rpartition(" ")[0]) if shared < len(whole) else 0
        return Completion(whole[:shared].strip(), whole[shared:].strip())
    return Completion(text_of(prompt), text_of(chosen))


def _answer_pair(cells: Cells) -> Row:
    """As TRL reads preferences (``trl.data_utils.extract_prompt``): texts stay as they are, blanks included; without a
    prompt, what both answers begin with is the prompt. Turns of the prompt that the answers repeat are left out.
    """
    prompt, chosen, rejected = (cells.get(part) for part in ("prompt", "chosen", "rejected"))
    if is_turns(chosen) != is_turns(rejected) and not (is_absent(chosen) or is_absent(rejected)):
        raise CellError("both answers as texts or both as turns", "one of each")
    if is_turns(chosen) or is_turns(rejected) or is_turns(prompt):
        return _pair_of_turns(prompt, chosen, rejected, tools_of(cells.get("tools")))
    before, first, second = (_as_written(value) for value in (prompt, chosen, rejected))
    if before or not (first.strip() and second.strip()):
        return AnswerPair(before, first, second)
    shared = _shared_by_answers(first, second)
    shared -= first[:shared].endswith(" ")  # a blank belongs to the answer, as most tokenizers have it
    return AnswerPair(first[:shared], first[shared:], second[shared:])


def _pair_of_turns(prompt: Any, chosen: Any, rejected: Any, tools: str) -> AnswerPair:
    first, second = (
        messages_of(answer) if is_turns(answer) else [Message("assistant", text)] if (text := text_of(answer)) else []
        for answer in (chosen, rejected)
    )
    shared = _shared_by_answers(first, second)
    asked = "" if is_turns(prompt) else text_of(prompt)
    before = messages_of(prompt) if is_turns(prompt) else [Message("user", asked)] if asked else []
    if not before or _repeats(first[:shared], before, asked):
        return AnswerPair(tuple(first[:shared]), tuple(first[shared:]), tuple(second[shared:]), tools)
    return AnswerPair(tuple(before), tuple(first), tuple(second), tools)


def _repeats(shared: Sequence[Message], prompt: Sequence[Message], asked: str) -> bool:
    """Whether what both answers begin with is the prompt, or ends with the text that was asked."""
    said = [(message.role, (message.content or "").strip()) for message in shared]
    if asked:
        return bool(said) and said[-1] == ("user", asked)
    return said == [(message.role, (message.content or "").strip()) for message in prompt]


def _as_written(value: Any) -> str:
    """Text with the blanks around it, since a prompt and its answer are joined as they are."""
    return value if isinstance(value, str) and not is_absent(value) else text_of(value)


def _shared_by_answers(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many items both begin with; one at least is left of each."""
    return max(0, min(_shared(first, second), len(first) - 1, len(second) - 1))


def _shared(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many items both begin with."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _answered(prompt: Any, answer: Any, tools: Any) -> Row:
    """A conversation of which only what the assistant says in the answer is learned."""
    before = [Message("user", prompt)] if isinstance(prompt, str) and not is_turns(prompt) else messages_of(prompt)
    after = [Message("assistant", answer)] if isinstance(answer, str) and not is_turns(answer) else messages_of(answer)
    read_only = [Message(m.role, m.content, m.more, is_learned=False) for m in before]
    return Conversation((*read_only, *after), tools_of(tools))


def _source_and_target(cells: Cells) -> Row:
    source, target = text_of(cells.get("source")), text_of(cells.get("target"))
    if source and not target:
        raise CellError("a target for every source", "an empty one", "write its target, or remove that row")
    return SourceAndTarget(source, target, (target,))


def _question_about_text(cells: Cells) -> Row:
    """As T5 was trained on SQuAD (Raffel et al. 2020, arXiv:1910.10683, appendix D.15); questions without an answer
    are not learned.
    """
    answers = parsed(cells.get("answers"))
    if isinstance(answers, dict):
        answers = parsed(answers.get("text", []))
    listed = answers if isinstance(answers, list | tuple) else [answers]
    texts = tuple(dict.fromkeys(text for answer in listed if (text := text_of(answer))))
    source = f"question: {text_of(cells.get('question'))} context: {text_of(cells.get('context'))}"
    return SourceAndTarget(source, texts[0] if texts else "", texts)


def _plain(cells: Cells) -> Row:
    return PlainText(text_of(cells.get("text")))


# --- entries ----------------------------------------------------------------------------------------------------------


def _is_chat(value: Any) -> bool:
    return is_turns(value) and not turns_are_from_and_value(value)


def _is_sharegpt(value: Any) -> bool:
    return is_turns(value) and turns_are_from_and_value(value)


_TOOLS = Part("tools", TOOL_COLUMNS, lambda value: True, required=False)
_SYSTEM = Part("system", ("system", "system_prompt"), is_text, required=False)
_PROMPT = Part("prompt", ("prompt",), is_text, option="text_column")
_PREFERENCE = (
    Part("prompt", ("prompt", "question", "instruction", "input"), is_completion, required=False, option="text_column"),
    Part("chosen", ("chosen",), is_completion),
    Part("rejected", ("rejected",), is_completion),
    _TOOLS,
)
_PREFERRED = "--task causal-lm --format chosen trains the chosen answers alone"

CHAT = RowFormat(
    "chat",
    "chats",
    "conversations",
    "conversation",
    "`messages` (or `conversations`, `chat`, ...): a list of `{role, content}`, also as JSON text; optional `tools`,"
    " `system`",
    "loss on assistant turns",
    (Part("messages", CHAT_COLUMNS, _is_chat, option="text_column"), _TOOLS, _SYSTEM),
    _chat,
)
SHAREGPT = RowFormat(
    "sharegpt",
    "ShareGPT chats",
    "conversations",
    "conversation",
    "`conversations` (or `messages`, ...): a list of `{from, value}` by human and gpt; optional `system`, `tools`",
    "loss on assistant turns",
    (Part("messages", ("conversations", *CHAT_COLUMNS), _is_sharegpt, option="text_column"), _TOOLS, _SYSTEM),
    _chat,
)
STEPWISE = RowFormat(
    "stepwise",
    "stepwise supervision",
    "solutions",
    "conversation",
    "`prompt`, and lists in `completions` and `labels`",
    "refused",
    (_PROMPT, Part("completions", ("completions",), is_list), Part("labels", ("labels",), is_list)),
    refused="it trains reward models of steps, which no task here does",
    instead="join the steps of right solutions to one text in a column `completion`",
)
PREFERENCE = RowFormat(
    "preference",
    "preference data",
    "pairs of answers",
    "answer-pair",
    "`chosen` and `rejected` (texts or turns), usually with `prompt`; optional `tools`",
    "loss on which answer is preferred",
    _PREFERENCE,
    _answer_pair,
    instead=_PREFERRED,
)
CHOSEN = RowFormat(
    "chosen",
    "chosen answers of preference data",
    "completions",
    "conversation",
    "only by `--format chosen`: columns as above",
    "loss on the chosen answers",
    _PREFERENCE,
    _chosen,
    only_named=True,
)
UNPAIRED = RowFormat(
    "unpaired-preference",
    "unpaired preference data",
    "judged answers",
    "conversation",
    "`prompt`, `completion`, and true or false in `label`",
    "refused, since answers that are judged bad would be learned like good ones",
    (
        Part("prompt", ("prompt",), is_completion, option="text_column"),
        Part("completion", ("completion", "response"), is_completion, option="text_pair_column"),
        Part("label", ("label", "labels"), is_flag),
    ),
    refused="no task learns from answers that are judged one by one",
    instead="keep the rows whose label is true, and pass --format prompt-completion",
)
CHAT_COMPLETION = RowFormat(
    "chat-completion",
    "prompts and answers in turns",
    "completions",
    "conversation",
    "`prompt` and `completion`, one or both as a list of `{role, content}`; optional `tools`",
    "loss on assistant turns of the completion",
    (
        Part("prompt", ("prompt",), is_completion, option="text_column"),
        Part("completion", ("completion", "response"), is_turns, option="text_pair_column"),
        _TOOLS,
    ),
    _prompt_and_answer_turns,
)
ALPACA = RowFormat(
    "alpaca",
    "Alpaca instructions",
    "instructions",
    "conversation",
    "`instruction` and `output` (or `response`, `answer`); optional `input` (or `context`), `system`, `history`",
    "loss on the output; instruction and input are one user turn",
    (
        Part("instruction", ("instruction",), is_text, option="text_column"),
        Part("output", ("output", "response", "answer"), is_text, option="text_pair_column"),
        Part("input", ("input", "context"), is_text, required=False),
        _SYSTEM,
        Part("history", ("history",), is_list, required=False),
    ),
    _instruction,
    names_tell=True,
)
PROMPT_COMPLETION = RowFormat(
    "prompt-completion",
    "prompts and completions",
    "completions",
    "completion",
    "`prompt` and `completion` (or `response`), `question` and `answer`, `input` and `output`, `inputs` and"
    " `targets`; as plain text, without a chat template",
    "loss on the completion",
    (
        Part("prompt", ("prompt", "question", "query", "input", "inputs"), is_text, option="text_column"),
        Part(
            "completion",
            ("completion", "response", "answer", "output", "targets"),
            is_text,
            option="text_pair_column",
        ),
    ),
    _prompt_and_completion,
)
LABELLED = _Labelled(
    "labelled",
    "labelled texts",
    "rows",
    "labelled",
    "a text column (" + ", ".join(f"`{name}`" for name in TEXT_COLUMNS) + "), or two ("
    + ", ".join(f"`{a}`/`{b}`" for a, b in TEXT_PAIRS) + "), and a label column ("
    + ", ".join(f"`{name}`" for name in LABEL_COLUMNS) + ")",
    "loss on the class",
)  # fmt: skip
WORDS_WITH_TAGS = _Tagged(
    "tokens",
    "words with tags",
    "rows",
    "tagged",
    "`tokens` (or `words`) and `tags` (or `ner_tags`, `pos_tags`, `labels`): lists of the same length; CoNLL files",
    "loss on the tag of every word",
    (
        Part("tokens", ("tokens", "words"), is_list, option="text_column"),
        Part("tags", ("tags", "ner_tags", "pos_tags", "labels", "label"), is_list, option="label_column"),
    ),
    lambda cells: words_with_tags(cells["tokens"], cells["tags"], cells.get("names", ())),
)
TEXT_WITH_SPANS = _Tagged(
    "spans",
    "texts with spans",
    "rows",
    "tagged",
    "a text column, and `spans` (or `entities`, `label`, ...): a list of `{start, end, label}` or `[start, end,"
    " label]`; `end` stands behind the last character",
    "loss on the tag of every word",
    (
        Part("text", TEXT_COLUMNS, is_text, option="text_column"),
        Part("spans", ("spans", "entities", "ner", "labels", "label"), is_spans, option="label_column"),
    ),
    lambda cells: text_with_spans(cells["text"], cells["spans"]),
)
_LABELLED_TEXT = "a text, or two, as above, and "
MULTI_LABELLED = _MultiLabelled(
    "multi-labelled",
    "texts with several labels",
    "rows",
    "multi-labelled",
    _LABELLED_TEXT + "a label column of lists (also as JSON text), or a column of 0 and 1 for every label"
    " (`--label-column a,b,c`)",
    "loss on every label",
)  # fmt: skip
SCORED = _Scored(
    "scored",
    "texts with a number",
    "rows",
    "scored",
    _LABELLED_TEXT + "a label column (also " + ", ".join(f"`{name}`" for name in SCORE_COLUMNS) + ") of numbers that"
    " are not all whole; whole numbers are classes, unless `--task text-regression` says otherwise",
    "loss on the number",
)  # fmt: skip
QUESTION_CONTEXT = RowFormat(
    "question-context",
    "questions about a text",
    "questions",
    "source-target",
    "`question`, `context` and `answers`: a text, a list of texts, or `{text: [...], answer_start: [...]}` (SQuAD)",
    "loss on the first answer",
    (
        Part("question", ("question",), is_text),
        Part("context", ("context",), is_text, option="text_column"),
        Part("answers", ("answers", "answer"), lambda value: True, option="text_pair_column"),
    ),
    _question_about_text,
    short_answers=True,
)
SOURCE_TARGET = RowFormat(
    "source-target",
    "sources and targets",
    "pairs",
    "source-target",
    "only for `--task seq2seq-lm`: "
    + ", ".join(f"`{a}`/`{b}`" for a, b in SOURCES_AND_TARGETS) + " or two columns that are named",
    "loss on the target",
    (
        Part("source", tuple(dict.fromkeys(a for a, _ in SOURCES_AND_TARGETS)), is_text, option="text_column"),
        Part("target", tuple(dict.fromkeys(b for _, b in SOURCES_AND_TARGETS)), is_text, option="text_pair_column"),
    ),
    _source_and_target,
)  # fmt: skip
PROMPT_ONLY = RowFormat(
    "prompt-only",
    "prompts without answers",
    "prompts",
    "conversation",
    "`prompt`, and no column with an answer",
    "refused, since there is nothing to learn",
    (_PROMPT,),
    refused="there is no answer to learn",
    instead="add a column `completion` with one text a row; --format text --text-column prompt trains the prompts as"
    " plain text",
)
TEXT = RowFormat(
    "text",
    "plain texts",
    "documents",
    "text",
    "a text column (" + ", ".join(f"`{name}`" for name in TEXT_COLUMNS) + "), or the only column",
    "loss on all of the text",
    (Part("text", TEXT_COLUMNS, is_text, option="text_column", or_only=True),),
    _plain,
)
RUNNING_TEXT = RowFormat(
    "running-text",
    "running text",
    "paragraphs",
    "text",
    "a file with the suffix .txt, .text or .md",
    "loss on all of the text",
)

_BUILT_IN = (
    CHAT, SHAREGPT, STEPWISE, PREFERENCE, CHOSEN, UNPAIRED, CHAT_COMPLETION, ALPACA, PROMPT_COMPLETION,
    WORDS_WITH_TAGS, TEXT_WITH_SPANS, MULTI_LABELLED, SCORED, LABELLED, TEXT, PROMPT_ONLY,
    QUESTION_CONTEXT, SOURCE_TARGET, RUNNING_TEXT,
)  # fmt: skip

FORMATS: Registry[RowFormat] = Registry("advisor.formats", "row format", RowFormat, lambda: _BUILT_IN)


def recognise(
    table: Table, kinds: Sequence[RowKind], named: Mapping[str, str | None], most_doubt: Doubt = Doubt.NONE
) -> tuple[RowFormat, dict[str, str]] | None:
    """The first format that makes rows of these kinds and recognises the table, and its columns by part."""
    for row_format in FORMATS.all():
        if row_format.kind in kinds and not row_format.only_named:
            columns = row_format.find(table, named)
            if columns is None or (row_format.names_tell and row_format.has_other_names(columns)):
                continue
            if row_format.doubt(table, columns, named) <= most_doubt:
                return row_format, columns
    return None
