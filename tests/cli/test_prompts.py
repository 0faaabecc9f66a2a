"""The reader of prompt files."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blossom_async import ConfigurationError
from blossom_async.cli.prompts.entry import BrokenLine, Entry
from blossom_async.cli.prompts.file import PromptFile
from blossom_async.cli.prompts.lines import MAX_LINE
from blossom_async.cli.prompts.reading import entries
from blossom_async.cli.prompts.records import MAX_RECORD
from blossom_async.cli.prompts.settings import MAX_DEPTH
from blossom_async.models import VISIBLE

# What a person may write on one line: any text without line ends, not a comment, something to be seen.
PROMPTS = (
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=60)
    .map(str.strip)
    .filter(lambda text: VISIBLE.search(text) and not text.startswith(("#", "\ufeff")))
)
PLAIN = st.text(st.characters(categories=("Lu", "Ll", "Nd")), min_size=1, max_size=20)


def read(data: bytes | str, kind: str, notices: list[str] | None = None) -> list[Entry]:
    raw = data.encode() if isinstance(data, str) else data
    notice = notices.append if notices is not None else lambda _: None
    return list(entries(io.BufferedReader(io.BytesIO(raw)), kind, "prompts", notice))


def problem(entry: Entry) -> str:
    with pytest.raises(BrokenLine) as caught:
        dict(entry)
    return str(caught.value)


def test_txt_has_a_prompt_a_line() -> None:
    """Blank lines and comments are skipped, and the lines keep their numbers."""
    found = read("# lakes\n\na lake \r\n  # not this\n\ta sea # 2\n", "txt")
    assert [(entry.line, dict(entry)) for entry in found] == [
        (3, {"prompt": "a lake"}),
        (5, {"prompt": "a sea # 2"}),
    ]


@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "jsonl"])
def test_a_byte_order_mark_is_no_text(kind: str) -> None:
    """A file saved by a Windows editor reads like any other."""
    text = {"txt": "a lake", "csv": "prompt\na lake", "tsv": "prompt\na lake", "jsonl": '"a lake"'}[kind]
    assert [entry.prompt for entry in read(b"\xef\xbb\xbf" + text.encode(), kind)] == ["a lake"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "jsonl"])
def test_any_line_end_will_do(kind: str, end: str) -> None:
    """CR alone too, as Excel for Mac writes it."""
    lines = {"txt": ["a fox", "a cat"], "jsonl": ['"a fox"', '"a cat"']}.get(
        kind, ["prompt", "a fox", "a cat"]
    )
    found = read("".join(f"{line}{end}" for line in lines), kind)
    assert [entry.prompt for entry in found] == ["a fox", "a cat"]
    assert [entry.line for entry in found] == ([1, 2] if len(lines) == 2 else [2, 3])


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("kind", ["txt", "tsv"])
def test_other_unicode_files_are_read_by_their_mark(kind: str, encoding: str) -> None:
    """As spreadsheets save "Unicode text"; more than one buffer of it."""
    prompts = [f"a fox {number} 木🦊" for number in range(2000)]
    lines = ["\ufeffprompt", *prompts] if kind == "tsv" else [f"\ufeff{prompts[0]}", *prompts[1:]]
    found = read("\r\n".join(lines).encode(encoding), kind)
    assert [entry.prompt for entry in found] == prompts


def test_half_a_character_of_utf_16_fails_alone() -> None:
    """It does not become a replacement character in a prompt."""
    data = "\ufeffa fox\n".encode("utf-16-le") + b"a\0\x00\xd8b\0\n\0" + "a cat\n".encode("utf-16-le") + b"x"
    found = read(data, "txt")
    assert [entry.prompt for entry in found] == ["a fox", None, "a cat", None]
    assert "the line is not UTF-8" in problem(found[1])


def test_a_mark_inside_a_file_is_no_text() -> None:
    """Files that begin with one were joined."""
    assert [entry.prompt for entry in read("a fox\n\ufeffa cat\n", "txt")] == ["a fox", "a cat"]


def test_a_nul_far_into_the_file_fails_alone() -> None:
    """The first one makes a file binary, a late one a line."""
    found = read(b"a fox\n" * 5000 + b"a\0cat\na dog\n", "txt")
    assert "the line has a NUL character at 2" in problem(found[5000])
    assert found[5001].prompt == "a dog"


def test_a_line_without_anything_to_see_is_blank() -> None:
    """Zero-width characters come along by copying."""
    assert [entry.prompt for entry in read("a fox\n\u200b\n \u2060 \na cat", "txt")] == ["a fox", "a cat"]


def test_the_last_line_needs_no_end() -> None:
    """A file may end without a newline."""
    assert [entry.prompt for entry in read("a lake\na sea", "txt")] == ["a lake", "a sea"]


@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "jsonl"])
def test_a_line_that_is_no_text_fails_alone(kind: str) -> None:
    """Bytes that are not UTF-8 cost their own line and say where they are."""
    quote = '"' if kind == "jsonl" else ""
    lines = [f"{quote}a lake{quote}".encode(), b"caf\xe9", f"{quote}a sea{quote}".encode()]
    found = read(b"\n".join([b"prompt", *lines] if kind in {"csv", "tsv"} else lines), kind)
    assert [entry.prompt for entry in found] == ["a lake", None, "a sea"]
    assert "the line is not UTF-8 (byte 0xe9 at 4)" in problem(found[1])


def test_a_line_without_an_end_in_sight_fails_alone() -> None:
    """A line of more than a mebibyte is skipped without being held in memory."""
    found = read(b"a lake\n" + b"x" * (2 * MAX_LINE + 5) + b"\na sea\n", "txt")
    assert [(entry.line, entry.prompt) for entry in found] == [(1, "a lake"), (2, None), (3, "a sea")]
    assert "longer than 1,048,576 bytes" in problem(found[1])


def test_columns_named_as_options_are_an_items_own() -> None:
    """Cells become what their option takes; an empty cell is no setting."""
    found = read(
        "Prompt,width,Negative Prompt,seed,transparency,metadata,format\n"
        'a lake, 640 ,boats,7,TRUE,"{""page"": ""1""}",webp\n'
        "a sea,,,,no,,\n",
        "csv",
    )
    assert dict(found[0]) == {
        "prompt": "a lake",
        "width": 640,
        "negative_prompt": "boats",
        "seed": 7,
        "transparency": True,
        "metadata": {"page": "1"},
        "format": "webp",
    }
    assert dict(found[1]) == {"prompt": "a sea", "transparency": False}


@pytest.mark.parametrize("cell", ["1024px", "1e3", "10.5", "1,024", "0x10", "١٠", "9" * 5000, "NaN"])
def test_a_cell_that_is_no_number_stays_text(cell: str) -> None:
    """So that ``ImageRequest`` refuses it in its own words, and nothing is guessed."""
    assert read(f'prompt,width\na lake,"{cell}"\n', "csv")[0]["width"] == cell


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("width", "640.0", 640),
        ("width", " 640 ", 640),
        ("seed", "7.", 7),
        ("transparency", "on", True),
        ("transparency", "F", False),
        ("transparency", "1.0", True),
        ("metadata", '{"page": "1"}', {"page": "1"}),
        ("allowed_domains", '["a.com"]', ["a.com"]),
        ("model", " flux ", "flux"),
    ],
)
def test_a_value_means_the_same_in_csv_and_jsonl(option: str, text: str, value: object) -> None:
    """Data frames write 640.0 for 640, databases and spreadsheets what they like."""
    quoted = text.replace('"', '""')
    assert read(f'prompt,{option}\na lake,"{quoted}"\n', "csv")[0][option] == value
    assert read(orjson.dumps({"prompt": "a lake", option: text}), "jsonl")[0][option] == value
    assert read(orjson.dumps({"prompt": "a lake", option: value}), "jsonl")[0][option] == value


@pytest.mark.parametrize("empty", [None, "", " "])
def test_nothing_is_no_setting(empty: str | None) -> None:
    """null as an empty cell: data frames write every column in every row."""
    found = read(orjson.dumps({"prompt": "a lake", "width": empty, "metadata": empty}), "jsonl")
    assert dict(found[0]) == {"prompt": "a lake"}
    assert dict(read(f"prompt,width,metadata\na lake,{empty or ''},\n", "csv")[0]) == {"prompt": "a lake"}


def test_columns_that_are_no_options_are_said_once() -> None:
    """They are ignored, and a person can see that they are."""
    notices: list[str] = []
    found = read("Prompt\tCategory\tNote\na lake\tx\t\na sea\ty\t\n", "tsv", notices)
    assert [dict(entry) for entry in found] == [{"prompt": "a lake"}, {"prompt": "a sea"}]
    assert notices == ["prompts: ignored columns that are not options: Category, Note"]


def test_names_that_are_no_options_are_said_once_in_jsonl_too() -> None:
    """As columns are; the lines are drawn."""
    notices: list[str] = []
    found = read(
        '{"Prompt": "a lake", "id": 7}\n{"id": 8, "Negative Prompt": "x", "prompt": "a"}\n', "jsonl", notices
    )
    assert [dict(entry) for entry in found] == [{"prompt": "a lake"}, {"prompt": "a", "negative_prompt": "x"}]
    assert notices == ["prompts: ignored, not an option: id"]


@pytest.mark.parametrize(("title", "meant"), [("widht", "width"), ("Negative-Promt", "negative_prompt")])
def test_a_name_that_is_nearly_an_option_is_refused(title: str, meant: str) -> None:
    """A slip of the finger does not pass for a note: the pictures would be paid, and not as wanted."""
    says = f"unknown option '{title}'. Did you mean '{meant}'? Rename or remove it"
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        read(f"prompt,{title},Note\na lake,3,x\n", "csv")
    found = read(orjson.dumps({"prompt": "a lake", title: 3}) + b'\n"a sea"\n', "jsonl")
    assert problem(found[0]) == says
    assert found[1].prompt == "a sea"


def test_the_columns_of_a_shop_are_no_misspelt_options() -> None:
    """A weight is no height."""
    read_table = read("prompt,weight,quantity,tags\na lake,3,1,blue\n", "csv")
    assert [dict(entry) for entry in read_table] == [{"prompt": "a lake"}]


def test_a_name_beside_the_option_it_resembles_is_another_one() -> None:
    """``prompt_id`` is no misspelt ``prompt`` where there is one."""
    assert read("prompt_id,prompt,seed,seeds\n7,a lake,1,2\n", "csv")[0]["prompt"] == "a lake"
    assert read('{"prompt": "a lake", "prompt_id": 7}', "jsonl")[0]["prompt"] == "a lake"


@pytest.mark.parametrize(
    ("header", "kind", "says"),
    [
        ("prompt,width", "tsv", "has prompt,width, which looks separated by commas; allowed: tabs in .tsv"),
        ("Text;width", "csv", "has Text, width. Rename 'Text' to 'prompt' if that is it"),
        ("Text,width", "csv", "has Text, width. Rename 'Text' to 'prompt' if that is it"),
        ("id,prompts", "csv", "Rename 'prompts' to 'prompt'"),
        ("caption", "csv", "Rename 'caption' to 'prompt'"),
        ("promt", "csv", "Rename 'promt' to 'prompt'"),
    ],
)
def test_a_header_without_prompts_says_what_may_be_meant(header: str, kind: str, says: str) -> None:
    """Another separator, or another name."""
    with pytest.raises(ConfigurationError) as caught:
        read(f"{header}\nx\n", kind)
    assert "there is no column 'prompt'" in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize("header", ["text,width", "", "\n"])
def test_a_table_needs_a_column_of_prompts(kind: str, header: str) -> None:
    """Without it there is nothing to make pictures of."""
    with pytest.raises(ConfigurationError, match="there is no column 'prompt'; the first line has"):
        read(f"{header}\nx,y\n", kind)


def test_a_column_twice_is_refused() -> None:
    """Which one counts is not guessed."""
    with pytest.raises(ConfigurationError, match="column 'width' is there twice"):
        read("prompt,width,Width\n", "csv")


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("first", ["", "sep={}\n"])
def test_a_csv_file_is_separated_as_its_header_is(mark: str, first: str) -> None:
    """As spreadsheets write it in countries with a decimal comma; Excel's ``sep=`` counts."""
    rows = [["id", "prompt", "width"], ["1", f'"a fox{mark} a cat"', "640"]]
    found = read(first.format(mark) + "".join(mark.join(row) + "\n" for row in rows), "csv")
    assert dict(found[0]) == {"prompt": f"a fox{mark} a cat", "width": 640}


def test_a_blank_before_a_quote_is_no_text() -> None:
    """The quotes are the file's, not the prompt's."""
    assert read('seed, prompt\n7, "a fox, red"\n', "csv")[0].prompt == "a fox, red"


@pytest.mark.parametrize("row", ["a lake", "a lake,640,7,8"])
def test_a_row_with_fields_missing_or_left_over_fails_alone(row: str) -> None:
    """Its cells cannot be told apart."""
    found = read(f"prompt,width,seed\n{row}\na sea,,\n", "csv")
    assert "fields; allowed: 3, as the header" in problem(found[0])
    assert found[1].prompt == "a sea"


def test_a_quoted_field_may_span_lines() -> None:
    """RFC 4180: quotes keep commas, quotes and line ends."""
    found = read('prompt,seed\n"a lake,\nwith ""boats""",7\na sea,8\n', "csv")
    assert [(entry.line, entry.prompt) for entry in found] == [(2, 'a lake,\nwith "boats"'), (4, "a sea")]


@pytest.mark.parametrize("broken", ['"a lake', '"a lake" x', 'a,"b"c'])
def test_a_broken_line_of_csv_costs_only_itself(broken: str) -> None:
    """A quote that was forgotten does not swallow the rest of the file."""
    rest = "".join(f"picture {number},\n" for number in range(2 * MAX_RECORD))
    found = read(f"prompt,seed\nfirst,\n{broken}\n{rest}", "csv")
    assert "the line is not CSV" in problem(found[1])
    assert [entry.line for entry in found] == list(range(2, 2 * MAX_RECORD + 4))
    assert all(entry.prompt for entry in found if entry.line != 3)


def test_quotes_in_tsv_are_text() -> None:
    """As in the lists people publish; only a spreadsheet's quoting is undone."""
    found = read('prompt\n"GIGGLE" in thick letters\n"say ""hi"""\n5" of snow\n', "tsv")
    assert [entry.prompt for entry in found] == ['"GIGGLE" in thick letters', 'say "hi"', '5" of snow']


@pytest.mark.parametrize(
    ("cell", "prompt"),
    [
        ('"a fox in the snow,\nan old woodcut"', "a fox in the snow,\nan old woodcut"),
        ('"a ""fox""\n\nin\tsnow"', 'a "fox"\n\nin\tsnow'),
        ('"a fox\twith a tab"', "a fox\twith a tab"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_quoted_field_of_tsv_may_span_lines(cell: str, prompt: str, end: str) -> None:
    """As spreadsheets save a cell with line breaks: one prompt, not two halves."""
    found = read(f"seed\tprompt\tmodel\n5\t{cell}\tflux\n6\ta cat\t\n".replace("\n", end), "tsv")
    assert dict(found[0]) == {"seed": 5, "prompt": prompt, "model": "flux"}
    assert dict(found[1]) == {"seed": 6, "prompt": "a cat"}


@pytest.mark.parametrize("broken", ['"a fox', '"a fox\t', '"a fox\n"in" snow'])
def test_a_quote_of_tsv_that_is_not_closed_fails_alone(broken: str) -> None:
    """Half a prompt is not drawn, and no other line is swallowed."""
    rest = "".join(f"picture {number}\n" for number in range(2 * MAX_RECORD))
    found = read(f"prompt\nfirst\n{broken}\n{rest}", "tsv")
    assert "the line is not TSV" in problem(found[1])
    assert [entry.prompt for entry in found if entry.prompt][-2 * MAX_RECORD :] == rest.splitlines()


def test_jsonl_has_an_object_or_a_string_a_line() -> None:
    """Blank lines count, and are none."""
    found = read('{"prompt": "a lake", "width": 640}\n\n"a sea"\n', "jsonl")
    assert [(entry.line, dict(entry)) for entry in found] == [
        (1, {"prompt": "a lake", "width": 640}),
        (3, {"prompt": "a sea"}),
    ]


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "a", "prompt": "b"}',
        '{"prompt": "a", "Prompt": "b"}',
        '{"prompt": "a", "metadata": {"x": "1", "x": "2"}}',
        '{"prompt": "a", "id": 1, "id": 2}',
    ],
)
def test_a_name_twice_in_an_object_fails_alone(line: str) -> None:
    """Which one counts is not guessed."""
    found = read(f'{line}\n"a sea"\n', "jsonl")
    assert "twice; allowed: each name once; remove one" in problem(found[0])
    assert found[1].prompt == "a sea"


def test_another_name_for_the_prompt_is_pointed_out() -> None:
    """As in the header of a table."""
    (entry,) = read('{"text": "a lake"}', "jsonl")
    assert problem(entry) == "the line has no 'prompt'; rename 'text' to 'prompt' if that is it"


@pytest.mark.parametrize(
    "document",
    [
        '[\n{"prompt": "a"},\n{"prompt": "b"}\n]',
        '[{"prompt": "a"},\n{"prompt": "b"}]',
        '{\n  "prompt": "a"\n}',
        '{"prompts": [\n"a"\n]}',
    ],
)
def test_one_json_document_over_several_lines_is_refused(document: str) -> None:
    """Before one of its prompts is drawn and the others fail."""
    with pytest.raises(ConfigurationError, match=r"one JSON document over several lines; allowed: .*jq"):
        read(document, "jsonl")
    found = read(orjson.dumps([{"prompt": "a"}]), "jsonl")
    assert "the line is an array; allowed: an object of options on each line" in problem(found[0])


@pytest.mark.parametrize("line", ['{"prompt": "a', "[1]", "7", "null", '{"width": NaN}', '"\\ud800"'])
def test_a_broken_line_of_jsonl_fails_alone(line: str) -> None:
    """What is no object and no string says what it is."""
    found = read(f'{line}\n"a sea"\n', "jsonl")
    assert "the line is" in problem(found[0])
    assert found[1].prompt == "a sea"


@pytest.mark.parametrize("outer", ["{}", '{{"prompt": {}}}', '{{"prompt": "a", "metadata": {{"a": {}}}}}'])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 1000])
def test_lists_without_end_in_each_other_fail_alone(outer: str, depth: int) -> None:
    """They are JSON, and could not even be shown."""
    found = read(outer.format("[" * depth + "]" * depth) + '\n"a sea"\n', "jsonl")
    assert problem(found[0]) == f"the line nests lists or objects more than {MAX_DEPTH} deep"
    assert repr(found[0])
    assert found[1].prompt == "a sea"


def test_a_cell_of_lists_in_each_other_stays_text() -> None:
    """For ``ImageRequest`` to refuse."""
    deep = "[" * 200 + "]" * 200
    assert read(f"prompt,metadata\na lake,{deep}\n", "csv")[0]["metadata"] == deep


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "it is binary"),
        ("a lake".encode("utf-16-le"), "or UTF-16 without a byte order mark"),
    ],
)
def test_what_is_no_text_is_refused_whole(data: bytes, message: str) -> None:
    """A picture given for a prompt file does not become a thousand failures."""
    with pytest.raises(ConfigurationError, match=message):
        read(data, "txt")


def test_reading_is_lazy() -> None:
    """No more is read than was asked for, whatever the file's length."""

    class Endless(io.RawIOBase):
        taken = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            part = (b"a lake\n" * (len(buffer) // 7 + 1))[: len(buffer)]
            buffer[:] = part
            self.taken += len(part)
            return len(part)

    endless = Endless()
    found: Iterator[Entry] = entries(io.BufferedReader(endless), "txt", "prompts")
    for _ in range(10_000):
        next(found)
    assert endless.taken < 10_000 * 7 + 3 * io.DEFAULT_BUFFER_SIZE


@given(st.lists(PROMPTS))
def test_txt_keeps_every_prompt(prompts: list[str]) -> None:
    """Whatever the script."""
    assert [entry.prompt for entry in read("\n".join(prompts), "txt")] == prompts


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")),
            st.integers(0, 2**31 - 1),
        )
    )
)
def test_csv_keeps_what_a_writer_wrote(rows: list[tuple[str, int]]) -> None:
    """Every prompt and setting comes back."""
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(["prompt", "seed"])
    writer.writerows(rows)
    found = [dict(entry) for entry in read(written.getvalue(), "csv")]
    assert found == [{"prompt": prompt.strip(), "seed": seed} for prompt, seed in rows]


@given(
    st.lists(
        st.fixed_dictionaries(
            {"prompt": PROMPTS},
            optional={"seed": st.integers(0, 9), "model": PLAIN, "require_auth": st.booleans()},
        )
    )
)
def test_jsonl_keeps_what_a_writer_wrote(objects: list[dict[str, object]]) -> None:
    """Every setting comes back."""
    lines = b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in objects)
    assert [dict(entry) for entry in read(lines, "jsonl")] == objects


@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0\ufeff")),
            min_size=2,
            max_size=2,
        )
    )
)
def test_tsv_keeps_what_a_spreadsheet_wrote(rows: list[list[str]]) -> None:
    """Every cell comes back, whatever quotes, tabs and line breaks are in it."""
    written = io.StringIO()
    writer = csv.writer(written, "excel-tab", quoting=csv.QUOTE_ALL)
    writer.writerows([["prompt", "note"], *rows])
    found = [entry.prompt for entry in read(written.getvalue(), "tsv")]
    assert found == [prompt.strip() for prompt, note in rows if prompt or note]


@given(st.binary(max_size=400), st.sampled_from(["txt", "csv", "tsv", "jsonl"]))
def test_no_bytes_break_the_reader(data: bytes, kind: str) -> None:
    """Anything is entries with rising line numbers, or no prompt file."""
    try:
        found = read(b"prompt,seed\n" + data if kind == "csv" else data, kind)
    except ConfigurationError:
        return
    lines = [entry.line for entry in found]
    assert lines == sorted(set(lines))


@given(
    st.lists(PLAIN, min_size=1, max_size=8), st.integers(0, 7), st.sampled_from(['"', '"x', 'x,"', '"a"b'])
)
def test_a_broken_row_never_costs_another(prompts: list[str], at: int, broken: str) -> None:
    """All the rows around it are read."""
    rows = [f"{prompt}," for prompt in prompts]
    rows.insert(at % (len(rows) + 1), broken)
    found = read("prompt,seed\n" + "\n".join(rows), "csv")
    assert [entry.prompt for entry in found if entry.prompt is not None] == prompts
    assert len(found) == len(rows)


async def test_a_file_is_read_from_its_beginning_after_counting(tmp_path: Path) -> None:
    """The count is for the progress bar and takes nothing away."""
    path = tmp_path / "prompts.csv"
    path.write_text("prompt\na lake\na sea\na wood\n", "utf-8")
    with PromptFile(str(path)) as source:
        assert source.count(None) == 3
        assert source.count(2) == 2
        assert [entry.prompt async for entry in source.entries(2, lambda _: None)] == ["a lake", "a sea"]


async def test_a_pipe_is_read_once_in_a_thread(tmp_path: Path) -> None:
    """It cannot be counted, and waiting for its next line does not hold the event loop up."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    opened = asyncio.create_task(asyncio.to_thread(PromptFile, str(path)))
    with await asyncio.to_thread(path.open, "w") as writer, await opened as source:
        assert source.count(None) is None
        found = source.entries(None, lambda _: None)
        writer.write("a lake\n")
        writer.flush()
        assert (await anext(found)).prompt == "a lake"
        writer.write("a sea")
        writer.close()
        assert [entry.prompt async for entry in found] == ["a sea"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.txt", "txt"), ("a.CSV", "csv"), ("a.tsv", "tsv"), ("a.ndjson", "jsonl"), ("a", "txt")],
)
def test_the_name_tells_the_format(tmp_path: Path, name: str, kind: str) -> None:
    """As people name such files; without a suffix it is text."""
    (tmp_path / name).touch()
    with PromptFile(str(tmp_path / name)) as source:
        assert source.kind == kind


def test_the_examples_are_read_whole() -> None:
    """24 prompts of our own and the 1,632 of PartiPrompts."""
    examples = Path(__file__).parents[2] / "examples"
    for name, count in (("prompts.txt", 24), ("partiprompts.tsv", 1632)):
        with PromptFile(str(examples / name)) as source, (examples / name).open("rb") as file:
            assert source.count(None) == count
            found = list(entries(file, source.kind, name))
        assert len(found) == count
        assert all(entry.prompt and not entry.prompt.startswith('""') for entry in found)
        assert len({entry.prompt for entry in found}) >= count - 3  # PartiPrompts has a few twice
