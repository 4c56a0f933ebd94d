"""No control character of a server's reaches the terminal, and text is wrapped as it comes."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from trioprov.cli._text import Cleaner, clean
from trioprov.cli._wrap import Wrapper


def test_control_characters_are_written_out() -> None:
    assert clean("a\x1b[31mb\x9bc\x07\x08\x7f\rd\te\nf") == "a\\x1b[31mb\\x9bc\\x07\\x08\\x7f\\x0dd\te\nf"
    assert clean("\u202eabc \ud800") == "\\u202eabc \\ud800"
    assert clean("\u2067abc \u2069") == "\\u2067abc \\u2069"
    assert clean("👩‍🔬 שלום 漢字 e\u0301") == "👩‍🔬 שלום 漢字 e\u0301"


def test_a_line_end_cut_in_two_is_one_line_end() -> None:
    cleaner = Cleaner()
    assert [cleaner.feed(piece) for piece in ("a\r", "\nb\r", "c\r")] == ["a", "\nb", "\\x0dc"]
    assert cleaner.end() == "\\x0d"
    assert cleaner.end() == ""


def wrapped(text: str, width: int, size: int) -> list[str]:
    wrapper = Wrapper(width)
    for start in range(0, len(text), size):
        wrapper.feed(text[start : start + size])
    lines = wrapper.last(1000)
    assert wrapper.count == len(lines)
    return lines


TEXT = "The sky is blue   because\n\n  air scatters verylongwordsthatdonotfitanywhere 漢字漢字漢字漢字漢字 😊😊 end  "
JOINED = "☀️❤️❤️❤️❤️❤️❤️ cafe\u0301s👩‍🔬👩‍🔬👩‍🔬👩‍🔬🏳️‍🌈🏳️‍🌈🏳️‍🌈🏳️‍🌈 1️⃣2️⃣3️⃣4️⃣5️⃣ 🇩🇪🇫🇷 \u200d\ufe0f end"


@pytest.mark.parametrize(
    ("text", "width"), [*((TEXT, width) for width in (2, 3, 7, 12, 22, 80)), *((JOINED, width) for width in (4, 7, 12))]
)
def test_wrapping_does_not_depend_on_how_the_text_was_cut(text: str, width: int) -> None:
    whole = wrapped(text, width, len(text))
    assert all(cell_len(line.rstrip()) <= width for line in whole)
    assert "".join("".join(whole).split()) == "".join(text.split())
    for size in (1, 2, 5):
        assert wrapped(text, width, size) == whole


def test_words_are_kept_whole_and_wide_characters_count_twice() -> None:
    assert wrapped("one two three", 7, 1) == ["one two", "three"]
    assert wrapped("漢字漢字", 5, 1) == ["漢字", "漢字"]
    assert wrapped("    abcdef", 6, 1) == ["    ab", "cdef"]
    assert wrapped("cafe\u0301e\u0301", 4, 1) == ["cafe\u0301", "e\u0301"]
    assert len(wrapped("❤️" * 4, 4, 1)) == cell_len("❤️")  # rich before 14.3 says 1


def test_only_the_last_lines_of_a_very_long_answer_are_kept() -> None:
    wrapper = Wrapper(10)
    wrapper.feed("word " * 100_000)
    assert wrapper.count == 50_000
    assert wrapper.last(2) == ["word word", "word word "]
    assert wrapper.last(0) == []
